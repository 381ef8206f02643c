# SPDX-License-Identifier: Apache-2.0
"""`sigma engage | release | stop | reset | scale | task`: one order to a running graph, and what it answers.

`sigma panel`: a page to watch and operate it with, in a browser on this machine or a phone.
"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sigma_ros.cli.options import ContractName, GroupedCommand, NoBrowser, verb
from sigma_ros.cli.processes import check_installed

if TYPE_CHECKING:
    from collections.abc import Callable

    from sigma_ros.nodes.shared.operator import Operator

app = verb()
Namespace = Annotated[str, typer.Option("--namespace", metavar="NAME", help="Of the nodes, such as arm1.")]


@app.command()
def engage(namespace: Namespace = "") -> None:
    """Lets the policy move the arm, from where it stands; refused while anything is wrong.

    Example: sigma engage
    """
    _ask(lambda operator: operator.order("engage"), namespace)


@app.command()
def release(namespace: Namespace = "") -> None:
    """Brings the arm to rest and ends the commands; the servos hold it.

    Example: sigma release
    """
    _ask(lambda operator: operator.order("release"), namespace)


@app.command()
def stop(namespace: Namespace = "") -> None:
    """Latches the emergency stop: the arm comes to rest and is held until `sigma reset`.

    Example: sigma stop
    """
    _ask(lambda operator: operator.order("stop"), namespace)


@app.command()
def reset(namespace: Namespace = "") -> None:
    """Leaves a latched stop once its cause is gone; never engages.

    Example: sigma reset && sigma engage
    """
    _ask(lambda operator: operator.order("reset"), namespace)


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


@app.command(cls=GroupedCommand)
def panel(
    *,
    contract: ContractName = "so101",
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; 0.0.0.0 lets others in who have the token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="TCP port; 0: any that is free.")] = 8700,
    namespace: Namespace = "",
    no_browser: NoBrowser = False,
) -> None:
    """Opens a page with cameras, arm, state and scale, ENGAGE, RELEASE and STOP; prints its address.

    The page is a user like any other: the supervisor judges its orders, and needs it for nothing.

    Example: sigma panel
    """
    check_installed("rclpy", "sigma_ros.msg", "aiohttp")
    from sigma_ros.nodes.panel.node import main  # noqa: PLC0415 - rclpy loads when it is used

    given = [f"--contract={contract}", f"--host={host}", f"--port={port}", f"--browser={not no_browser}"]
    named = ["--ros-args", "-r", f"__ns:=/{namespace.strip('/')}"] if namespace else []
    raise typer.Exit(main([*given, *named]))


def _ask(what: "Callable[[Operator], Any]", namespace: str) -> None:
    check_installed("rclpy", "sigma_ros.msg")
    from sigma_ros.nodes.shared.operator import carry_out  # noqa: PLC0415 - rclpy loads when it is used

    typer.echo(carry_out(what, namespace=namespace) or "done")
