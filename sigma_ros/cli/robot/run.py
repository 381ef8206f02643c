# SPDX-License-Identifier: Apache-2.0
"""`sigma run`: driver or simulator, cameras, policy, supervisor and recorders at one command; ENTER lets the arm move.

Each is a process of its own, with the rules of `cli.processes`. The supervisor is the same as everywhere: this command
sends it orders and has no other way to move or to stop anything.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.live import Live

from sigma_ros.cli.options import (
    MODEL,
    SETUP,
    ContractName,
    Engine,
    GroupedCommand,
    NoBrowser,
    Setup,
    command_of,
    option,
    switch,
    verb,
)
from sigma_ros.cli.processes import Children, check_installed, children, failure, node_command, node_environment
from sigma_ros.cli.robot.console import HELP, keys, line
from sigma_ros.errors import SigmaError, UsageError
from sigma_ros.supervisor.reasons import State

if TYPE_CHECKING:
    from sigma_ros.contract import Contract
    from sigma_ros.nodes.shared.listen import MonitorView
    from sigma_ros.nodes.shared.operator import Operator

app = verb(no_args_is_help=True)

OPTIONAL = ("incidents", "recorder", "panel")
"""Processes whose end is told and changes nothing else."""
_SPIN_S, _DRAW_S = 0.02, 0.2
_REST_S = 3.0
ROBOT, PROCESSES = "Robot", "Processes"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmOptions:
    """Starts everything that moves an arm, simulated or real. Nothing moves before ENTER; SPACE stops.

    Processes and topics are those of the launch files, so `sigma monitor`, `sigma engage` and any ROS tool work
    beside it, in the same ROS_DOMAIN_ID. Example: sigma run --sim
    """

    sim: bool = switch("The simulated arm.", ROBOT)
    no_ros: bool = switch("With --sim: all in this process, no middleware.", ROBOT)
    port: str | None = option("Bus of a real SO-101.", ROBOT, default=None, metavar="DEVICE")
    calibration: Path | None = option(
        "Of lerobot-calibrate; where LeRobot has one follower's alone, that is taken.",
        ROBOT,
        default=None,
        metavar="FILE",
    )
    cameras: str = option(
        "up=0,side=2: V4L2 device of each of the contract's cameras.", ROBOT, default="", metavar="NAME=DEVICE,..."
    )
    contract: ContractName = "so101"
    setup: Setup = SETUP
    seed: int = option("With --sim: where the brick lies.", default=0, min=0, metavar="N")
    checkpoint: str = option("`mini`, a Sigma folder or a base.", MODEL, default="mini", metavar="PLACE")
    device: str = option("Torch device, or auto.", MODEL, default="auto", metavar="NAME")
    engine: Engine = "plain"
    allow_untrained: bool = switch("Accept random weights.", MODEL)
    task: str = option("What to do; the contract's first if empty.", default="", metavar="TEXT")
    preset: Literal["cautious", "research", "slow"] | None = option(
        "Settings of supervisor and policy that ship.", default=None, show_default="none"
    )
    recordings: Path = option(
        "Episodes that the panel or the recorder's services begin go here.",
        PROCESSES,
        default=Path("recordings"),
        metavar="DIR",
    )
    incidents: Path = option("Bags of each stop go here.", PROCESSES, default=Path("incidents"), metavar="DIR")
    log: Path = option("What each process says.", PROCESSES, default=Path("out/run"), metavar="DIR")
    panel: bool = switch("Also open the page of sigma panel.", PROCESSES)
    no_browser: NoBrowser = False


def run(options: ArmOptions) -> int:
    """Starts, watches and ends everything; gives the exit code.

    Raises:
        UsageError: the options contradict each other.
        SigmaError: a process that is needed ended; its last words are in the error.
    """
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415 - help stays fast

    contract = load_contract(options.contract)
    contract.require_whole("sigma run")
    if options.sim == (options.port is not None):
        raise UsageError("say which arm is to run", expected="--sim or --port DEVICE")
    if options.no_ros:
        return _run_without_ros(options, contract)
    check_installed("rclpy", "sigma_ros.msg", *(["mujoco"] if options.sim else ["scservo_sdk"]))
    commands = dict(planned(options, contract))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    environment = node_environment(os.environ.get("ROS_DOMAIN_ID", "0"))
    with keys(needed=not options.panel) as typed, children(options.log) as group:
        for name, command in commands.items():
            group.start(name, command, environment)
        _Console(typed, group, options).run()
    return 0


def _run_without_ros(options: ArmOptions, contract: "Contract") -> int:
    if not options.sim or options.panel:
        raise UsageError("without ROS there is the simulated arm alone", expected="--sim, and no --panel")
    from sigma_ros.cli.robot.in_process import drive  # noqa: PLC0415 - torch and mujoco: seconds

    with keys(needed=True) as typed:
        return drive(options, contract, typed)


# Which processes there are, and how each is called.


def planned(options: ArmOptions, contract: "Contract") -> Iterator[tuple[str, list[str]]]:
    """Name and command of each process, in the order in which they start.

    Raises:
        UsageError: cameras or calibration do not fit.
    """
    from sigma_ros.nodes.shared.parameter_files import camera_devices  # noqa: PLC0415 - help stays fast

    common: dict[str, object] = {"contract": options.contract}
    policy = {"checkpoint": options.checkpoint, "device": options.device, "engine": options.engine}
    policy["task"] = options.task
    yield "supervisor", _command("supervisor", common | (simulated_limits() if options.sim else {}), options.preset)
    if options.sim:
        yield "simulator", node_command("sim_node", common | {"setup": options.setup, "seed": options.seed})
    else:
        arm = {"port": options.port, "calibration": _calibration(options.calibration)}
        devices = camera_devices(options.cameras, [camera.name for camera in contract.cameras], where="--cameras")
        yield "driver", node_command("so101_driver", common | arm)
        for camera, device in devices.items():
            named = ("-r", f"__node:=sigma_camera_{camera}")
            yield f"camera-{camera}", node_command("camera_node", common | {"camera": camera, "device": device}, *named)
    yield (
        "policy",
        _command("policy", common | policy | {"allow_untrained": options.allow_untrained}, options.preset),
    )
    yield "incidents", node_command("incident_recorder", common | {"folder": options.incidents})
    recorder = {"out": options.recordings, "task": options.task, "episodes": True}
    yield "recorder", node_command("record_node", common | recorder)
    if options.panel:
        yield "panel", node_command("panel.node", common | {"browser": not options.no_browser})


def _command(kind: str, parameters: Mapping[str, object], preset: str | None) -> list[str]:
    from sigma_ros.nodes.shared.parameter_files import preset_file  # noqa: PLC0415 - help stays fast

    file = preset_file(preset, kind) if preset else None
    return node_command(f"{kind}_node", parameters, *(("--params-file", str(file)) if file else ()))


def simulated_limits() -> dict[str, object]:
    """The parameters in which the supervisor of a simulated arm differs from a robot's: those of `sigma sim`."""
    from sigma_ros.sim.closed_loop import sim_limits  # noqa: PLC0415 - mujoco: a second
    from sigma_ros.supervisor.limits import SupervisorLimits  # noqa: PLC0415

    robot, sim = SupervisorLimits(), sim_limits()
    names = (entry.name for entry in fields(SupervisorLimits))
    return {name: getattr(sim, name) for name in names if getattr(sim, name) != getattr(robot, name)}


