# SPDX-License-Identifier: Apache-2.0
"""`sigma panel`: a page to watch and operate a running arm with, in a browser on this machine or a phone."""

from typing import Annotated

import typer

from sigma_ros.cli.options import ContractName, GroupedCommand, NoBrowser, verb
from sigma_ros.cli.processes import check_installed

app = verb(no_args_is_help=False)


@app.command(cls=GroupedCommand)
def panel(
    *,
    contract: ContractName = "so101",
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; 0.0.0.0 lets others in who have the token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="TCP port; 0: any that is free.")] = 8700,
    namespace: Annotated[str, typer.Option("--namespace", metavar="NAME", help="Of the nodes, such as arm1.")] = "",
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
