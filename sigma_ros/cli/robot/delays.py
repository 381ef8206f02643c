# SPDX-License-Identifier: Apache-2.0
"""The command line of `sigma delays`: one source of motion, its delays in a table, and in the contract if asked."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from sigma_ros.cli.options import verb
from sigma_ros.errors import UsageError

if TYPE_CHECKING:
    from sigma_ros.contract import Contract, Delays
    from sigma_ros.streams.delays import Motion

app = verb("Measure how late camera, policy and arm are.")

_PARTS = {
    "camera": "a picture's content is older than its stamp by",
    "inference": "from an observation to its chunk it takes",
    "actuator": "the joints follow their commands after",
}


@app.command()
def delays(
    *,
    live: Annotated[float, typer.Option(min=0.0, metavar="S", help="Listen to the running graph for so long.")] = 0.0,
    bag: Annotated[Path | None, typer.Option(help="Take a recording instead.")] = None,
    sim: Annotated[str | None, typer.Option(metavar="SETUP", help="Let the expert move a simulated arm.")] = None,
    contract: Annotated[str, typer.Option(help="Contract file, or the name of a shipped one.")] = "so101",
    write: Annotated[bool, typer.Option("--write", help="Put what was measured into the contract's file.")] = False,
) -> None:
    """Measures the lag of camera, policy and arm while the arm moves, and can write it into the contract.

    `sigma sim` and `sigma replay --latency contract` then take what the contract says. The arm must move, some seconds,
    in sight of the cameras; at least 3 s of each stream are needed. Of a graph or a recording it also writes how often
    cameras and joints come (`rate_hz`): a live tick then waits for no later picture.

    Example: sigma delays --live 15 --contract my_arm.yaml --write
    """
    from sigma_ros.cli.robot.delay_sources import written  # noqa: PLC0415 - help stays fast
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415
    from sigma_ros.streams.delays import measure, rates_hz  # noqa: PLC0415

    if sum((live > 0.0, bag is not None, sim is not None)) != 1:
        raise UsageError("give exactly one source of motion", expected="--live, --bag or --sim")
    if write and not Path(contract).is_file():
        raise UsageError("--write needs a contract of your own", expected="a YAML file", got=contract)
    robot = load_contract(contract)
    motion = _motion(robot, live, bag, sim)
    found = measure(motion, robot)
    _tell(found, robot)
    if write:
        typer.echo(f"{contract}:\n{written(Path(contract), found, rates_hz(motion) if sim is None else {})}")


def _motion(robot: "Contract", live: float, bag: Path | None, sim: str | None) -> "Motion":
    from sigma_ros.cli.robot.delay_sources import recorded, simulated  # noqa: PLC0415

    if bag is not None:
        return recorded(bag, robot)
    if sim is not None:
        return simulated(sim, robot)
    from sigma_ros.nodes.shared.motion_tap import listened  # noqa: PLC0415 - needs ROS

    return listened(robot, seconds=live)


def _tell(found: "Delays", robot: "Contract") -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("part", "", "ms", "ticks"):
        table.add_column(column, justify="right" if column in ("ms", "ticks") else "left")
    for name, meaning in _PARTS.items():
        value_ns = getattr(found, f"{name}_ns")
        cells = ("-", "-") if value_ns is None else (f"{value_ns / 1e6:.0f}", f"{value_ns / robot.tick_period_ns:.1f}")
        table.add_row(name, meaning, *cells)
    Console(highlight=False, markup=False).print(table)
