# SPDX-License-Identifier: Apache-2.0
"""What the installed executables do before any other import: say in one sentence which packages are missing.

The standard library alone. A workspace can be sourced in a terminal whose Python has none of them.
"""

import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from sigma_ros.stopping import ctrl_c_ends_at_once

OLDEST_PYTHON = (3, 12)
MISSING = 1

IMPORTS = {
    "core": (
        "aiohttp", "apsw", "av", "backports.zstd", "click", "fsspec", "jaxtyping", "jinja2", "lz4", "markupsafe",
        "mcap", "numpy", "cv2", "plotly", "pyarrow", "yaml", "rich", "rosbags.image", "rosbags", "scipy", "tqdm",
        "typer",
    ),
    "model": (
        "accelerate", "av", "draccus", "httpx", "huggingface_hub", "lerobot", "pandas", "peft", "safetensors",
        "tokenizers", "torch", "transformers",
    ),
    "sim": ("mujoco", "PIL", "gymnasium"),
}  # fmt: skip
"""What the requirements of a group (`requirements/GROUP.in`) are called in Python, in the same order."""

_TRAINING = ("sigma_ros.training", "training")
"""The training package is installed under the first name; a checkout has the second."""

NEEDED = {"policy_node": ("core", "model"), "sim_node": ("core", "sim")}
"""Groups by executable; the others need the core alone (the driver says itself what the arm's bus needs)."""


def start(module: str) -> int:
    """Runs `main` of a module; returns the exit code.

    Args:
        module: Full name, such as `sigma_ros.nodes.policy_node`.
    """
    ctrl_c_ends_at_once()  # while libraries load
    name = module.rpartition(".")[2]
    said = wrong_python() or missing(NEEDED.get(name, ("core",)))
    if said:
        sys.stderr.write(f"error: {name} cannot start: {said}\n")
        return MISSING
    return import_module(module).main() or 0


def wrong_python() -> str:
    """One sentence if this Python is too old; else nothing."""
    if sys.version_info >= OLDEST_PYTHON:
        return ""
    found = ".".join(str(part) for part in sys.version_info[:3])
    return f"{sys.executable} is Python {found}, and 3.12 or newer is needed (ROS 2 Jazzy or newer)"


def missing(groups: tuple[str, ...]) -> str:
    """One sentence that names the packages which are not installed, the Python that lacks them and the remedy."""
    lacking = {group: names for group in groups if (names := tuple(_absent(IMPORTS[group])))}
    if not lacking:
        return ""
    files = " ".join(f"-r requirements/{group}.in" for group in lacking)
    return (
        f"{sys.executable} lacks the packages {', '.join(name for names in lacking.values() for name in names)}; "
        "activate the environment that has them and run colcon build in it again, or in the folder of sigma_ros: "
        f"{sys.executable} -m pip install {files} -c requirements/lock.txt"
    )


def _absent(names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        try:
            found = find_spec(name) is not None
        except ModuleNotFoundError:  # the package that it would be in
            found = False
        if not found:
            yield name


def training_package() -> ModuleType:
    """The training package, which no module of this one imports by name.

    Raises:
        ModuleNotFoundError: it is neither installed nor beside this package.
    """
    for name in _TRAINING:
        if find_spec(name) is not None:
            return import_module(name)
    raise ModuleNotFoundError(f"No module named {_TRAINING[0]!r}", name=_TRAINING[0])
