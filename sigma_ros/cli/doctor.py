# SPDX-License-Identifier: Apache-2.0
"""`sigma doctor`: looks at machine, ROS, streams, units and checkpoint, and says what to do."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from sigma_ros.contract import Contract
from sigma_ros.errors import SigmaError

app = typer.Typer(help="Check everything and say what to do.", add_completion=False)
_MARKS = {"ok": ("ok   ", "green"), "note": ("note ", "yellow"), "wrong": ("wrong", "bold red")}


@app.command()
def doctor(
    *,
    contract: Annotated[str, typer.Option(help="Contract file, or the name of a shipped one.")] = "so101",
    checkpoint: Annotated[str, typer.Option(help="The checkpoint that is to run.")] = "mini",
    seconds: Annotated[float, typer.Option(min=0.5, help="How long to listen to the robot.")] = 4.0,
    offline: Annotated[bool, typer.Option("--offline", help="Leave the ROS graph out.")] = False,
) -> None:
    """Checks machine, packages, GPU, ROS, clocks, topics, rates, QoS, units and checkpoint.

    Exit codes: 0 nothing is wrong, 1 something is.

    Example: sigma doctor --contract so101 --checkpoint mini
    """
    from sigma_ros.cli import doctor_checks as checks  # noqa: PLC0415 - help stays fast
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415

    console = Console(highlight=False, soft_wrap=True, markup=False)
    robot = load_contract(contract)
    wrong = _show(console, "machine", checks.machine())
    wrong += _show(console, "packages", checks.packages())
    wrong += _show(console, "GPU", checks.gpu())
    wrong += _show(console, "clock", checks.clock())
    wrong += _show(console, "checkpoint", _checkpoint(checkpoint, robot))
    wrong += _show(console, "ROS", checks.ros_environment(os.environ))
    if not offline:
        wrong += _graph(console, robot, checkpoint, seconds)
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
    from sigma_ros.cli.calibrate import training_quantiles  # noqa: PLC0415
    from sigma_ros.cli.doctor_checks import Finding  # noqa: PLC0415

    if checkpoint != "mini" and "/" not in checkpoint and not Path(checkpoint).expanduser().is_dir():
        yield Finding("wrong", f"{checkpoint} is not there", "give a folder, or a Hub id such as owner/name")
        return
    try:
        quantiles = training_quantiles(checkpoint)
    except SigmaError as error:
        yield Finding("wrong", str(error), "sigma model inspect shows what is in a checkpoint")
        return
    if quantiles.dof != contract.dof:
        yield Finding(
            "wrong", f"{checkpoint} has {quantiles.dof} joints, the contract {contract.dof}", "use its contract"
        )
    else:
        yield Finding("ok", f"{checkpoint}: statistics of {quantiles.dof} joints")


def _graph(console: Console, contract: Contract, checkpoint: str, seconds: float) -> int:
    from sigma_ros.cli import doctor_checks as checks  # noqa: PLC0415
    from sigma_ros.cli.calibrate import training_quantiles  # noqa: PLC0415

    try:
        from sigma_ros.nodes import topics  # noqa: PLC0415
        from sigma_ros.nodes.listen import listening  # noqa: PLC0415
        from sigma_ros.nodes.stream_watch import StreamWatch  # noqa: PLC0415
    except ImportError as error:
        missing = checks.Finding("wrong", f"the ROS graph cannot be looked at: {error}", "see packages above")
        return _show(console, "graph", [missing])
    with listening("sigma_doctor") as (node, spin):
        watch = StreamWatch(node, contract, commands=True)
        spin(seconds)
        facts, names = watch.facts(), node.get_node_names()
    wrong = _show(console, "nodes", checks.nodes(names, (topics.POLICY_NODE, topics.SUPERVISOR_NODE)))
    seen = [fact for fact in facts if fact.name != "commands" or fact.publishers]
    wrong += _show(console, "streams", checks.streams(contract, seen))
    wrong += _show(console, "commands", checks.publishers_of_commands(facts, topics.SUPERVISOR_NODE))
    try:
        quantiles = training_quantiles(checkpoint)
    except SigmaError:
        return wrong
    return wrong + _show(console, "units", checks.units(contract, watch.joints, *quantiles.usual))