def _calibration(given: Path | None) -> Path:
    if given is not None:
        return given
    home = Path(os.environ.get("HF_LEROBOT_HOME", "~/.cache/huggingface/lerobot")).expanduser()
    found = sorted((home / "calibration" / "robots").glob("so*_follower/*.json"))
    if len(found) != 1:
        raise UsageError(
            "say which calibration is this arm's",
            where=home / "calibration" / "robots",
            expected="--calibration FILE, or one follower's file there",
            got=", ".join(file.stem for file in found) or "none",
            remedy="run lerobot-calibrate first, if you never have",
        )
    return found[0]


# The line and the keys, while the processes run.


class _Console:
    def __init__(self, typed: Callable[[], list[str]], group: Children, options: ArmOptions) -> None:
        self._typed = typed
        self._group = group
        self._options = options
        self._said = ""
        self._pending: Any = None
        self._gone: tuple[str, ...] = ()

    def run(self) -> None:
        """Until q, Ctrl-C, or the end of a process that is needed; the arm is released in every case."""
        from sigma_ros.nodes.shared.listen import Monitor, listening  # noqa: PLC0415 - rclpy loads when it is used
        from sigma_ros.nodes.shared.operator import Operator  # noqa: PLC0415

        console = Console(highlight=False, markup=False)
        self._greet(console)
        with listening("sigma_console") as (node, spin):
            seen, operator = Monitor(node).seen, Operator(node)
            try:
                with Live(console=console, auto_refresh=False, transient=True) as live:
                    self._watch(spin, seen, operator, live)
            finally:
                _release(operator, seen, spin)

    def _greet(self, console: Console) -> None:
        from sigma_ros.nodes.shared.node_options import PanelOptions  # noqa: PLC0415 - rclpy loads when it is used

        arm = "the simulated arm" if self._options.sim else f"the arm at {self._options.port}"
        console.print(f"starting {arm} with {self._options.checkpoint}; logs are in {self._options.log}")
        if self._options.panel:
            console.print(f"panel: http://{PanelOptions().host}:{PanelOptions().port}/")
        console.print(HELP, style="bold")

    def _watch(self, spin: Callable[[float], None], seen: "MonitorView", operator: "Operator", live: Live) -> None:
        draw_s = 0.0
        while True:
            spin(_SPIN_S)
            for order in self._typed():
                if order == "quit":
                    return
                self._ask(operator, order)
            self._hear()
            if time.monotonic() >= draw_s:
                draw_s = time.monotonic() + _DRAW_S
                self._look_after(operator)
                live.update(self._line(seen), refresh=True)

    def _ask(self, operator: "Operator", order: str) -> None:
        try:
            self._pending, self._said = operator.order(order), f"{order} ..."
        except SigmaError as error:
            self._said = f"{order}: {error.what}; wait until everything has started"

    def _hear(self) -> None:
        from sigma_ros.nodes.shared.operator import outcome  # noqa: PLC0415

        if self._pending is not None and self._pending.done():
            done, said = outcome(self._pending.result())
            self._said, self._pending = "" if done else f"refused: {said}", None

    def _look_after(self, operator: "Operator") -> None:
        ended = self._group.ended()
        for child in ended:
            if child.name not in OPTIONAL:
                raise failure(child)
        self._gone = tuple(child.name for child in ended)
        if operator.supervisors() > 1:
            raise UsageError(
                "another supervisor runs in this ROS domain",
                where=f"ROS_DOMAIN_ID {os.environ.get('ROS_DOMAIN_ID', '0')}",
                remedy="end it, or set another ROS_DOMAIN_ID for one of them",
            )

    def _line(self, seen: "MonitorView") -> Any:
        said = "; ".join(filter(None, (self._said, *(f"{name} has ended" for name in self._gone))))
        if seen.supervisor is None:
            return f"starting ... {said}"
        return line(State(seen.supervisor.state).name, seen.supervisor, said)


def _release(operator: "Operator", seen: "MonitorView", spin: Callable[[float], None]) -> None:
    """Lets the supervisor bring the arm to rest while driver and simulator still run; it does so at its end anyway."""
    try:
        operator.order("release")
    except SigmaError:
        return
    end_s = time.monotonic() + _REST_S
    resting = (State.DISENGAGED, State.STOPPED, State.ESTOP)
    while time.monotonic() < end_s and seen.supervisor is not None and seen.supervisor.state not in resting:
        spin(_SPIN_S)


app.command(cls=GroupedCommand, name="run")(command_of(ArmOptions, run))
