# SPDX-License-Identifier: Apache-2.0
"""The command `sigma`: finds the verb, turns failures into one message and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted; verbs that read recordings add 3 (complete with losses).
"""

import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from sigma_ros import __version__
from sigma_ros.cli import training
from sigma_ros.errors import MachineError, SigmaError, UsageError, show_error
from sigma_ros.stopping import INTERRUPTED

OLDEST_PYTHON = (3, 12)


def main() -> None:
    """Entry point of the console script; always leaves through `SystemExit`."""
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(_wrong_python(sys.version_info[:3]))

    with explained():
        sys.exit(app(prog_name="sigma", standalone_mode=False))


def _wrong_python(version: tuple[int, ...]) -> str:
    found = ".".join(str(part) for part in version)
    return (
        f"error: wrong Python\n  expected  3.12 or newer\n  got       {found} ({sys.executable})\n"
        "  remedy    use the project's environment: make setup, then . ./env.sh"
    )


# The verbs of `sigma`. A verb's module is imported when the verb is used, so that help stays fast.


ROOMS = {
    "recordings": {
        "record": "Record episodes into a bag.",
        "inspect": "Say what is in a bag, a data set or a checkpoint.",
        "dataset": "Write bags as a LeRobot data set.",
        "transcode": "Turn an episode of a LeRobot data set into a bag.",
        "init": "Write a contract for your own arm from a data set and a calibration.",
        "contract": "Check a robot's contract file, or draft one.",
    },
    "scores": {
        "demo": "Record, replay through the nodes and report, on this machine alone.",
        "sim": "Run the closed loop on the simulated arm and count successes.",
        "replay": "Drive the policy and the supervisor from a bag and score them.",
        "evaluate": "Replay many bags on many workers; one summary.",
        "compare": "Put two reports of the same recordings side by side.",
        "audit": "Say which inputs a policy uses: pictures, text, memory.",
        "model": "Make, inspect and explain models and checkpoints.",
    },
    "robot": {
        "doctor": "Check machine, ROS, streams, units and checkpoint, and say what to do.",
        "calibrate": "Check the arm's units and calibration against the training data.",
        "delays": "Measure how late camera, policy and arm are.",
        "run": "Start an arm, simulated or real, with policy and supervisor.",
        "panel": "Watch and operate a running arm from a page.",
        "monitor": "Watch arm and policy in the terminal.",
        "engage": "Let the policy move the running arm.",
        "release": "Bring the running arm to rest and let it go.",
        "stop": "Stop the running arm and latch the stop.",
        "reset": "Leave a latched stop; never engages.",
        "scale": "Bound how much of Sigma's correction is applied.",
        "task": "Tell the running policy another task.",
    },
    "training": training.VERBS,
}
"""Room -> verb -> one line for the help. A verb's `app` is in `sigma_ros.cli.<room>.<verb>`; training has its own."""

_SHARED_MODULES = dict.fromkeys(("engage", "release", "stop", "reset", "scale", "task", "panel"), "operate")
"""Verb -> the module that it shares with others."""

VERBS = {verb: room for room, verbs in ROOMS.items() for verb in verbs}
"""Verb -> room."""


class VerbGroup(TyperGroup):
    """Lists the verbs without importing them; imports the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The called verb's command in place of its one-line stand-in."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_verb(name) if name is not None else command, rest


def load_verb(name: str) -> Any:
    """Imports the verb's module and returns its command."""
    if name in training.VERBS:
        return training.command(name)
    module = _SHARED_MODULES.get(name, name)
    command: Any = typer.main.get_command(import_module(f"sigma_ros.cli.{VERBS[name]}.{module}").app)
    return command.commands[name] if name in _SHARED_MODULES else command


def _stand_in() -> None:
    """Holds a verb's place in the help; `VerbGroup` calls the verb itself."""


def _show_version(*, wanted: bool) -> None:
    if wanted:
        from sigma_ros.evaluation.scoring.scores import installed  # noqa: PLC0415 - help stays fast

        typer.echo(f"sigma_ros {__version__}")
        typer.echo(f"python {platform.python_version()}")
        for name in ("lerobot", "torch", "numpy", "rosbags"):
            typer.echo(f"{name} {installed(name)}")
        raise typer.Exit


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


for _room, _verbs in ROOMS.items():
    for _verb, _help in _verbs.items():
        app.command(_verb, help=_help, rich_help_panel=_room.capitalize())(_stand_in)


# What a failed command says on stderr, and the exit code it leaves with.


_REMEDIES = {
    "rclpy": "make setup, then . ./env.sh; or source a ROS 2 installation",
    "sigma_ros.msg": "build the messages: make setup, then . ./env.sh; or colcon build and source install/setup.bash",
    "ray": 'pip install "sigma_ros[fleet]"',
    "mujoco": 'pip install "sigma_ros[sim]", or make setup',
    "scservo_sdk": 'pip install "sigma_ros[arm]", or make setup',
}


@contextmanager
def explained() -> Iterator[None]:
    """Turns a `SigmaError`, a missing package and Ctrl-C into one message and an exit code."""
    try:
        yield
    except SigmaError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if _is_ours(error.name):
            raise
        missing = missing_package(error.name or str(error))
        show_error(missing)
        sys.exit(missing.exit_code)
    except _WRONG_USAGE as error:
        sys.exit(_show_usage(error))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)


_WRONG_USAGE: tuple[type[Exception], ...] = (click.UsageError, typer.BadParameter.__mro__[1])
"""What a parser raises: Click's own for the training verbs, else that of Typer's copy of Click."""


def _show_usage(error: Any) -> int:
    """Shows what a parser has against a command, with an example that it takes; gives the exit code."""
    if error.ctx is None or type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    path, text = error.ctx.command_path, " ".join((error.ctx.command.help or "").split())
    example = "".join(f"{found} | " for found in re.findall(r"Example: (.*)", text))
    wrong = UsageError(error.format_message().rstrip("."), where=path, remedy=f"{example}{path} --help")
    show_error(wrong)
    return wrong.exit_code


def missing_package(name: str) -> MachineError:
    """The error for a package that does not import, with the extra that brings it."""
    package = name.partition(".")[0]
    remedy = _REMEDIES.get(name) or _REMEDIES.get(package) or "install the package again, or run make setup"
    return MachineError(f"the Python package {name} is not installed", where=sys.executable, remedy=remedy)


def _is_ours(name: str | None) -> bool:
    return name is not None and name.partition(".")[0] == "sigma_ros" and name != "sigma_ros.msg"


if __name__ == "__main__":
    main()
