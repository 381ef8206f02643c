# SPDX-License-Identifier: Apache-2.0
"""One place that starts, spins and ends every node process.

rclpy's own signal handling invalidates the context first, so nothing can be published after Ctrl-C. Here a
signal only asks: the executor ends its turn, the node's `stop` says its last words, then the context goes.
A signal a second or more after the first ends the process at once; sooner it is the same Ctrl-C once more, which a
terminal sends to all processes and `ros2 launch` to its own. Exit codes: 0 ended when asked, 1 failed, 2 wrong usage.
"""

import argparse
import atexit
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from sigma_ros.contract_text import shipped_config_dir
from sigma_ros.errors import SigmaError, UsageError
from sigma_ros.nodes.options import Options, specs
from sigma_ros.nodes.parameters import note_arguments

_FAST_DDS_2_DISTROS = ("humble", "iron", "jazzy")
_STOP_TIMEOUT_S = 3.0
_SAME_REQUEST_S = 1.0


class Stoppable(Protocol):
    """A node that has something to say before it goes."""

    def stop(self) -> bool:
        """Called again and again after the signal, between callbacks, until it returns True."""
        ...


class StopRequest:
    """Set by SIGINT or SIGTERM. `number` is the signal, 0 before."""

    def __init__(self) -> None:
        self.number = 0
        self._first_s = 0.0
        self._wake: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return self.number != 0

    def wakes(self, wake: Callable[[], None]) -> None:
        """Registers what to call, from another thread, when the signal comes."""
        self._wake.append(wake)

    def set(self, number: int) -> None:
        """Records the signal; another one, unless it belongs to the first, ends the process."""
        if self.number:
            if time.monotonic() - self._first_s >= _SAME_REQUEST_S:
                os._exit(128 + number)
            return
        self._first_s = time.monotonic()
        self.number = number
        for wake in self._wake:
            wake()


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turns SIGINT and SIGTERM into a `StopRequest` within a millisecond, even while C code waits.

    After a request the process goes: the handlers from before, which would kill it, do not come back.
    """
    request = StopRequest()
    reader, writer = socket.socketpair()
    writer.settimeout(0.0)
    numbers = (signal.SIGINT, signal.SIGTERM)

    def listen() -> None:
        while data := reader.recv(1):
            if data[0] in numbers:
                request.set(data[0])

    old_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)  # first: the handlers alone would lose it
    before = {number: signal.signal(number, lambda _number, _frame: None) for number in numbers}
    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    try:
        yield request
    finally:
        signal.set_wakeup_fd(old_fd)
        for number, handler in before.items():
            signal.signal(number, (lambda late, _frame: request.set(late)) if request else handler)
        if request:
            atexit.register(_ignore_signals, numbers)  # Python's own end would take the handlers away
        writer.close()
        thread.join()
        reader.close()


def _ignore_signals(numbers: Sequence[int]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


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
    timers under load (docs/ros_interface.md), so no node uses one.
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
    with stop_on_signal() as request, ros_context(arguments):
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
            help=f"{spec.description} (default: {spec.default!r}; allowed: {spec.allowed})".replace("%", "%%"),
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
