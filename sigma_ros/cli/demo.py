# SPDX-License-Identifier: Apache-2.0
"""`sigma demo`: the whole path on this machine alone, from a simulated arm to a report in pictures."""

import shutil
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sigma_ros.errors import UsageError

app = typer.Typer()

_OURS = {"recording", "report.json", "report.html", "chunks.parquet", "log"}
"""What the command leaves in its folder; a folder that holds anything else is not replaced."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the recording and the report.")] = Path("out/demo"),
    episodes: Annotated[int, typer.Option(min=1, help="Simulated episodes to record.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Where the brick lies.")] = 1,
    domain: Annotated[
        int | None, typer.Option(min=1, max=101, help="ROS domain id.", show_default="one that is free")
    ] = None,
    *,
    nodes: Annotated[
        bool, typer.Option("--nodes/--no-nodes", help="Replay through the nodes, or in this process without ROS.")
    ] = True,
) -> None:
    """Records a simulated arm, replays the recording through the policy and the supervisor, and reports.

    Example: sigma demo && xdg-open out/demo/report.html
    """
    console = Console(highlight=False)
    started_s = time.monotonic()
    _clear(out)
    recording = out / "recording"
    _say(console, 1, f"recording {episodes} episode(s) of the simulated arm into {recording}")
    _record(recording, episodes, seed)
    _say(console, 2, "replaying through the policy and the supervisor")
    code = _replay_here(recording, out)
    console.print(f"done in {time.monotonic() - started_s:.0f} s; look at {out / 'report.html'}")
    raise typer.Exit(code)


def _say(console: Console, step: int, text: str) -> None:
    console.print(f"[bold]{step}/2[/bold] {text}")


def _clear(out: Path) -> None:
    strangers = sorted(entry.name for entry in out.iterdir() if entry.name not in _OURS) if out.is_dir() else []
    if strangers or out.is_file():
        raise UsageError(
            "the output folder holds something else",
            where=out,
            got=", ".join(strangers) or "a file",
            remedy="give another --out",
        )
    shutil.rmtree(out, ignore_errors=True)


def _record(recording: Path, episodes: int, seed: int) -> None:
    from sigma_ros.cli.record import record  # noqa: PLC0415

    record(recording, sim=True, episodes=episodes, seed=seed, jpeg=90)


def _replay_here(recording: Path, out: Path) -> int:
    from sigma_ros.cli.replay_run import Request, run  # noqa: PLC0415

    return run(
        Request(
            bags=(recording,),
            out=out,
            checkpoint="mini",
            contract="so101",
            task=None,
            replan_ticks=8,
            seed=0,
            scales=(0.0, 1.0, 1.0),
            supervised=True,
            allow_untrained=True,
            base=None,
            revision=None,
            tokenizer=None,
            device="auto",
            strict=False,
            recover=False,
            force=True,
        )
    )
