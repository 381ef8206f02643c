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
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from launch_loading import arguments, load, started

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "launch").glob("*.launch.py"))

# What the README and docs promise that can be given, as `name:=value`.
PROMISED = {
    "policy.launch.py": {
        "contract", "checkpoint", "device", "task", "params_file", "autostart", "supervisor", "dry_run", "log_level",
        "namespace",
    },
    "replay.launch.py": {"bag", "contract", "checkpoint", "out", "namespace", "log_level"},
    "record.launch.py": {"out", "contract", "task", "seconds", "namespace", "log_level"},
    "robot.launch.py": {"contract", "driver", "port", "calibration", "zero", "params_file", "namespace"},
    "bringup.launch.py": {
        "contract", "checkpoint", "stage", "evidence", "evidence_days", "waive", "cameras", "camera_devices", "driver",
        "port", "calibration", "urdf", "controllers", "rviz", "task", "params_file", "namespace",
    },
    "sim.launch.py": {"contract", "checkpoint", "params_file", "seed", "namespace"},
}  # fmt: skip
EXECUTABLES = [
    "policy_node",
    "supervisor_node",
    "replay_node",
    "sim_node",
    "so101_driver",
    "record_node",
    "incident_recorder",
    "run_policy_node",
    "stage_node",
]


ALLOWED = {"launch", "launch_ros", "yaml", *sys.stdlib_module_names}


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def called(node: ast.AST) -> str:
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""


def test_every_launch_file_is_told_of_here() -> None:
    assert {file.name for file in FILES} == set(PROMISED)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_launch_file_loads_where_nothing_but_launch_and_yaml_is_installed(file: Path) -> None:
    """`ros2` runs under the distribution's Python, which has none of the packages that pip installs."""
    assert arguments(file)


def test_the_bare_interpreter_refuses_what_a_distribution_lacks(tmp_path: Path) -> None:
    for line in (
        "import jaxtyping",
        "from sigma_ros.contract_file import load_contract",
        "import rich",
        "import torch",
    ):
        file = tmp_path / "needy.launch.py"
        file.write_text(f"{line}\n", encoding="utf-8")
        with pytest.raises(AssertionError, match="No module named"):
            load(file)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_launch_files_import_the_standard_library_launch_and_yaml_alone(file: Path) -> None:
    """Also by way of our own modules, wherever in them the import stands."""
    foreign = {
        f"{source.name} imports {name}"
        for source in (file, *reached(file))
        for name in imported(source)
        if not name.startswith("sigma_ros") and name.split(".")[0] not in ALLOWED
    }
    assert not foreign


def imported(file: Path) -> set[str]:
    """Absolute names of modules, and of what is taken from them."""
    names: set[str] = set()
    lazy = (
        file == ROOT / "sigma_ros" / "__init__.py"
    )  # its `__getattr__` imports what is asked for, and nobody asks here
    for statement in tree(file).body if lazy else ast.walk(tree(file)):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{file.name}: say the whole name"
            names |= {str(statement.module), *(f"{statement.module}.{alias.name}" for alias in statement.names)}
    return names


def reached(file: Path) -> set[Path]:
    """Modules of this package that a file imports, and what those import."""
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        for name in imported(waiting.pop()):
            parts = name.split(".")
            places = [ROOT.joinpath(*parts[: i + 1], "__init__.py") for i in range(len(parts))]
            places.append(ROOT.joinpath(*parts).with_suffix(".py"))
            new = {place for place in places if parts[0] == "sigma_ros" and place.is_file()} - found
            found |= new
            waiting += new
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_is_promised_can_be_given_and_is_described(file: Path) -> None:
    given = arguments(file)
    assert PROMISED[file.name] <= set(given)
    assert all(len(text) > 10 for _default, text in given.values())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_value_used_is_an_argument(file: Path) -> None:
    used = set(re.findall(r'given\["(\w+)"\]|number\(given, "(\w+)"', file.read_text(encoding="utf-8")))
    assert {name for pair in used for name in pair if name} <= set(arguments(file))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_launch_file_hands_its_arguments_over_by_including_another(file: Path) -> None:
    """Included, `simulated:=true` given to robot.launch.py loosened the supervisor of a real arm."""
    text = file.read_text(encoding="utf-8") + (ROOT / "sigma_ros/nodes/launch/policy.py").read_text(encoding="utf-8")
    assert "IncludeLaunchDescription" not in text
    assert not {"simulated", "lockstep"} & set(arguments(file))


def executables() -> set[str]:
    sources = [*FILES, *(ROOT / "sigma_ros" / "nodes" / "launch").glob("*.py")]
    return {
        ast.literal_eval(call.args[0])
        for source in sources
        for call in ast.walk(tree(source))
        if isinstance(call, ast.Call) and called(call) == "sigma_node"
    }


def test_every_executable_is_named() -> None:
    assert executables() == set(EXECUTABLES)


@pytest.mark.parametrize("executable", EXECUTABLES)
def test_every_executable_is_installed_and_can_run(executable: str) -> None:
    assert executable in re.findall(r"\w+", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))
    assert (ROOT / "sigma_ros" / "nodes" / f"{executable}.py").is_file()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_parameter_is_one_that_the_node_declares(file: Path) -> None:
    from sigma_ros.nodes.shared.node_options import NODES  # noqa: PLC0415
    from sigma_ros.nodes.shared.parameters import specs  # noqa: PLC0415

    nodes = started(file)
    assert nodes
    for node in nodes:
        declared = {spec.name for spec in specs(NODES[node["executable"]])}
        assert set(node["parameters"][0]) <= declared, f"{node['executable']} is given unknown parameters"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_node_of_a_launch_goes_into_its_namespace(file: Path) -> None:
    assert {node["namespace"] for node in started(file, namespace="arm1")} == {"arm1"}
    assert {node["namespace"] for node in started(file)} == {None}


