# SPDX-License-Identifier: Apache-2.0
"""`sigma contract`: checks a robot's contract file and shows what it means."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract

app = typer.Typer(no_args_is_help=True, help="A robot's contract: joints, cameras, topics, units.")


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
    console = Console(highlight=False)
    console.print(f"contract {checked.name}: no problem found", style="bold green")
    for table in (_joints(checked), _aliases(checked), _cameras(checked), _sources(checked)):
        console.print(table)


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
    table = _table("camera", "topic, type", "size [px]", "oldest", "model key")
    for camera in contract.cameras:
        table.add_row(
            camera.name,
            f"{camera.topic}\n{camera.message_type}",
            f"{camera.width_px} x {camera.height_px}",
            f"{camera.max_age_ns / 1e6:g} ms",
            camera.model_key,
        )
    return table


def _sources(contract: Contract) -> Table:
    table = _table("what", "value")
    table.add_row("frame rate", f"{contract.fps:g} Hz, waits {contract.settle_ns / 1e6:g} ms for late messages")
    table.add_row(
        "joint states", f"{contract.joint_state_topic}, at most {contract.joint_state_max_age_ns / 1e6:g} ms old"
    )
    table.add_row("recorded action", contract.action_source.replace("_", " "))
    table.add_row(
        "commands", f"{contract.command_topic}, {1e9 / contract.command_period_ns:g} Hz\n{contract.command_type}"
    )
    table.add_row("tasks", "\n".join(contract.tasks))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == columns[0])
    return table
