# SPDX-License-Identifier: Apache-2.0
"""Launch files: every executable, parameter and argument they name exists; under launch_ros they load in order.

The first half reads the files as text and runs everywhere. The second half needs `launch_ros`, which comes
with a ROS installation alone.
"""

import ast
import importlib
import re
import stat
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "launch").glob("*.launch.py"))

# What the README and docs promise that can be given, as `name:=value`.
PROMISED = {
    "policy.launch.py": {
        "contract", "checkpoint", "device", "task", "params_file", "autostart", "supervisor", "dry_run", "log_level",
    },
    "replay.launch.py": {"bag", "contract", "checkpoint", "out", "log_level"},
    "record.launch.py": {"out", "contract", "task", "seconds", "log_level"},
    "robot.launch.py": {"contract", "driver", "port", "calibration", "zero", "params_file", "log_level"},
    "sim.launch.py": {"contract", "checkpoint", "params_file", "seed", "log_level"},
}  # fmt: skip
OPTIONS = {
    "policy_node": "PolicyOptions",
    "supervisor_node": "SupervisorOptions",
    "replay_node": "ReplayOptions",
    "sim_node": "SimOptions",
    "so101_driver": "DriverOptions",
    "record_node": "RecordOptions",
    "incident_recorder": "IncidentOptions",
}


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def called(node: ast.AST) -> str:
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""


