# SPDX-License-Identifier: Apache-2.0
"""What the launch files share: arguments that are checked, texts that stay texts, ends that are told.

For `launch/*.py` alone: it needs `launch_ros`, which comes with a ROS installation.
"""

from collections.abc import Callable, Mapping

from launch.actions import DeclareLaunchArgument, EmitEvent
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_context import LaunchContext
from launch.substitutions import LaunchConfiguration
from launch_ros.parameter_descriptions import ParameterValue

from sigma_ros.errors import SigmaError

TRUE_OR_FALSE = ("true", "false", "True", "False")
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
STOP_TIMEOUTS = {"sigterm_timeout": "10", "sigkill_timeout": "5"}
"""A loaded machine takes seconds to end a process with torch in it; the supervisor's last words take 3 s at most."""


def declared(
    arguments: Mapping[str, tuple[str | None, str]], choices: Mapping[str, tuple[str, ...]] | None = None
) -> list[DeclareLaunchArgument]:
    """Arguments by name, each with default (None: must be given) and description.

    Another value than one of `choices`, a log level, or true and false where the default is one of them, stops the
    launch before any process starts.
    """
    allowed = {"log_level": LOG_LEVELS} | dict(choices or {})
    return [
        DeclareLaunchArgument(
            name,
            default_value=default,
            description=description,
            choices=allowed.get(name, TRUE_OR_FALSE if default in TRUE_OR_FALSE else None),
        )
        for name, (default, description) in arguments.items()
    ]


def text(name: str) -> ParameterValue:
    """An argument's value as a text parameter; by itself launch reads `2026` as a number and `do: it` as a mapping."""
    return ParameterValue(LaunchConfiguration(name), value_type=str)


def ends_all(what: str) -> Callable[[ProcessExited, LaunchContext], EmitEvent]:
    """For `OnProcessExit`: the end of `what` ends the launch; its failure makes `ros2 launch` fail too."""

    def ended(event: ProcessExited, context: LaunchContext) -> EmitEvent:
        if event.returncode != 0 and not context.is_shutdown:
            got = f"exit code {event.returncode}"
            raise SigmaError(f"{what} did not end well", got=got, remedy="read its last lines above")
        return EmitEvent(event=Shutdown(reason=f"{what} ended"))

    return ended
