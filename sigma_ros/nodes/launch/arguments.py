# SPDX-License-Identifier: Apache-2.0
"""What the launch files share: arguments that are checked, texts that stay texts, ends that are told.

For `launch/*.py` alone: it needs `launch_ros`, which comes with a ROS installation. `ros2 launch` runs under the
distribution's own Python, so nothing that is imported here may need a package of pip.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from launch.actions import DeclareLaunchArgument, EmitEvent
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_context import LaunchContext
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

from sigma_ros.errors import SigmaError, UsageError

Arguments = Mapping[str, tuple[str | None, str]]
"""Arguments of a launch file by name, each with default (None: must be given) and description."""
Given = Mapping[str, str]
"""What the arguments are in one launch."""

TRUE_OR_FALSE = ("true", "false", "True", "False")
STOP_TIMEOUTS = {"sigterm_timeout": "10", "sigkill_timeout": "5"}
"""A loaded machine takes seconds to end a process with torch in it; the supervisor's last words take 3 s at most."""

COMMON: Arguments = {
    "contract": ("so101", "contract file, or the name of a shipped one (so101, cr5)"),
    "namespace": ("", "namespace of nodes, topics and services, such as arm1; empty: none"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}
CHOICES = {
    "log_level": ("debug", "info", "warn", "error", "fatal"),
    "setup": ("source", "target", "bumped"),
    "zero": ("encoder", "range"),
}


def declared(arguments: Arguments, choices: Mapping[str, Sequence[str]] | None = None) -> list[DeclareLaunchArgument]:
    """The arguments for a launch description.

    Another value than one of `choices`, of `CHOICES`, or true and false where the default is one of them, stops the
    launch before any process starts.
    """
    known = CHOICES | dict(choices or {})
    return [
        DeclareLaunchArgument(
            name,
            default_value=default,
            description=description,
            choices=known.get(name, TRUE_OR_FALSE if default in TRUE_OR_FALSE else None),
        )
        for name, (default, description) in arguments.items()
    ]


def values(context: LaunchContext, arguments: Arguments) -> dict[str, str]:
    """What the arguments are in this launch, as texts: launch itself would read `2026` as a number."""
    return {name: LaunchConfiguration(name).perform(context) for name in arguments}


def is_true(text: str) -> bool:
    """What `true` and `false` mean, however they are spelled."""
    return text.lower() == "true"


def number[NumberT: (int, float)](given: Given, name: str, kind: type[NumberT]) -> NumberT:
    """An argument as a number.

    Raises:
        UsageError: it is none.
    """
    try:
        return kind(given[name])
    except ValueError as error:
        raise UsageError(
            "a launch argument is no number", where=name, got=given[name], expected=kind.__name__
        ) from error


def full_name(context: LaunchContext, given: Given, node: str) -> str:
    """The name of a node with its namespaces: that of the launch around this one, if any, and the argument's."""
    around = context.launch_configurations.get("ros_namespace")
    namespace = make_namespace_absolute(prefix_namespace(around, given["namespace"] or None)) or ""
    return f"{namespace.rstrip('/')}/{node}"


def sigma_node(
    executable: str,
    name: str,
    given: Given,
    parameters: Mapping[str, object],
    *,
    files: Sequence[Path] = (),
    **more: object,
) -> Node:
    """A node of this package in the launch's namespace; parameter `files` win over `parameters`.

    `more` are further arguments of `Node`.
    """
    settings: dict[str, object] = {"output": "screen", "emulate_tty": True, **STOP_TIMEOUTS, **more}
    return Node(
        package="sigma_ros",
        executable=executable,
        name=name,
        namespace=given["namespace"] or None,
        parameters=[dict(parameters), *(str(file) for file in files)],
        ros_arguments=["--log-level", given["log_level"]],
        **settings,
    )


def ends_all(what: str) -> Callable[[ProcessExited, LaunchContext], EmitEvent]:
    """For `OnProcessExit`: the end of `what` ends the launch; its failure makes `ros2 launch` fail too."""

    def ended(event: ProcessExited, context: LaunchContext) -> EmitEvent:
        if event.returncode != 0 and not context.is_shutdown:
            got = f"exit code {event.returncode}"
            raise SigmaError(f"{what} did not end well", got=got, remedy="read its last lines above")
        return EmitEvent(event=Shutdown(reason=f"{what} ended"))

    return ended