def nodes(file: Path) -> list[dict[str, ast.expr]]:
    """Keyword arguments of every launch_ros Node in a file."""
    return [
        {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        for call in ast.walk(tree(file))
        if isinstance(call, ast.Call) and called(call) in ("Node", "LifecycleNode")
    ]


def arguments(file: Path) -> dict[str, tuple[str, str]]:
    for statement in tree(file).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "ARGUMENTS":
            return ast.literal_eval(statement.value)
    raise AssertionError(f"{file.name} has no ARGUMENTS")


def parameters(keywords: dict[str, ast.expr]) -> set[str]:
    """Names of the parameters that a Node is given in the file itself."""
    found = keywords.get("parameters", ast.List(elts=[]))
    dicts = [entry for entry in ast.walk(found) if isinstance(entry, ast.Dict)]
    return {str(key.value) for entry in dicts for key in entry.keys if isinstance(key, ast.Constant)}


def executables() -> list[tuple[str, str, set[str]]]:
    return [
        (file.name, ast.literal_eval(keywords["executable"]), parameters(keywords))
        for file in FILES
        for keywords in nodes(file)
    ]


def test_the_three_launch_files_are_there() -> None:
    assert {file.name for file in FILES} == set(PROMISED)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_is_promised_can_be_given_and_is_described(file: Path) -> None:
    given = arguments(file)
    assert PROMISED[file.name] <= set(given)
    assert all(len(text) > 10 for _default, text in given.values())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_value_used_is_an_argument(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    used = set(re.findall(r'LaunchConfiguration\("(\w+)"\)', text)) | set(re.findall(r'given\["(\w+)"\]', text))
    assert used <= set(arguments(file))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_is_passed_to_an_included_file_is_one_of_its_arguments(file: Path) -> None:
    for call in ast.walk(tree(file)):
        if called(call) == "IncludeLaunchDescription":
            text = ast.unparse(call)
            included = ROOT / "launch" / re.findall(r"(\w+\.launch\.py)", text)[0]
            names = set(re.findall(r"'(\w+)'", text.split("launch_arguments=")[1]))
            assert names - {"true", "false"} <= set(arguments(included))


@pytest.mark.parametrize(("file", "executable", "_names"), executables())
def test_every_executable_is_installed_and_can_run(file: str, executable: str, _names: set[str]) -> None:
    script = ROOT / "scripts" / "nodes" / executable
    assert script.stat().st_mode & stat.S_IXUSR, f"{file} starts {executable}"
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env python3\n")
    assert f"scripts/nodes/{executable}" in (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert (ROOT / "sigma_ros" / "nodes" / f"{executable}.py").is_file()


@pytest.mark.parametrize(("file", "executable", "names"), executables())
def test_every_parameter_is_one_that_the_node_declares(file: str, executable: str, names: set[str]) -> None:
    from sigma_ros.nodes import node_options, options  # noqa: PLC0415

    declared = {spec.name for spec in options.specs(getattr(node_options, OPTIONS[executable]))}
    assert names <= declared, f"{file} gives {executable} unknown parameters"


def test_the_simulators_launch_gives_the_supervisor_the_settings_of_sigma_sim() -> None:
    """Both differ from a robot's in `start_ramp` alone: the policy begins from a rest pose."""
    from sigma_ros.control.limits import SupervisorLimits  # noqa: PLC0415
    from sigma_ros.sim.closed_loop import sim_limits  # noqa: PLC0415

    assert sim_limits() == SupervisorLimits(start_ramp=True)
    assert SupervisorLimits().start_ramp is False
    text = (ROOT / "launch" / "sim.launch.py").read_text(encoding="utf-8")
    assert '("start_ramp", "true")' in text
    [supervisor] = [
        names for file, node, names in executables() if (file, node) == ("policy.launch.py", "supervisor_node")
    ]
    assert supervisor == {"contract", "lockstep", "start_ramp"}
    assert arguments(ROOT / "launch" / "policy.launch.py")["start_ramp"][0] == "false"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_package_that_a_launch_file_imports_is_a_dependency(file: Path) -> None:
    manifest = (ROOT / "package.xml").read_text(encoding="utf-8")
    for statement in ast.walk(tree(file)):
        if isinstance(statement, ast.ImportFrom) and statement.module:
            package = statement.module.split(".")[0]
            if package.startswith("launch"):
                assert f"<exec_depend>{package}</exec_depend>" in manifest


def described(file: Path, **given: str) -> list[Any]:
    """Entities of a launch file, with what its functions start, in order."""
    launch_ros = pytest.importorskip("launch_ros.actions", reason="launch_ros comes with a ROS installation alone")
    launch = importlib.import_module("launch")
    sources = importlib.import_module("launch.launch_description_sources")
    context = launch.LaunchContext()
    description = sources.PythonLaunchDescriptionSource(str(file)).get_launch_description(context)
    for argument in description.get_launch_arguments():
        context.launch_configurations[argument.name] = given.get(argument.name) or "".join(
            part.perform(context) for part in argument.default_value or []
        )
    found: list[Any] = []
    for entity in description.entities:
        if isinstance(entity, launch.actions.OpaqueFunction):
            found += entity.execute(context) or []
        else:
            found.append(entity)
    assert launch_ros.Node
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_launch_files_load_under_launch_ros(file: Path) -> None:
    assert described(file, bag="bag", out="out")


def test_the_supervisor_starts_before_the_policy_and_its_end_ends_everything() -> None:
    entities = described(ROOT / "launch" / "policy.launch.py")
    actions = importlib.import_module("launch_ros.actions")
    started = [entity for entity in entities if isinstance(entity, actions.Node)]
    assert [node.node_executable for node in started] == ["incident_recorder", "supervisor_node"]
    handlers = [type(e.event_handler).__name__ for e in entities if type(e).__name__ == "RegisterEventHandler"]
    assert handlers == ["OnProcessStart", "OnProcessExit"]


def test_without_supervisor_only_the_policy_starts() -> None:
    entities = described(ROOT / "launch" / "policy.launch.py", supervisor="false")
    actions = importlib.import_module("launch_ros.actions")
    assert [e.node_executable for e in entities if isinstance(e, actions.Node)] == ["policy_node"]


def test_a_wrong_contract_stops_the_launch_before_any_process() -> None:
    pytest.importorskip("launch_ros.actions", reason="launch_ros comes with a ROS installation alone")
    from sigma_ros.errors import ContractError  # noqa: PLC0415

    with pytest.raises(ContractError, match="no such contract"):
        described(ROOT / "launch" / "policy.launch.py", contract="so102")
