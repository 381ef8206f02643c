# SPDX-License-Identifier: Apache-2.0
"""`sigma demo`: the whole path on this machine alone, from a simulated arm to a report in pictures."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from sigma_ros.cli.options import GroupedCommand, verb
from sigma_ros.cli.processes import Children, check_installed, children, free_domain, node_command, node_environment
from sigma_ros.errors import UsageError

app = verb(no_args_is_help=False)

_OURS = {"recording", "log", "report.json", "report.html", "chunks.parquet"}
"""What the command leaves in its folder; a folder that holds anything else is not replaced."""
_ERRORS = {"mse_vec": "first step", "mse_chk": "8 steps", "mse_trj": "16 steps"}


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
    from sigma_ros.evaluation.report.write import refuse_unwritable  # noqa: PLC0415 - help stays fast

    console = Console(highlight=False, markup=False)
    started_s = time.monotonic()
    check_installed("mujoco", *(() if no_ros else ("rclpy", "sigma_ros.msg")))
    _clear(out)
    refuse_unwritable(out)
    nodes = nullcontext() if no_ros else _running(checkpoint, domain=domain, log_dir=out / "log")
    with nodes as running:
        console.print(f"1/2 recording an episode of the simulated arm into {out / 'recording'}", style="bold")
        bag = _record(out / "recording", seed)
        through = "this process" if running is None else "the policy node and the supervisor node"
        console.print(f"2/2 replaying it through {through}", style="bold")
        code = _replay(bag, out, checkpoint) if running is None else running.replay(bag, out)
    if (out / "report.json").is_file():
        _show(out, console)
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
    from sigma_ros.cli.recordings.record import RecordRequest, record  # noqa: PLC0415

    record(RecordRequest(out=recording, sim=True, seed=seed))
    return recording / "episode_000000"


@dataclass(frozen=True, slots=True)
class _Nodes:
    """The running policy and supervisor."""

    children: Children
    environment: dict[str, str]

    def replay(self, bag: Path, out: Path) -> int:
        """Drives the nodes from a recording and writes the report; a node's end meanwhile is an error."""
        command = node_command("replay_node", {"bag": bag, "out": out}, "--log-level", "warn")
        return self.children.wait(self.children.start("replay", command, self.environment, shown=True))


@contextmanager
def _running(checkpoint: str, *, domain: int | None, log_dir: Path) -> Iterator[_Nodes]:
    """Starts the policy and the supervisor in lockstep, on this machine only, and ends them in every case."""
    environment = node_environment(free_domain(domain)) | {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        # The small model gains nothing from more threads, and on a busy machine they wait for each other.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    policy = {"lockstep": True, "checkpoint": checkpoint, "allow_untrained": True}
    with children(log_dir) as group:
        group.start("supervisor", node_command("supervisor_node", {"lockstep": True}), environment)
        group.start("policy", node_command("policy_node", policy), environment)
        yield _Nodes(group, environment)


def _show(out: Path, console: Console) -> None:
    """Prints the report's verdict, its scores and where it is."""
    report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    if not report["checkpoint"]["trained"]:
        console.print("untrained model: the path works, the numbers mean nothing", style="bold yellow")
    console.print(report["verdict"]["headline"], style="bold")
    console.print(report["verdict"]["supervised"])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("mean squared error", "base", "Sigma", "after the supervisor"):
        table.add_column(column, justify="right" if column != "mean squared error" else "left")
    for name, text in _ERRORS.items():
        table.add_row(f"{name} ({text})", *(_number(report[arm][name]) for arm in ("baseline", "sigma", "commanded")))
    console.print(table)
    supervisor, timing = report["supervisor"], report["timing"]
    limits = ", ".join(f"{name} {count}" for name, count in supervisor["bounded_limits"].items() if count)
    console.print(
        f"{report['samples']} windows; scale {_number(supervisor['applied_scale_mean'])} applied of "
        f"{_number(supervisor['requested_scale_mean'])} asked for; {supervisor['ticks']} supervisor ticks, "
        f"{supervisor['clipped']} with a bounded joint{f' ({limits})' if limits else ''}, "
        f"{supervisor['violations']} violations; policy tick {timing['tick_ms_p50']:.0f} ms"
    )
    for name in ("recording", "report.json", "report.html"):
        console.print(f"  {out / name}", soft_wrap=True)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
