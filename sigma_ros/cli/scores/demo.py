# SPDX-License-Identifier: Apache-2.0
"""`sigma demo`: the whole path on this machine alone, from a simulated arm to a report in pictures."""

import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sigma_ros.cli.options import GroupedCommand, verb
from sigma_ros.errors import UsageError

app = verb(no_args_is_help=False)

_OURS = {"recording", "log", "report.json", "report.html", "chunks.parquet"}
"""What the command leaves in its folder; a folder that holds anything else is not replaced."""


@app.command(cls=GroupedCommand)
def demo(
    *,
    out: Annotated[Path, typer.Option(help="Folder for the recording and the report.")] = Path("out/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Where the brick lies.")] = 1,
    checkpoint: Annotated[str, typer.Option(help="As in sigma replay.")] = "mini",
    domain: Annotated[
        int | None, typer.Option(min=1, max=101, help="ROS domain id.", show_default="one that is free")
    ] = None,
    no_ros: Annotated[
        bool, typer.Option("--no-ros", help="Without rclpy and messages: policy and supervisor in this process.")
    ] = False,
) -> None:
    """Records a simulated arm, replays that through the policy node and the supervisor node, and reports.

    Each node is a process of its own; they talk over DDS, on this machine only. Their output is in OUT/log.
    The scores of `--no-ros` are the same: the replay is that of `sigma replay`.

    Example: sigma demo && xdg-open out/demo/report.html
    """
    from sigma_ros.cli.processes import check_installed  # noqa: PLC0415 - help stays fast
    from sigma_ros.cli.scores import demo_nodes  # noqa: PLC0415
    from sigma_ros.evaluation.report.write import refuse_unwritable  # noqa: PLC0415

    console = Console(highlight=False, markup=False)
    started_s = time.monotonic()
    check_installed("mujoco", *(() if no_ros else ("rclpy", "sigma_ros.msg")))
    _clear(out)
    refuse_unwritable(out)
    nodes = nullcontext() if no_ros else demo_nodes.running(checkpoint, domain=domain, log_dir=out / "log")
    with nodes as running:
        console.print(f"1/2 recording an episode of the simulated arm into {out / 'recording'}", style="bold")
        bag = _record(out / "recording", seed)
        through = "this process" if running is None else "the policy node and the supervisor node"
        console.print(f"2/2 replaying it through {through}", style="bold")
        code = _replay(bag, out, checkpoint) if running is None else running.replay(bag, out)
    if (out / "report.json").is_file():
        demo_nodes.show(out, console)
        console.print(f"done in {time.monotonic() - started_s:.0f} s")
    raise typer.Exit(code)


def _clear(out: Path) -> None:
    strangers = sorted(entry.name for entry in out.iterdir() if entry.name not in _OURS) if out.is_dir() else []
    if strangers or out.is_file():
        raise UsageError(
            "the output folder holds something else",
            where=out,
            expected="no folder, or one that sigma demo made",
            got=", ".join(strangers) or "a file",
            remedy="give another --out",
        )
    if out.is_dir():
        shutil.rmtree(out)


def _replay(bag: Path, out: Path, checkpoint: str) -> int:
    from sigma_ros.cli.scores.replay import ReplayRequest  # noqa: PLC0415
    from sigma_ros.cli.scores.replay_run import run  # noqa: PLC0415

    return run(ReplayRequest(bags=[bag], out=out, checkpoint=checkpoint, allow_untrained=True))


def _record(recording: Path, seed: int) -> Path:
    from sigma_ros.cli.recordings.record import record  # noqa: PLC0415

    record(recording, sim=True, episodes=1, seed=seed)
    return recording / "episode_000000"
