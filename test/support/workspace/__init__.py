# SPDX-License-Identifier: Apache-2.0
"""Builds with CMake and ament as colcon does, and `control_msgs` where no distribution has installed it."""

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PREFIXES = (sys.prefix, "/usr", *os.environ.get("AMENT_PREFIX_PATH", "").split(":"))
HAS_AMENT = any((Path(prefix) / "share" / "ament_cmake_core").is_dir() for prefix in PREFIXES)
can_configure = pytest.mark.skipif(not HAS_AMENT or shutil.which("cmake") is None, reason="needs cmake and ament")
CONTROL = Path(__file__).parent / "control_actions"


def cmake(*arguments: str) -> None:
    """Runs CMake in the environment of a build.

    Raises:
        AssertionError: it fails.
    """
    environment = dict(os.environ)
    if "ROS_DISTRO" not in os.environ:
        environment |= {"AMENT_PREFIX_PATH": sys.prefix, "CMAKE_PREFIX_PATH": sys.prefix}
    environment["PATH"] = f"{sys.prefix}/bin:{environment['PATH']}"
    result = subprocess.run(["cmake", *arguments], capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr


def with_control_msgs() -> None:
    """Makes `control_msgs.action` importable: the distribution's, or ours, built once (half a minute of one core)."""
    if importlib.util.find_spec("control_msgs") is not None:
        return
    if not HAS_AMENT or shutil.which("cmake") is None:
        pytest.skip("neither control_msgs nor what builds it is installed")
    files = sorted(file for file in CONTROL.rglob("*") if file.is_file())
    told = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    prefix = ROOT / ".ros" / f"control_msgs_{told}_{sys.version_info.minor}"
    if not prefix.is_dir():
        _build(prefix)
    _use(prefix)


def _build(prefix: Path) -> None:
    """Whole or not at all: another process may build it too."""
    own = prefix.with_name(f"{prefix.name}.{os.getpid()}")
    build, install = own / "build", own / "install"
    cmake("-S", str(CONTROL), "-B", str(build), f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF",
          "-DCMAKE_BUILD_TYPE=Debug", f"-DCMAKE_INSTALL_PREFIX={install}")  # fmt: skip
    cmake("--build", str(build), "--parallel", "2")
    cmake("--install", str(build))
    try:
        install.rename(prefix)
    except OSError:
        assert prefix.is_dir()
    shutil.rmtree(own)


def _use(prefix: Path) -> None:
    """As a sourced workspace, for a process that runs already: the loader has read its paths, so load by hand."""
    os.environ["LD_LIBRARY_PATH"] = f"{prefix}/lib:{os.environ.get('LD_LIBRARY_PATH', '')}"
    os.environ["AMENT_PREFIX_PATH"] = f"{prefix}:{os.environ.get('AMENT_PREFIX_PATH', '')}"
    sys.path += [str(path) for path in (prefix / "lib").glob("python*/site-packages")]
    for kind in ("generator_c", "typesupport_fastrtps_cpp", "typesupport_fastrtps_c", "typesupport_introspection_c",
                 "typesupport_c", "generator_py"):  # fmt: skip
        library = prefix / "lib" / f"libcontrol_msgs__rosidl_{kind}.so"
        if library.exists():
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
