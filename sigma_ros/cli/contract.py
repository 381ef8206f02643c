# SPDX-License-Identifier: Apache-2.0
"""`sigma contract`: checks a robot's contract file and shows what it means."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.kinematics import ForwardKinematics

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
    table.add_row(
        "joint states", f"{contract.joint_state_topic}, at most {contract.joint_state_max_age_ns / 1e6:g} ms old"
    )
    table.add_row("recorded action", contract.action_source.replace("_", " "))
    table.add_row(
        "commands", f"{contract.command_topic}, {1e9 / contract.command_period_ns:g} Hz\n{contract.command_type}"
    )
    table.add_row("tasks", "\n".join(contract.tasks))
    return table


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
