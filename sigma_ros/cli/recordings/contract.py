# SPDX-License-Identifier: Apache-2.0
"""`sigma contract`: checks a robot's contract file and shows what it means; drafts one from a recording."""

from pathlib import Path
from typing import Annotated, cast

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from sigma_ros.border import whole
from sigma_ros.contract import Contract, Part
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import UsageError
from sigma_ros.kinematics import ForwardKinematics

Calibration = Annotated[
    Path | None, typer.Option("--calibration", help="LeRobot's calibration file of the arm: limits and ranges.")
]
DraftOut = Annotated[Path, typer.Option("--out", help="The contract file to write; it must not exist.")]
ZeroOption = Annotated[
    str, typer.Option("--zero", help="Where the driver's zero is: `encoder` (count 2048) or `range` (its middle).")
]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="A robot's contract: joints, cameras, topics, units."
)


@app.callback()
def contract() -> None:
    """A robot's contract: joints, cameras, topics, units."""


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A contract file, or the name of a shipped one (so101, cr5).")],
) -> None:
    """Reads a contract and shows it; every problem of a wrong one is listed at once (exit code 2).

    Example: sigma contract check config/so101.yaml
    """
    checked = load_contract(file)
    console = Console(highlight=False, markup=False)
    console.print(f"contract {checked.name}: no problem found", style="bold green")
    for table in (_joints(checked), _aliases(checked), _cameras(checked), _sources(checked), *_tool(checked)):
        console.print(table)


@app.command()
def draft(
    *,
    bag: Annotated[str | None, typer.Option("--bag", help="A bag of the robot.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="A LeRobot data set: folder or Hub id.")] = None,
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", help="A policy's folder.")] = None,
    calibration: Calibration = None,
    zero: ZeroOption = "encoder",
    out: DraftOut = Path("robot.yaml"),
) -> None:
    """Writes a valid contract from a recording, a data set or a checkpoint; every guess in it is marked GUESS.

    Example: sigma contract draft --bag bags/episode_0 --out my_arm.yaml
    """
    places = [place for place in (bag, dataset, checkpoint) if place is not None]
    if len(places) != 1:
        raise UsageError("one source is needed", expected="--bag, --dataset or --checkpoint", got=f"{len(places)}")
    write_draft(places[0], out, calibration=calibration, zero=zero, cameras=None)


def write_draft(place: str, out: Path, *, calibration: Path | None, zero: str, cameras: str | None) -> None:
    """Looks into a place, writes the draft, reads it back as every verb would, and says how much of it is guessed."""
    from sigma_ros.calibration import Zero, read_calibration  # noqa: PLC0415 - help stays fast
    from sigma_ros.inspection.draft import GUESS, draft_contract  # noqa: PLC0415
    from sigma_ros.inspection.places import look_into  # noqa: PLC0415

    if zero not in ("encoder", "range"):
        raise UsageError("no such zero", expected="encoder or range", got=zero)
    if out.exists():
        raise UsageError("the output exists already", where=out, remedy="give another --out")
    known = () if calibration is None else read_calibration(calibration)
    chosen = None if cameras is None else _devices(cameras)
    text = draft_contract(look_into(place), out.stem, calibration=known, zero=cast(Zero, zero), cameras=chosen)
    with whole(out) as partial:
        partial.write_text(text, encoding="utf-8")
        load_contract(partial)
    guesses = sum(GUESS in line for line in text.splitlines()[2:])
    typer.echo(f"{out}: {guesses} line(s) with {GUESS} to check; then: sigma contract check {out}")


def _devices(cameras: str) -> dict[str, str]:
    """`up=0,side=2` as names and numbers of video devices."""
    pairs = [entry.partition("=") for entry in cameras.split(",") if entry]
    if not pairs or not all(name and device.isdigit() for name, _, device in pairs):
        raise UsageError("--cameras is not understood", expected="up=0,side=2", got=cameras)
    return {name: device for name, _, device in pairs}


def _joints(contract: Contract) -> Table:
    table = _table("joint", "limits [rad]", "rad/s", "rad/s2", "rad/s3", "policy units")
    for joint in contract.joints:
        table.add_row(
            joint.name,
            f"{joint.lower_rad:+.3f} .. {joint.upper_rad:+.3f}",
            f"{joint.max_velocity_radps:g}",
            f"{joint.max_acceleration_radps2:g}",
            f"{joint.max_jerk_radps3:g}",
            f"{joint.policy_scale:.2f} rad {round(joint.policy_offset, 2) + 0.0:+g}",
        )
    return table


def _aliases(contract: Contract) -> Table:
    table = _table("joint", "also known as")
    for joint in contract.joints:
        table.add_row(joint.name, ", ".join(joint.aliases) or "-")
    return table


def _cameras(contract: Contract) -> Table:
    table = _table("camera", "topic, type", "size [px]", "oldest", "key in data sets, of the policy")
    for camera in contract.cameras:
        table.add_row(
            camera.name,
            f"{camera.topic}\n{camera.message_type}",
            f"{camera.width_px} x {camera.height_px}",
            f"{camera.max_age_ns / 1e6:g} ms",
            f"{camera.dataset_key}\n{camera.policy_key or 'as the checkpoint says'}",
        )
    return table


def _sources(contract: Contract) -> Table:
    table = _table("what", "value")
    table.add_row("frame rate", f"{contract.fps:g} Hz, waits {contract.settle_ns / 1e6:g} ms for late messages")
    states = ", ".join(part.topic for part in contract.states)
    table.add_row("joint states", f"{states}, at most {contract.joint_state_max_age_ns / 1e6:g} ms old")
    table.add_row("recorded action", contract.action_source.replace("_", " "))
    table.add_row(
        "commands",
        f"{1e9 / contract.command_period_ns:g} Hz\n" + "\n".join(_command(part) for part in contract.commands),
    )
    table.add_row("tasks", "\n".join(contract.tasks))
    return table


def _command(part: Part) -> str:
    """Where a part's commands go; with an action the topic only shows them."""
    return f"{part.topic}\n{part.message_type}" if part.action is None else f"{part.action.name}\n{part.action.type}"


def _tool(contract: Contract) -> list[Table]:
    """Where the tool's points are with all joints at zero: to compare with the arm on the table."""
    if contract.kinematics is None:
        return []
    forward = ForwardKinematics(contract.kinematics, contract.joint_names)
    table = _table("tool point", "x, y, z [m] with all joints at 0")
    for name, place in zip(forward.names, forward.points_m(np.zeros((1, contract.dof)))[0].T, strict=True):
        table.add_row(name, ", ".join(f"{round(float(x), 3) + 0.0:.3f}" for x in place))
    return [table]


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == columns[0])
    return table
