# SPDX-License-Identifier: Apache-2.0
"""`sigma doctor`: looks at machine, ROS, streams, units and checkpoint, and says what to do."""

import math
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import typer
from numpy import ndarray
from rich.console import Console
from rich.text import Text

from sigma_ros.contract import Contract
from sigma_ros.errors import SigmaError

if TYPE_CHECKING:
    from sigma_ros.nodes.shared.listen import StreamFacts


app = typer.Typer(help="Check everything and say what to do.", add_completion=False)
_MARKS = {"ok": ("ok   ", "green"), "note": ("note ", "yellow"), "wrong": ("wrong", "bold red")}


@app.command()
def doctor(
    *,
    contract: Annotated[str, typer.Option(help="Contract file, or the name of a shipped one.")] = "so101",
    checkpoint: Annotated[str, typer.Option(help="The checkpoint that is to run.")] = "mini",
    seconds: Annotated[float, typer.Option(min=0.5, help="How long to listen to the robot.")] = 4.0,
    offline: Annotated[bool, typer.Option("--offline", help="Leave the ROS graph out.")] = False,
    open_network: Annotated[
        bool, typer.Option("--open-network", help="Accept a real arm that anybody on the network can engage.")
    ] = False,
) -> None:
    """Checks machine, packages, GPU, ROS, clocks, topics, rates, QoS, units and checkpoint.

    Exit codes: 0 nothing is wrong, 1 something is.

    Example: sigma doctor --contract so101 --checkpoint mini
    """
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415

    console = Console(highlight=False, soft_wrap=True, markup=False)
    robot = load_contract(contract)
    wrong = _show(console, "machine", machine())
    wrong += _show(console, "packages", packages())
    wrong += _show(console, "GPU", gpu())
    wrong += _show(console, "clock", clock())
    wrong += _show(console, "checkpoint", _checkpoint(checkpoint, robot))
    wrong += _show(console, "ROS", ros_environment(os.environ))
    if not offline:
        wrong += _graph(console, robot, checkpoint, seconds, open_network=open_network)
    console.print("nothing is wrong" if not wrong else f"{wrong} thing(s) are wrong", style="bold")
    if wrong:
        raise typer.Exit(1)


def _show(console: Console, title: str, findings: Iterable[object]) -> int:
    console.print(title, style="bold")
    wrong = 0
    for finding in findings:
        level, what, remedy = finding.level, finding.what, finding.remedy  # type: ignore[attr-defined]
        wrong += level == "wrong"
        then = f"  -> {remedy}" if level != "ok" and remedy else ""
        console.print(Text.assemble("  ", _MARKS[level], f" {what}{then}"))
    return wrong


def _checkpoint(checkpoint: str, contract: Contract) -> Iterable[object]:
    from sigma_ros.cli.robot.calibrate import training_quantiles  # noqa: PLC0415
    from sigma_ros.model.pi05.places import SHIPPED_SIGMAS  # noqa: PLC0415

    if checkpoint not in SHIPPED_SIGMAS and "/" not in checkpoint and not Path(checkpoint).expanduser().is_dir():
        yield Finding("wrong", f"{checkpoint} is not there", "give a folder, or a Hub id such as owner/name")
        return
    try:
        quantiles = training_quantiles(checkpoint)
    except SigmaError as error:
        yield Finding("wrong", str(error), "sigma model inspect shows what is in a checkpoint")
        return
    wrong = f"{checkpoint} has {quantiles.dof} joints, the contract {contract.dof}"
    told = f"{checkpoint}: statistics of {quantiles.dof} joints"
    yield _judged(quantiles.dof == contract.dof, told, "wrong", "use its contract", else_told=wrong)


def _graph(console: Console, contract: Contract, checkpoint: str, seconds: float, *, open_network: bool) -> int:
    from sigma_ros.cli.robot.calibrate import training_quantiles  # noqa: PLC0415

    try:
        from sigma_ros.nodes.shared import topics  # noqa: PLC0415
        from sigma_ros.nodes.shared.listen import StreamWatch, listening  # noqa: PLC0415
    except ImportError as error:
        missing = Finding("wrong", f"the ROS graph cannot be looked at: {error}", "see packages above")
        return _show(console, "graph", [missing])
    with listening("sigma_doctor") as (node, spin):
        watch = StreamWatch(node, contract, commands=True)
        spin(seconds)
        facts, names = watch.facts(), node.get_node_names()
        services = {name.rpartition("/")[2] for name, _ in node.get_service_names_and_types()}
    wrong = _show(console, "nodes", nodes(names, (topics.POLICY_NODE, topics.SUPERVISOR_NODE)))
    wrong += _show(console, "ticks", ticks(watch.tick_gaps_s)) if watch.tick_gaps_s else 0
    paired = topics.ENGAGE_PAIRED.rpartition("/")[2] in services
    if topics.DRIVER_NODE in names and not open_network:
        wrong += _show(console, "network", network(os.environ, paired=paired))
    seen = [fact for fact in facts if fact.name != "commands" or fact.publishers]
    wrong += _show(console, "streams", streams(contract, seen))
    wrong += _show(console, "commands", publishers_of_commands(facts, topics.SUPERVISOR_NODE))
    try:
        quantiles = training_quantiles(checkpoint)
    except SigmaError:
        return wrong
    return wrong + _show(console, "units", units(contract, watch.joints, *quantiles.usual))


