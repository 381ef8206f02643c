# SPDX-License-Identifier: Apache-2.0
"""`sigma calibrate`: do the arm's numbers mean what the policy thinks they mean?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import typer
from numpy import ndarray
from rich import box
from rich.console import Console
from rich.table import Table

from sigma_ros.border import read_json
from sigma_ros.errors import CheckpointError, SigmaError, UsageError

if TYPE_CHECKING:
    from sigma_ros.calibration import Fit
    from sigma_ros.contract import Contract
    from sigma_ros.model.normalise import Scaling

_AT_ZERO_RAD = 0.1
"""A reading by which every joint stands near its zero says nothing: any small numbers look like that."""

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Units and calibration of the arm.")


@app.callback()
def calibrate() -> None:
    """Units and calibration of the arm."""


@app.command()
def check(
    *,
    pose: Annotated[str | None, typer.Option(help="Joint values as the driver sends them, by commas.")] = None,
    bag: Annotated[Path | None, typer.Option(help="Take them from a recording instead.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Take them from the running driver (needs ROS).")] = False,
    checkpoint: Annotated[str, typer.Option(help="Whose training data to compare with.")] = "mini",
    contract: Annotated[str, typer.Option(help="Contract file, or the name of a shipped one.")] = "so101",
) -> None:
    """Compares a pose with the training data and says which unit convention fits. Exit code 0: radians fit.

    A pose near the middle fits several conventions; bend the arm clearly before checking.

    Example: sigma calibrate check --pose "0.1,-1.6,1.5,1.1,0,0.1" --checkpoint mini
    """
    from sigma_ros.calibration import judge  # noqa: PLC0415
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415 - help stays fast

    if sum((pose is not None, bag is not None, live)) != 1:
        raise UsageError("give exactly one source of a pose", expected="--pose, --bag or --live")
    robot = load_contract(contract)
    values = _pose(pose, robot) if pose is not None else _recorded(bag, robot) if bag is not None else _live(robot)
    quantiles = training_quantiles(checkpoint)
    if quantiles.dof != robot.dof:
        raise UsageError("the checkpoint has other joints", expected=f"{robot.dof} joints", got=f"{quantiles.dof}")
    fits = judge(values, robot, *quantiles.usual)
    _tell(robot, values, quantiles, fits)
    if not fits[0].fits:
        raise typer.Exit(1)


@app.command()
def contract(
    file: Annotated[Path, typer.Argument(help="A calibration file of LeRobot (JSON).")],
    *,
    convention: Annotated[
        Literal["range", "degrees"], typer.Option(help="The training data's units: -100..100, or degrees.")
    ] = "range",
    zero: Annotated[
        Literal["encoder", "range"],
        typer.Option(help="Where the ROS driver's 0 rad is: the encoder's middle (2048), or the range's."),
    ] = "encoder",
    limits_from: Annotated[
        Literal["both", "calibration"],
        typer.Option(
            "--limits", help="Position limits: where recorded range and contract overlap, or the recorded range."
        ),
    ] = "both",
    robot: Annotated[str, typer.Option("--contract", help="Contract file, or the name of a shipped one.")] = "so101",
) -> None:
    """Prints limits and `policy_unit` of each joint for a contract, exactly as LeRobot's calibration maps them.

    Refuses a gripper that could not close within the limits, and warns of joints that can rest outside of them.

    Example: sigma calibrate contract ~/.cache/huggingface/lerobot/calibration/robots/so_follower/arm.json
    """
    from sigma_ros.calibration import joint_limits, policy_units, read_calibration  # noqa: PLC0415
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415

    calibration, model = read_calibration(file), load_contract(robot)
    limits = joint_limits(calibration, model, zero=zero, limits_from=limits_from)
    for name, (scale, offset) in policy_units(calibration, model, convention, zero=zero).items():
        bounds = limits[name]
        typer.echo(
            f"{name}: {{lower_rad: {bounds.lower_rad:.6f}, upper_rad: {bounds.upper_rad:.6f}, "
            f"policy_unit: {{scale: {scale!r}, offset: {offset!r}}}}}"
        )
        if bounds.strands:
            beyond = f"{bounds.beyond_low_rad:.2f} rad below or {bounds.beyond_high_rad:.2f} rad above its limits"
            typer.echo(f"{name} can rest {beyond}, where engage is refused: --limits calibration, or move it", err=True)


def training_quantiles(checkpoint: str) -> "Scaling":
    """State quantiles of a checkpoint [policy units], read from its small files; no model is loaded where they suffice.

    Raises:
        SigmaError: it has none, or cannot be found.
    """
    from sigma_ros.model.normalise import Normalisation  # noqa: PLC0415
    from sigma_ros.model.pi05.places import (  # noqa: PLC0415
        MINI_NAME,
        SHIPPED_BASES,
        SHIPPED_SIGMAS,
        shipped_assets,
    )

    shipped = checkpoint in SHIPPED_SIGMAS
    folder = shipped_assets(SHIPPED_BASES[MINI_NAME]) if shipped else Path(checkpoint).expanduser()
    for name, key in (("sigma_config.json", "normalisation"), ("normalisation.json", None)):
        file = folder / name
        content = read_json(file) if file.is_file() else None
        if content is not None and not isinstance(content, dict):
            raise CheckpointError("the file is no JSON object", where=file)
        if content is not None and (key is None or content.get(key) is not None):
            return Normalisation.from_dict(content if key is None else content[key], where=file).state
    from sigma_ros.model.pi05.folder import open_base_folder  # noqa: PLC0415

    found = open_base_folder(checkpoint).normalisation
    if found is None:
        raise SigmaError("the checkpoint has no statistics of its training data", where=checkpoint)
    return found.state


def _pose(text: str, contract: "Contract") -> ndarray:
    try:
        values = np.array([float(part) for part in text.split(",")])
    except ValueError as error:
        raise UsageError("--pose takes numbers separated by commas", got=text) from error
    if values.shape != (contract.dof,) or not np.isfinite(values).all():
        raise UsageError(
            "--pose does not fit the contract", expected=f"{contract.dof}: {', '.join(contract.joint_names)}", got=text
        )
    return values


def _recorded(bag: Path, contract: "Contract") -> ndarray:
    """The middle of the recorded joint states, and never the first one alone."""
    from sigma_ros.bags.reader import open_bag  # noqa: PLC0415
    from sigma_ros.streams.joints import JointReader  # noqa: PLC0415

    reader = JointReader(contract)
    with open_bag(bag) as opened:
        messages = [record.message for record in opened.records([contract.joint_state_topic])]
        rows = [reader.read(message.names, np.asarray(message.positions_rad)) for message in messages]
    if not rows:
        raise SigmaError("the recording has no joint states", where=bag, expected=contract.joint_state_topic)
    return np.asarray(np.median(np.array(rows), axis=0))


def _live(contract: "Contract") -> ndarray:
    from sigma_ros.nodes.shared.listen import joint_values  # noqa: PLC0415

    return joint_values(contract)


def _tell(contract: "Contract", values: ndarray, quantiles: "Scaling", fits: "tuple[Fit, ...]") -> None:
    console = Console(highlight=False, markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("joint", "sent", "trained on", *(fit.reading.name.split()[-1] for fit in fits)):
        table.add_column(column, justify="left" if column == "joint" else "right", no_wrap=True)
    low, high = quantiles.usual
    as_policy = [contract.to_policy(fit.reading.rad(values)) for fit in fits]
    for i, name in enumerate(contract.joint_names):
        marks = [f"{p[i]:.1f}{' !' if name in fit.outside else ''}" for p, fit in zip(as_policy, fits, strict=True)]
        table.add_row(name, f"{values[i]:.3f}", f"{low[i]:.0f}..{high[i]:.0f}", *marks)
    console.print("the pose in the policy's units, if what was sent is meant as ...; ! is not like the training data")
    console.print(table)
    fitting = [fit.reading for fit in fits if fit.fits and _moved_rad(fit, values) > _AT_ZERO_RAD]
    if not fits[0].fits and not fitting:
        console.print("no convention fits: check joint order and signs, and the contract's limits and policy_unit")
    elif not fits[0].fits:
        console.print(f"{fitting[0].name} fits, radians do not: {fitting[0].remedy}", style="bold")
    elif others := ", ".join(reading.name for reading in fitting if reading is not fits[0].reading):
        console.print(f"radians fit; so would {others}: bend the arm further and check again", style="bold")
    else:
        console.print("radians fit, and nothing else does", style="bold green")


def _moved_rad(fit: "Fit", values: ndarray) -> float:
    """How far from its zero a pose is by a reading."""
    return float(np.abs(fit.reading.rad(values) - fit.reading.rad(np.zeros_like(values))).max())
