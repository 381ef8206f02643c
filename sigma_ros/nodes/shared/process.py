# SPDX-License-Identifier: Apache-2.0
"""One place that starts, spins and ends every node process.

rclpy's own signal handling invalidates the context first, so nothing can be published after Ctrl-C. Here a
signal only asks: the executor ends its turn, the node's `stop` says its last words, then the context goes.
Exit codes: 0 ended when asked, 1 failed, 2 wrong usage.
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from sigma_ros.contract_text import shipped_config_dir
from sigma_ros.errors import SigmaError, UsageError
from sigma_ros.nodes.shared.parameters import Options, note_arguments, specs
from sigma_ros.stopping import end_on_signal

_FAST_DDS_2_DISTROS = ("humble", "iron", "jazzy")
_STOP_TIMEOUT_S = 3.0


def use_shipped_dds_profile(profile: str = "fastdds.xml") -> None:
    """Without a profile of the user's own, Fast DDS gets segments in which camera images fit (config/fastdds.xml).

    The supervisor takes another of the shipped profiles, also where the environment script has set the common one.
    """
    names = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
    folder = shipped_config_dir()
    given = [Path(os.environ[name]).resolve() for name in names if os.environ.get(name)]
    if all(path == (folder / "fastdds.xml").resolve() for path in given):
        old = os.environ.get("ROS_DISTRO") in _FAST_DDS_2_DISTROS
        os.environ[names[1] if old else names[0]] = str(folder / profile)


@contextmanager
def ros_context(arguments: Sequence[str]) -> Iterator[None]:
    """An initialised rclpy without its signal handlers."""
    use_shipped_dds_profile()
    note_arguments(arguments)
    with _ros_arguments_checked():
        rclpy.init(args=list(arguments), signal_handler_options=SignalHandlerOptions.NO)
    try:
        yield
    finally:
        rclpy.try_shutdown()
        note_arguments(())


@contextmanager
def _ros_arguments_checked() -> Iterator[None]:
    try:
        yield
    except (rclpy_implementation.RCLError, rclpy_implementation.UnknownROSArgsError) as error:
        said = str(error).split(", at /")[0]
        raise UsageError("the ROS arguments cannot be used", got=said, remedy="write -p NAME:=VALUE") from error


def run_node(
    make: Callable[[list[Parameter]], Node],
    options_type: type[Options],
    args: Sequence[str] | None,
    description: str | None,
) -> int:
    """Spins one node on a single-threaded executor until a signal, an error or its own `finished`.

    Every parameter is also a command-line option (`--adapter.max_scale 0.5`). Multi-threaded executors starve
    timers under load (DESIGN.md), so no node uses one.
    """
    return guarded(lambda: _run_node(make, options_type, args, description))


def guarded(run: Callable[[], int]) -> int:
    """Runs, and turns a failure into one line on stderr and an exit code."""
    try:
        return run()
    except SigmaError as error:
        get_logger("sigma").fatal(str(error))
        return error.exit_code
    except Exception:
        get_logger("sigma").fatal(f"unexpected failure, please report it:\n{traceback.format_exc()}")
        return 1


def _run_node(
    make: Callable[[list[Parameter]], Node],
    options_type: type[Options],
    args: Sequence[str] | None,
    description: str | None,
) -> int:
    arguments = sys.argv if args is None else [sys.argv[0], *args]
    overrides = command_line(options_type, arguments, description)
    with end_on_signal() as request, ros_context(arguments):
        node = make(overrides)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        request.wakes(node.create_guard_condition(lambda: None).trigger)
        request.wakes(lambda: _leave_loading(node))
        try:
            while not request and rclpy.ok() and not getattr(node, "finished", False):
                executor.spin_once()
            _last_words(node, executor)
        finally:
            executor.remove_node(node)
            executor.shutdown(timeout_sec=0)
            node.destroy_node()
        return int(getattr(node, "exit_code", 0))


def command_line(options_type: type[Options], arguments: Sequence[str], description: str | None) -> list[Parameter]:
    """Options of `arguments` (program name first) outside `--ros-args`, as parameters; `--help` lists them all."""
    with _ros_arguments_checked():
        own = rclpy.utilities.remove_ros_args(list(arguments))[1:]
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for spec in specs(options_type):
        parser.add_argument(
            f"--{spec.name}",
            type=_boolean if spec.kind is bool else spec.kind,
            choices=spec.choices or None,
            metavar=spec.kind.__name__,
            help=spec.help.replace("%", "%%"),
        )
    values = vars(parser.parse_args(own))
    return [Parameter(name, value=value) for name, value in values.items() if value is not None]


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text}")
    return text.lower() == "true"


def _leave_loading(node: Node) -> None:
    """Ends a node that is `loading`: it has nothing to say yet, and no executor turns until it is done."""
    if getattr(node, "loading", False):
        node.get_logger().info("stopped while loading")
        os._exit(0)


def _last_words(node: Node, executor: SingleThreadedExecutor) -> None:
    stop = getattr(node, "stop", None)
    if stop is None or not rclpy.ok():
        return
    end_s = time.monotonic() + _STOP_TIMEOUT_S
    while not stop() and time.monotonic() < end_s:
        executor.spin_once(timeout_sec=0.02)
