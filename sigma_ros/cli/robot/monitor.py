# SPDX-License-Identifier: Apache-2.0
"""`sigma monitor`: what arm and policy do, live in a terminal.

Rich's `Live` and not Textual: Rich is here anyway, a view that only shows needs no keys, and it works over SSH.
"""

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sigma_ros.cli.robot.console import COLOURS
from sigma_ros.supervisor.reasons import State

if TYPE_CHECKING:
    from sigma_ros.nodes.shared.listen import MonitorView

app = typer.Typer(help="Watch arm and policy in the terminal.", add_completion=False)


@app.command()
def monitor(
    *,
    rate_hz: Annotated[float, typer.Option(min=1.0, max=30.0, help="How often the view is drawn.")] = 5.0,
    namespace: Annotated[str, typer.Option(help="Of the nodes to watch, such as arm1.")] = "",
    seconds: Annotated[float, typer.Option(min=0.0, help="End after so long; 0: at Ctrl-C.")] = 0.0,
) -> None:
    """Shows state, scale, risk, ages, rates and the last reasons until Ctrl-C.

    Example: sigma monitor
    """
    from sigma_ros.nodes.shared.listen import Monitor, listening  # noqa: PLC0415 - rclpy loads when it is used

    end_s = time.monotonic() + seconds if seconds else float("inf")
    with (
        listening("sigma_monitor", namespace=namespace) as (node, spin),
        Live(refresh_per_second=rate_hz, screen=False) as live,
    ):
        seen = Monitor(node).seen
        while time.monotonic() < end_s:
            spin(1.0 / rate_hz)
            live.update(view(seen, time.monotonic()))


def view(seen: "MonitorView", now_s: float) -> RenderableType:
    """The whole view of one moment."""
    if not seen.heard_s:
        return Panel("nothing heard yet; start the nodes, and look at ROS_DOMAIN_ID", title="sigma")
    top = Columns([_supervisor(seen), _policy(seen, now_s)], expand=True)
    return Group(top, _lists(seen))


def _supervisor(seen: "MonitorView") -> Panel:
    told = seen.supervisor
    if told is None:
        return Panel("no supervisor", title="supervisor")
    state = State(told.state).name
    table = Table.grid(padding=(0, 1))
    table.add_row("state", Text(state, style=COLOURS.get(state, "")))
    table.add_row("why", told.reason_text)
    for name in ("requested_scale", "scale_ceiling", "applied_scale"):
        table.add_row(name.replace("_", " "), _bar(getattr(told, name)))
    table.add_row("bounded now", ", ".join(told.clipped_joints) or "-")
    table.add_row("joint states", f"{1e3 * told.joint_state_age:.0f} ms old")
    table.add_row("chunks", f"{told.accepted_chunks} taken, {told.refused_chunks} refused")
    table.add_row("holds, violations", f"{told.holds}, {told.violations}")
    table.add_row("longest tick", f"{1e3 * told.tick_gap_max:.0f} ms")
    return Panel(table, title="supervisor")


def _policy(seen: "MonitorView", now_s: float) -> Panel:
    chunk, telepathy = seen.chunk, seen.telepathy
    table = Table.grid(padding=(0, 1))
    rates = ", ".join(f"{name} {rate.hz(now_s):.1f}" for name, rate in seen.rates.items())
    table.add_row("rates [Hz]", rates)
    if chunk is not None:
        inference_ms = chunk.inference_time.sec * 1e3 + chunk.inference_time.nanosec / 1e6
        risk = chunk.residual_risk + chunk.factor_risk + chunk.alignment_risk
        table.add_row("inference", f"{inference_ms:.0f} ms, chunk {1e3 * seen.chunk_delay_s:.0f} ms after its tick")
        table.add_row("epoch, tick", f"{chunk.epoch}, {chunk.tick}")
        table.add_row(
            "risk",
            f"{risk:.2f} = residual {chunk.residual_risk:.2f} + factors {chunk.factor_risk:.2f} "
            f"+ alignment {chunk.alignment_risk:.2f}",
        )
        table.add_row("adapter", f"{chunk.min_scale:g} to {chunk.max_scale:g}, temperature {chunk.risk_temperature:g}")
    if telepathy is not None:
        table.add_row("task", telepathy.task)
        table.add_row("tau, sem_align", f"{telepathy.tau_l2:.2f}, {telepathy.sem_align:.2f}")
    return Panel(table, title="policy")


def _lists(seen: "MonitorView") -> Columns:
    reasons = "\n".join(seen.reasons) or "-"
    troubles = "\n".join(f"{name}: {text}" for name, text in sorted(seen.troubles.items())) or "all well"
    return Columns([Panel(reasons, title="last reasons"), Panel(troubles, title="diagnostics")], expand=True)


def _bar(value: float) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_row(ProgressBar(total=1.0, completed=value, width=20), f"{value:.2f}")
    return row
