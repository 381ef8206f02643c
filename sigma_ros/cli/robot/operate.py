# SPDX-License-Identifier: Apache-2.0
"""`sigma engage | release | stop | reset | scale | task`: one order to a running graph, and what it answers."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sigma_ros.cli.options import verb
from sigma_ros.cli.processes import check_installed

if TYPE_CHECKING:
    from collections.abc import Callable

    from sigma_ros.nodes.shared.operator import Operator

app = verb()
Namespace = Annotated[str, typer.Option("--namespace", metavar="NAME", help="Of the nodes, such as arm1.")]


_ORDERS = {
    "engage": "Lets the policy move the arm, from where it stands; refused while anything is wrong.\n\n"
    "Example: sigma engage",
    "release": "Brings the arm to rest and ends the commands; the servos hold it.\n\nExample: sigma release",
    "stop": "Latches the emergency stop: the arm comes to rest and is held until `sigma reset`.\n\nExample: sigma stop",
    "reset": "Leaves a latched stop once its cause is gone; never engages.\n\nExample: sigma reset && sigma engage",
}
"""Order -> help."""


def _command_of(order: str) -> "Callable[..., None]":
    def command(namespace: Namespace = "") -> None:
        _ask(lambda operator: operator.order(order), namespace)

    return command


for _name, _help in _ORDERS.items():
    app.command(_name, help=_help)(_command_of(_name))


@app.command()
def scale(
    ceiling: Annotated[float, typer.Argument(min=0.0, max=1.0, metavar="CEILING", help="0: the base alone.")],
    namespace: Namespace = "",
) -> None:
    """Bounds how much of Sigma's correction is applied, from the next command on.

    Example: sigma scale 0.5
    """
    _ask(lambda operator: operator.set("scale", ceiling), namespace)


@app.command()
def task(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to do, in words.")],
    namespace: Namespace = "",
) -> None:
    """Tells the policy another task; its memory begins anew.

    Example: sigma task "pink lego brick into the transparent box"
    """
    _ask(lambda operator: operator.say_task(text), namespace)


def _ask(what: "Callable[[Operator], Any]", namespace: str) -> None:
    check_installed("rclpy", "sigma_ros.msg")
    from sigma_ros.nodes.shared.operator import carry_out  # noqa: PLC0415 - rclpy loads when it is used

    typer.echo(carry_out(what, namespace=namespace) or "done")
