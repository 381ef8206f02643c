# SPDX-License-Identifier: Apache-2.0
"""The demo's node processes: a supervisor and a policy in lockstep, a replay that drives them, on this machine only."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from sigma_ros.cli.processes import Children, children, free_domain, node_command, node_environment

_ERRORS = {"mse_vec": "first step", "mse_chk": "8 steps", "mse_trj": "16 steps"}


@dataclass(frozen=True, slots=True)
class DemoNodes:
    """The running policy and supervisor."""

    children: Children
    environment: dict[str, str]

    def replay(self, bag: Path, out: Path) -> int:
        """Drives the nodes from a recording and writes the report; gives the replay's exit code.

        Raises:
            SigmaError: a node ended meanwhile; its last words are in the error.
        """
        command = node_command("replay_node", {"bag": bag, "out": out}, "--log-level", "warn")
        return self.children.wait(self.children.start("replay", command, self.environment, shown=True))


@contextmanager
def running(checkpoint: str, *, domain: int | None, log_dir: Path) -> Iterator[DemoNodes]:
    """Starts the policy and the supervisor, and ends them in every case.

    Raises:
        MachineError: the ROS domain is in use.
    """
    environment = node_environment(free_domain(domain)) | {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        # The small model gains nothing from more threads, and on a busy machine they wait for each other.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    policy = {"lockstep": True, "checkpoint": checkpoint, "allow_untrained": True}
    with children(log_dir) as group:
        group.start("supervisor", node_command("supervisor_node", {"lockstep": True}), environment)
        group.start("policy", node_command("policy_node", policy), environment)
        yield DemoNodes(group, environment)


def show(out: Path, console: Console) -> None:
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