def test_a_preset_reaches_each_node_by_its_own_file() -> None:
    nodes = started(ROOT / "launch" / "policy.launch.py", params_file="cautious", namespace="arm1")
    files = {node["name"]: [Path(file).name for file in node["parameters"][1:]] for node in nodes}
    assert files == {"sigma_supervisor": ["cautious_supervisor.yaml"], "sigma_incidents": [], "sigma_run": []}


@pytest.mark.parametrize("contract", ["so101_bimanual", "so101_split", "so101_actions"])
def test_law_a_dry_run_leads_the_commands_of_every_part_away_from_the_robot(contract: str) -> None:
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415

    nodes = started(ROOT / "launch" / "policy.launch.py", dry_run="true", contract=contract)
    [supervisor] = [node for node in nodes if node["name"] == "sigma_supervisor"]
    led = dict(supervisor["remappings"])
    assert {f"/{source}" for source in led} == {part.topic for part in load_contract(contract).commands}
    assert len(set(led.values())) == 2
    assert all(target.startswith("sigma/dry_run") for target in led.values())


def test_the_simulators_launch_gives_the_supervisor_the_settings_of_sigma_sim() -> None:
    from sigma_ros.sim.closed_loop import sim_limits  # noqa: PLC0415
    from sigma_ros.supervisor.limits import SupervisorLimits  # noqa: PLC0415

    [given] = [
        ast.literal_eval(node.value)
        for node in tree(ROOT / "sigma_ros" / "nodes" / "launch" / "policy.py").body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SIMULATED"
    ]
    assert sim_limits() == SupervisorLimits(**given)
    asking = [file.name for file in FILES if "simulated=True" in file.read_text(encoding="utf-8")]
    assert asking == ["sim.launch.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_package_that_a_launch_file_imports_is_a_dependency(file: Path) -> None:
    manifest = (ROOT / "package.xml").read_text(encoding="utf-8")
    for source in (file, *reached(file)):
        for package in {name.split(".")[0] for name in imported(source)}:
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
        default = "".join(part.perform(context) for part in argument.default_value or [])
        context.launch_configurations[argument.name] = given.get(argument.name, default)
    found: list[Any] = []
    for entity in description.entities:
        if isinstance(entity, launch.actions.OpaqueFunction):
            found += entity.execute(context) or []
        else:
            found.append(entity)
    assert launch_ros.Node
    return found


def test_the_supervisor_starts_before_the_policy_and_its_end_ends_everything() -> None:
    entities = described(ROOT / "launch" / "policy.launch.py")
    actions = importlib.import_module("launch_ros.actions")
    started = [entity for entity in entities if isinstance(entity, actions.Node)]
    assert [node.node_executable for node in started] == ["incident_recorder", "run_policy_node", "supervisor_node"]
    handlers = [type(e.event_handler).__name__ for e in entities if type(e).__name__ == "RegisterEventHandler"]
    assert handlers == ["OnProcessStart", "OnProcessExit", "OnProcessExit"]


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
        if default in ("true", "false") or name in ("log_level", "setup", "zero", "stage", "cameras")
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
    assert described(policy, params_file=str(ROOT / "config" / "slow_supervisor.yaml"))


def test_a_parameter_file_of_which_nothing_fits_stops_the_launch(tmp_path: Path) -> None:
    """Under a namespace a section `/sigma_supervisor` had no effect, and nobody said so: full speed on a new arm."""
    launch_context()
    from sigma_ros.errors import UsageError  # noqa: PLC0415

    file = tmp_path / "mine.yaml"
    file.write_text("/sigma_supervisor:\n  ros__parameters: {velocity_scale: 0.5}\n", encoding="utf-8")
    policy = ROOT / "launch" / "policy.launch.py"
    assert described(policy, params_file=str(file))
    with pytest.raises(UsageError, match=r"expected: /arm1/sigma_supervisor; got: /sigma_supervisor; .*/\*\*/sigma_s"):
        described(policy, params_file=str(file), namespace="arm1")
    with pytest.raises(UsageError, match="expected: /sigma_policy"):
        described(policy, params_file=str(file), supervisor="false")


def test_the_incident_recorder_can_be_left_out_in_a_word() -> None:
    """`ros2 launch` refuses `incidents:=` with nothing behind it."""
    actions = importlib.import_module("launch_ros.actions") if launch_context() else None
    entities = described(ROOT / "launch" / "policy.launch.py", incidents="none")
    assert [e.node_executable for e in entities if isinstance(e, actions.Node)] == [
        "run_policy_node",
        "supervisor_node",
    ]


def test_what_failed_makes_the_launch_fail_and_what_was_stopped_does_not() -> None:
    context = launch_context()
    from sigma_ros.errors import SigmaError  # noqa: PLC0415
    from sigma_ros.nodes.launch.arguments import ends_all  # noqa: PLC0415

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
    assert kinds[-3:] == ["Node", "RegisterEventHandler", "Node"]
    assert [e.node_executable for e in entities if type(e).__name__ == "Node"][-2:] == ["supervisor_node", own]


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
