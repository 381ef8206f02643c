# SPDX-License-Identifier: Apache-2.0
"""Launch files: every executable, parameter and argument they name exists; under launch_ros they load in order.

The first half reads the files as text and runs everywhere. The second half needs `launch_ros`, which comes
with a ROS installation alone.
"""

import ast
import importlib
import os
import re
import signal
import stat
import subprocess
import sys
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
    used = set(re.findall(r'(?:LaunchConfiguration|text)\("(\w+)"\)', text))
    used |= set(re.findall(r'given\["(\w+)"\]', text))
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
    from sigma_ros.control.limits import SupervisorLimits  # noqa: PLC0415
    from sigma_ros.sim.closed_loop import sim_limits  # noqa: PLC0415

    [given] = [
        ast.literal_eval(node.value)
        for node in tree(ROOT / "launch" / "policy.launch.py").body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SIMULATED"
    ]
    assert sim_limits() == SupervisorLimits(**given)
    assert '("simulated", "true")' in (ROOT / "launch" / "sim.launch.py").read_text(encoding="utf-8")
    assert arguments(ROOT / "launch" / "policy.launch.py")["simulated"][0] == "false"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_package_that_a_launch_file_imports_is_a_dependency(file: Path) -> None:
    manifest = (ROOT / "package.xml").read_text(encoding="utf-8")
    for statement in ast.walk(tree(file)):
        if isinstance(statement, ast.ImportFrom) and statement.module:
            package = statement.module.split(".")[0]
            if package.startswith("launch"):
                assert f"<exec_depend>{package}</exec_depend>" in manifest


def described(file: Path, context: Any = None, **given: str) -> list[Any]:
    """Entities of a launch file, with what its functions start, in order."""
    launch_ros = pytest.importorskip("launch_ros.actions", reason="launch_ros comes with a ROS installation alone")
    launch = importlib.import_module("launch")
    context = context or launch.LaunchContext()
    sources = importlib.import_module("launch.launch_description_sources")
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


def launch_context() -> Any:
    pytest.importorskip("launch_ros.actions", reason="launch_ros comes with a ROS installation alone")
    return importlib.import_module("launch").LaunchContext()


def set_parameters(node: Any, context: Any) -> dict[str, object]:
    """What a Node gives its process, by the rules of launch_ros; files are left out."""
    evaluate = importlib.import_module("launch_ros.utilities").evaluate_parameters
    found: dict[str, object] = {}
    for entry in evaluate(context, node._Node__parameters):
        found |= entry if isinstance(entry, dict) else {}
    return found


TEXTS = ("do: it", "2026", "true", "[a, b]", "{x", "")


@pytest.mark.parametrize("value", TEXTS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_text_stays_a_text_whatever_yaml_would_make_of_it(file: Path, value: str) -> None:
    """launch_ros reads an argument as YAML: `task:="pick: it"` was an error, `out:=2026` a number."""
    context = launch_context()
    texts = {"task", "out", "bag", "port", "calibration"} & set(arguments(file))
    entities = described(file, context, **({"bag": "b", "out": "o"} | dict.fromkeys(texts, value)))
    for name in texts:
        context.launch_configurations[name] = value  # also an empty one
    actions = importlib.import_module("launch_ros.actions")
    for node in [e for e in entities if isinstance(e, actions.Node)]:
        given = set_parameters(node, context)
        assert {name: given[name] for name in texts & set(given)} == dict.fromkeys(texts & set(given), value)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_value_that_is_none_of_the_choices_is_refused(file: Path) -> None:
    """`dry_run:=ture` was taken as false without a word."""
    context = launch_context()
    sources = importlib.import_module("launch.launch_description_sources")
    description = sources.PythonLaunchDescriptionSource(str(file)).get_launch_description(context)
    judged = {
        name
        for name, (default, _text) in arguments(file).items()
        if default in ("true", "false") or name in ("log_level", "setup", "zero")
    }
    own = [argument for argument in description.get_launch_arguments() if argument.name in judged]
    assert {argument.name for argument in own} == judged
    for argument in own:
        context.launch_configurations[argument.name] = "ture"
        with pytest.raises(RuntimeError, match="ture"):
            argument.execute(context)
        context.launch_configurations[argument.name] = argument.default_value[0].perform(context)
        argument.execute(context)


def test_a_parameter_file_that_is_not_there_stops_the_launch() -> None:
    """launch_ros only warns, and the arm would run without the limits that somebody asked for."""
    launch_context()
    from sigma_ros.errors import UsageError  # noqa: PLC0415

    policy = ROOT / "launch" / "policy.launch.py"
    with pytest.raises(UsageError, match="cautios"):
        described(policy, params_file="cautios")
    assert described(policy, params_file="cautious")
    assert described(policy, params_file=str(ROOT / "config" / "slow.yaml"))


def test_the_incident_recorder_can_be_left_out_in_a_word() -> None:
    """`ros2 launch` refuses `incidents:=` with nothing behind it."""
    actions = importlib.import_module("launch_ros.actions") if launch_context() else None
    entities = described(ROOT / "launch" / "policy.launch.py", incidents="none")
    assert [e.node_executable for e in entities if isinstance(e, actions.Node)] == ["supervisor_node"]


def test_what_failed_makes_the_launch_fail_and_what_was_stopped_does_not() -> None:
    context = launch_context()
    from sigma_ros.errors import SigmaError  # noqa: PLC0415
    from sigma_ros.nodes.launching import ends_all  # noqa: PLC0415

    exited = importlib.import_module("launch.events.process").ProcessExited

    def end(code: int) -> Any:
        event = exited(returncode=code, action=None, name="", cmd=[], cwd=None, env=None, pid=1)
        return ends_all("the replay")(event, context)

    assert end(0).event.reason == "the replay ended"
    with pytest.raises(SigmaError, match="the replay did not end well; got: exit code 3"):
        end(3)
    context._set_is_shutdown(True)
    assert end(130).event.reason == "the replay ended"


@pytest.mark.parametrize(("name", "own"), [("sim", "sim_node"), ("robot", "so101_driver")])
def test_the_arms_process_comes_after_the_check_of_the_others_and_its_end_ends_everything(name: str, own: str) -> None:
    entities = described(ROOT / "launch" / f"{name}.launch.py")
    kinds = [type(entity).__name__ for entity in entities if type(entity).__name__ != "DeclareLaunchArgument"]
    assert kinds == ["IncludeLaunchDescription", "RegisterEventHandler", "Node"]
    assert entities[-1].node_executable == own


@pytest.mark.slow
@pytest.mark.ros
@pytest.mark.parametrize("whom", ["group", "launch"])
def test_ctrl_c_without_a_terminal_ends_the_supervisor_by_its_last_words(whom: str) -> None:
    """Without a terminal launch sends its nodes a SIGINT of its own: they got two, and the second killed them."""
    launch_context()
    code = (
        "import sys, launch, launch.launch_description_sources as sources\n"
        "service = launch.LaunchService(noninteractive=True)\n"
        "source = sources.PythonLaunchDescriptionSource(sys.argv[1])\n"
        "given = [('policy', 'false'), ('incidents', 'none')]\n"
        "include = launch.actions.IncludeLaunchDescription(source, launch_arguments=given)\n"
        "service.include_launch_description(launch.LaunchDescription([include]))\n"
        "sys.exit(service.run())\n"
    )
    command = [sys.executable, "-c", code, str(ROOT / "launch" / "policy.launch.py")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "DISENGAGED" in line:
                break
        (os.killpg if whom == "group" else os.kill)(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0
    assert "process has finished cleanly" in output
    assert "has died" not in output