# What `sigma doctor` makes of what it finds: facts in, findings with a remedy out.


Level = Literal["ok", "note", "wrong"]
LEAST_SHM_MB, LEAST_MEMORY_GB, LEAST_DISK_GB = 256, 4.0, 5.0
MOST_DELAY_MS, MOST_LEAD_MS = 200.0, 50.0
LEAST_RATE_SHARE = 0.9
MOST_GAP_S = 0.04


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked thing: how it stands, and what to do where it is not ok."""

    level: Level
    what: str
    remedy: str = ""


def _judged(fine: object, told: str, level: Level, remedy: str, *, else_told: str = "") -> Finding:
    return Finding("ok", told) if fine else Finding(level, else_told or told, remedy)


def machine() -> Iterator[Finding]:
    """Python, processor, memory, shared memory, disk."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield _judged(sys.version_info >= (3, 12), f"Python {version}", "wrong", "3.12 or newer is needed")
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    late = "the supervisor's ticks may come late: end what else runs"
    yield _judged(load < cores, f"{cores} cores, load {load:.1f}", "note", late)
    free_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 1e9
    told = f"{free_gb:.0f} GB of memory free" if free_gb > LEAST_MEMORY_GB else f"{free_gb:.1f} GB of memory free"
    yield _judged(free_gb > LEAST_MEMORY_GB, told, "note", "a full-size policy needs 8 GB")
    permitted = os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_RTPRIO)[0] != 0
    told = f"real-time scheduling is {'' if permitted else 'not '}permitted"
    yield _judged(permitted, told, "note", "docs/safety.md, What a user must still do")
    yield from _space(Path("/dev/shm"), LEAST_SHM_MB / 1e3, "Docker: --shm-size 1g; camera images go through it")
    yield from _space(Path.cwd(), LEAST_DISK_GB, "recordings take 55 MB/s raw")


def _space(folder: Path, least_gb: float, remedy: str) -> Iterator[Finding]:
    if folder.is_dir():
        free_gb = shutil.disk_usage(folder).free / 1e9
        yield Finding("ok" if free_gb >= least_gb else "wrong", f"{folder}: {free_gb:.1f} GB free", remedy)


def ticks(gaps_s: Sequence[float]) -> Iterator[Finding]:
    """The longest gap between the supervisor's ticks since it began, as it told it while somebody listened."""
    told = f"ticks at most {1e3 * gaps_s[-1]:.0f} ms apart"
    if gaps_s[-1] <= MOST_GAP_S:
        yield Finding("ok", told)
        return
    remedy = "end what else runs, permit real-time scheduling; --seconds 600 looks for ten minutes"
    grew = gaps_s[-1] > gaps_s[0]
    yield Finding("wrong", f"{told} just now", remedy) if grew else Finding("note", f"{told} some time ago", remedy)


def packages() -> Iterator[Finding]:
    """What is installed."""
    needed: dict[str, tuple[Level, str]] = {
        "torch": ("wrong", "make setup"),
        "lerobot": ("wrong", "make setup"),
        "rclpy": ("wrong", "source a ROS installation, or make setup and . ./env.sh"),
        "sigma_ros.msg": ("wrong", "colcon build, or make setup and . ./env.sh"),
        "mujoco": ("note", "only for the simulator: make setup"),
        "scservo_sdk": ("note", "only for so101_driver: pip install 'sigma_ros[arm]', or make setup"),
    }
    for name, (level, remedy) in needed.items():
        yield _judged(_found(name), f"{name} is there", level, remedy, else_told=f"{name} is missing")


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def gpu() -> Iterator[Finding]:
    """The graphics card, by its own tool; without one only the small model is fast enough."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield Finding("note", "no NVIDIA GPU", "the small model runs on a processor; a full-size one takes seconds")
        return
    asked = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    told = answer.stdout.strip() or "nvidia-smi fails"
    yield _judged(answer.returncode == 0, told, "wrong", "install the driver again")


def ros_environment(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Distribution, domain, discovery, DDS profile."""
    yield Finding("ok", f"ROS_DISTRO {environment.get('ROS_DISTRO', 'none: the ROS wheels')}")
    domain = environment.get("ROS_DOMAIN_ID", "0")
    yield Finding("ok" if domain != "0" else "note", f"ROS_DOMAIN_ID {domain}", "in a shared network give it a value")
    reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    yield Finding("ok", f"discovery range {reach}")
    profile = environment.get("FASTDDS_DEFAULT_PROFILES_FILE") or environment.get("FASTRTPS_DEFAULT_PROFILES_FILE")
    if not profile:
        remedy = "export FASTDDS_DEFAULT_PROFILES_FILE=.../config/fastdds.xml before the camera driver; "
        yield Finding("note", "no DDS profile in this shell", remedy + "our own nodes take it by themselves")
    elif not Path(profile).is_file():
        yield Finding("wrong", f"DDS profile {profile} is not there", "correct the path")
    else:
        yield Finding("ok", f"DDS profile {profile}")


