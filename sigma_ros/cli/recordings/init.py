# SPDX-License-Identifier: Apache-2.0
"""`sigma init`: a contract for a user's own arm, from a data set of it, its calibration and its cameras."""

from pathlib import Path
from typing import Annotated

import typer

from sigma_ros.cli.recordings.contract import Calibration, DraftOut, ZeroOption, write_draft

app = typer.Typer(add_completion=False, help="Write a contract for your own arm from a data set and a calibration.")


@app.command()
def init(
    *,
    dataset: Annotated[str, typer.Option("--dataset", help="A LeRobot data set of this arm: folder or Hub id.")],
    calibration: Calibration = None,
    cameras: Annotated[
        str | None, typer.Option("--cameras", help="up=0,side=2: which of its cameras, on which video device.")
    ] = None,
    out: DraftOut = Path("robot.yaml"),
    zero: ZeroOption = "encoder",
) -> None:
    """Writes a contract with joints, cameras, sizes, rate and units of the data set, limits of the calibration.

    What was not read from a file stands there with GUESS behind it. Check it with: sigma contract check FILE.

    Example: sigma init --dataset lerobot/svla_so101_pickplace --calibration arm.json --cameras up=0,side=2
    """
    write_draft(dataset, out, calibration=calibration, zero=zero, cameras=cameras)
