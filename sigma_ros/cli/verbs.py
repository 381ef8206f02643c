# SPDX-License-Identifier: Apache-2.0
"""The verbs of `sigma`. A verb's module is imported when the verb is used, so that help stays fast."""

import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sigma_ros import __version__

VERBS = {
    "calibrate": "Check the arm's units and calibration against the training data.",
    "compare": "Put two reports of the same recordings side by side.",
    "contract": "Check a robot's contract file.",
    "dataset": "Write bags as a LeRobot data set.",
    "demo": "Record, replay through the nodes and report, on this machine alone.",
    "evaluate": "Replay many bags on many workers; one summary.",
    "doctor": "Check machine, ROS, streams, units and checkpoint, and say what to do.",
    "model": "Make, inspect and explain models and checkpoints.",
    "monitor": "Watch arm and policy in the terminal.",
    "record": "Record episodes into a bag.",
    "replay": "Drive the policy and the supervisor from a bag and score them.",
    "sim": "Run the closed loop on the simulated arm and count successes.",
    "transcode": "Turn an episode of a LeRobot data set into a bag.",
}
"""Verb -> one line for the help; the module is `sigma_ros.cli.<verb>` and has an `app`."""


class VerbGroup(TyperGroup):
    """Lists the verbs without importing them; imports the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The called verb's command in place of its one-line stand-in."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_verb(name) if name is not None else command, rest


def load_verb(name: str) -> Any:
    """Imports the verb's module and returns its command."""
    return typer.main.get_command(import_module(f"sigma_ros.cli.{name}").app)


def _stand_in() -> None:
    """Holds a verb's place in the help; `VerbGroup` calls the verb itself."""


def _show_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"sigma_ros {__version__}")
        typer.echo(f"python {platform.python_version()}")
        for name in ("lerobot", "torch", "numpy", "rosbags"):
            typer.echo(f"{name} {_installed(name)}")
        raise typer.Exit


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


app = typer.Typer(cls=VerbGroup, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.callback()
def sigma(
    *,
    version_: Annotated[
        bool, typer.Option("--version", help="Show versions and leave.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """A vision-language-action model proposes, a supervisor disposes.

    Example: sigma record --sim --episodes 2 --out bag && sigma replay --bag bag --checkpoint mini --out report
    """


for _verb, _help in VERBS.items():
    if find_spec(f"sigma_ros.cli.{_verb}") is not None:
        app.command(_verb, help=_help)(_stand_in)
