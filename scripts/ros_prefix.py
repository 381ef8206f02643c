# SPDX-License-Identifier: Apache-2.0
"""Turns a virtual environment with the ROS wheels of PyPI into a prefix that CMake can build against.

Three gaps are closed, each without effect the second time:

1. `ament_cmake`'s Python modules come from Debian and are linked into the environment.
2. `ament_cmake_ros_core` is in no registry: a stand-in config is written.
3. The exported CMake targets name the include folders of the machine that built the wheels
   (`/opt/python/...`): they are rewritten to this environment's Python and numpy.

Run with the environment's own interpreter: `.venv/bin/python scripts/ros_prefix.py`.
"""

import os
import re
import sys
import sysconfig
from pathlib import Path

import numpy as np

PREFIX = Path(sys.prefix)
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
DEBIAN_PYTHON = Path("/usr/lib/python3/dist-packages")
AMENT_MODULES = ("ament_package", "ament_cmake_test")
STAND_IN = """\
# Stand-in for a package that the ROS wheels lack: shared libraries, which the middleware loads by name.
find_package(ament_cmake REQUIRED)
option(BUILD_SHARED_LIBS "Build shared libraries" ON)
"""
BUILDER_NUMPY = re.compile(r"/opt/python/[^;\"]*?/site-packages/numpy/_?core/include")
BUILDER_PYTHON = re.compile(r"/opt/python/[^;\"]*?/include/python3\.\d+")


def main() -> None:
    """Closes the three gaps, or says in one sentence what is missing."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        sys.exit(f"error: {header} is missing: install the package python3.12-dev")
    link_ament_modules()
    write_if_changed(PREFIX / "share/ament_cmake_ros_core/cmake/ament_cmake_ros_coreConfig.cmake", STAND_IN)
    for export in (PREFIX / "share").glob("*/cmake/*Export.cmake"):
        write_if_changed(export, relocated(export.read_text(encoding="utf-8")))


def link_ament_modules() -> None:
    """Links ament's Python modules; the rest of Debian's dist-packages must stay out of sight."""
    for name in AMENT_MODULES:
        source, link = DEBIAN_PYTHON / name, SITE_PACKAGES / name
        if not source.is_dir():
            sys.exit(f"error: {source} is missing: install the package ament-cmake")
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(source)


def relocated(text: str) -> str:
    """CMake text with the include folders of this environment."""
    text = BUILDER_NUMPY.sub(np.get_include(), text)
    return BUILDER_PYTHON.sub(sysconfig.get_path("include"), text)


def write_if_changed(path: Path, text: str) -> None:
    """Replaces the file as a whole: installers hard-link from a cache that must not change."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