def network(environment: Mapping[str, str], *, paired: bool) -> Iterator[Finding]:
    """Whether a real arm can be engaged by anybody who reaches it: local, paired, secured, or none of these."""
    reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET").upper()
    if reach in ("LOCALHOST", "OFF") or environment.get("ROS_LOCALHOST_ONLY") == "1":
        yield Finding("ok", "the arm is reached from this machine alone")
    elif environment.get("ROS_SECURITY_ENABLE") == "true" and environment.get("ROS_SECURITY_STRATEGY") == "Enforce":
        yield Finding("ok", "SROS2 is enforced")
    elif paired:
        yield Finding("ok", "engage and reset_stop ask for the supervisor's token")
    else:
        remedy = "pairing: true (params_file:=beside_people), SROS2, ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST, "
        yield Finding("wrong", "anybody on the network can engage the arm", remedy + "or --open-network")


def clock() -> Iterator[Finding]:
    """Whether the system clock is kept by a time service."""
    tool = shutil.which("timedatectl")
    if tool is None:
        yield Finding("note", "time service unknown", "with two computers: chrony on both")
        return
    asked = [tool, "show", "-p", "NTPSynchronized", "--value"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    kept = answer.stdout.strip() == "yes"
    told = f"the clock is {'' if kept else 'not '}synchronised"
    yield _judged(kept, told, "note", "harmless on one computer; with two: chrony on both")


def streams(contract: Contract, facts: "Iterable[StreamFacts]") -> Iterator[Finding]:
    """Each stream against the contract: there, of the right type, often and fresh enough, and readable."""
    for fact in facts:
        head = f"{fact.name} on {fact.topic}"
        told = f"{head}: {fact.rate_hz:.0f} Hz, {fact.delay_ms:.0f} ms old, longest gap {fact.gap_max_ms:.0f} ms"
        yield _absent(head, fact) or _unfit(told, contract, fact) or Finding("ok", told)


def _absent(head: str, fact: "StreamFacts") -> Finding | None:
    if not fact.publishers:
        return Finding("wrong", f"{head}: nobody publishes", "start the driver, or correct the topic in the contract")
    if fact.wanted_type not in fact.types:
        said = f"{head}: {', '.join(fact.types)}, not {fact.wanted_type}"
        return Finding("wrong", said, "correct the type in the contract, or remap")
    if not fact.received:
        said = f"{head}: published by {', '.join(fact.publishers)}, but nothing arrives"
        return Finding("wrong", said, "DDS: same domain and profile on both sides; images: config/fastdds.xml")
    return None


def _unfit(told: str, contract: Contract, fact: "StreamFacts") -> Finding | None:
    if fact.problems:
        reason, count = max(fact.problems.items(), key=lambda entry: entry[1])
        return Finding("wrong", f"{told}; {count} refused: {reason}", "make the driver send what the contract says")
    if not math.isnan(fact.delay_ms) and not -MOST_LEAD_MS <= fact.delay_ms <= MOST_DELAY_MS:
        return Finding("wrong", told, "stamp messages when they are taken; synchronise the clocks (chrony)")
    if fact.name != "commands" and fact.rate_hz < LEAST_RATE_SHARE * contract.fps:
        return Finding("wrong", f"{told}; {contract.fps:g} Hz are needed", "raise the rate, or lower the load")
    return None


def publishers_of_commands(facts: "Iterable[StreamFacts]", own: str) -> Iterator[Finding]:
    """The supervisor is the only one who may command."""
    for fact in facts:
        if fact.name == "commands":
            foreign = [name for name in fact.publishers if name != own]
            if foreign:
                said = f"{', '.join(foreign)} publishes on {fact.topic}"
                yield Finding("wrong", said, "stop it: the supervisor must be the only publisher of commands")


def units(contract: Contract, poses: list[ndarray], q01: ndarray, q99: ndarray) -> Iterator[Finding]:
    """Whether the measured pose can be in the units of the training data."""
    from sigma_ros.calibration import judge  # noqa: PLC0415

    if not poses:
        return
    fits = judge(np.median(np.array(poses), axis=0), contract, q01, q99)
    if fits[0].fits:
        yield Finding("ok", "the pose fits the training data")
        return
    other = next((fit.reading for fit in fits if fit.fits), None)
    remedy = "sigma calibrate check --live shows each joint" if other is None else other.remedy
    yield Finding("wrong", f"the pose does not fit the training data: {', '.join(fits[0].outside)}", remedy)


def nodes(names: Iterable[str], wanted: Iterable[str]) -> Iterator[Finding]:
    """Which of our nodes run."""
    running = set(names)
    for name in wanted:
        told = f"/{name} runs" if name in running else f"/{name} does not run"
        yield _judged(name in running, told, "note", "ros2 launch sigma_ros policy.launch.py")
