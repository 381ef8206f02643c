# SPDX-License-Identifier: Apache-2.0
"""Loads launch files as `ros2 launch` does: in an interpreter that has none of the packages that pip installs.

Where `launch` is not installed (it comes with a ROS installation alone), stand-ins take its place, which let a file
be loaded and nothing more: every name in them is a class that takes any arguments.
"""

import functools
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
HAS_LAUNCH = importlib.util.find_spec("launch_ros") is not None
STAND_INS = (
    "launch", "launch.actions", "launch.conditions", "launch.event_handlers", "launch.events", "launch.events.process",
    "launch.launch_context", "launch.launch_description_entity", "launch.substitutions",
    "launch_ros", "launch_ros.actions", "launch_ros.utilities",
)  # fmt: skip
STAND_IN = """
class _StandIn:
    def __init__(self, *arguments, **keywords):
        self.arguments, self.keywords = arguments, keywords


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (_StandIn,), {})
"""
# What a distribution's Python has where launch runs: itself, its dependencies, and the messages that launch_ros takes.
BESIDE_LAUNCH = (
    "launch", "launch_ros", "yaml", "ament_index_python", "osrf_pycommon", "lark", "importlib_metadata", "packaging",
    "rclpy", "rpyutils", "rosidl_parser", "rosidl_pycommon", "numpy", "ros_wheels_bootstrapper", "typing_extensions",
)  # fmt: skip
LOAD = """
import importlib.util, json, sys
paths, allowed, file, stand_ins, given = json.loads(sys.argv[1])
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        own = top.endswith(("_msgs", "_interfaces")) or top.lstrip("_") in sys.stdlib_module_names
        if top not in allowed and top not in sys.stdlib_module_names and not own:
            raise ModuleNotFoundError(f"No module named {name!r} beside launch", name=name)
sys.meta_path.insert(0, Refuse())
sys.path += paths
spec = importlib.util.spec_from_file_location("launch_file", file)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert module.generate_launch_description() is not None
started = []
if stand_ins:
    first = {name: "x" if entry[0] is None else entry[0] for name, entry in module.ARGUMENTS.items()}
    module.values = lambda _context, _arguments: first | given
    started = [entity.keywords for entity in module.start(None) if type(entity).__name__ == "Node"]
print(json.dumps({"arguments": module.ARGUMENTS, "started": started}, default=str))
"""


@functools.cache
def arguments(file: Path) -> dict[str, tuple[str | None, str]]:
    """The arguments of a launch file by name (default, description), from loading it there."""
    return {name: tuple(entry) for name, entry in load(file)["arguments"].items()}


def started(file: Path, **given: str) -> list[dict[str, Any]]:
    """The keywords of the Nodes that a launch file starts by its defaults or what is given, by way of the stand-ins."""
    return list(load(file, stand_ins=True, **given)["started"])


def load(file: Path, *, stand_ins: bool = not HAS_LAUNCH, **given: str) -> Any:
    """What a bare interpreter tells of a launch file.

    Raises:
        AssertionError: it does not load.
    """
    with TemporaryDirectory() as folder:
        paths: list[str] = [str(ROOT)]
        if stand_ins:
            paths += [folder, str(Path(str(yaml.__file__)).parent.parent)]
            write_stand_ins(Path(folder))
        else:
            paths += [path for path in sys.path if Path(path).is_dir() and path not in ("", str(ROOT / "test"))]
        told = json.dumps([paths, [*BESIDE_LAUNCH, "sigma_ros"], str(file), stand_ins, given])
        command = [sys.executable, "-I", "-S", "-c", LOAD, told]
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def write_stand_ins(folder: Path) -> None:
    """Packages by the names of launch's."""
    for name in STAND_INS:
        package = folder.joinpath(*name.split("."))
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(STAND_IN, encoding="utf-8")
