# SPDX-License-Identifier: Apache-2.0
"""Child processes that end with their parent: started in their own groups, watched, stopped in every case."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sigma_ros.cli.main import missing_package
from sigma_ros.errors import MachineError, SigmaError
from sigma_ros.stopping import sigterm_interrupts

_DOMAINS = range(1, 102)
"""ROS domain ids whose ports lie below the kernel's range for outgoing connections."""
_STOP_STEPS = ((signal.SIGINT, 6.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0))
_PR_SET_PDEATHSIG = 1
_LOG_LINES = 12
_PERIOD_S = 0.2


@dataclass(frozen=True, slots=True)
class Child:
    """A running child and the file that its output goes to."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def last_lines(self) -> str:
        """The end of the child's output; empty if it went to the terminal."""
        if not self.log.is_file():
            return ""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:])


class Children:
    """The children of one command; use `children()`, which stops them in every case."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._children: list[Child] = []

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str], *, shown: bool = False) -> Child:
        """Starts a child whose output goes to `<log_dir>/<name>.log`, or to the terminal if `shown`."""
        self._log_dir.mkdir(parents=True, exist_ok=True)
        log = self._log_dir / f"{name}.log"
        with nullcontext() if shown else log.open("wb") as output:
            process = subprocess.Popen(
                list(command),
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=dict(environment),
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - the command starts children before any thread
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def ended(self) -> tuple[Child, ...]:
        """The children that run no more."""
        return tuple(child for child in self._children if child.process.poll() is not None)

    def wait(self, child: Child) -> int:
        """Waits for a child's end and gives its exit code.

        Raises:
            SigmaError: another child ended first.
        """
        while True:
            code = child.process.poll()
            if code is not None:
                return code
            for other in self.ended():
                if other is not child:
                    raise failure(other)
            try:
                child.process.wait(_PERIOD_S)
            except subprocess.TimeoutExpired:
                continue

    def stop(self) -> None:
        """Asks the children to end, newest first, and makes those that do not."""
        for number, patience_s in _STOP_STEPS:
            running = [child for child in reversed(self._children) if child.process.poll() is None]
            for child in running:
                os.killpg(child.process.pid, number)
            end_s = time.monotonic() + patience_s
            for child in running:
                try:
                    child.process.wait(max(0.0, end_s - time.monotonic()))
                except subprocess.TimeoutExpired:
                    continue


@contextmanager
def children(log_dir: Path) -> Iterator[Children]:
    """Children that are stopped when the block ends: done, failed, Ctrl-C or SIGTERM."""
    group = Children(log_dir)
    with sigterm_interrupts():
        try:
            yield group
        finally:
            group.stop()


def failure(child: Child) -> SigmaError:
    """The error for a child that ended when it should not have."""
    return SigmaError(
        f"the {child.name} process ended",
        where=child.log,
        got=f"exit code {child.process.returncode}, and last:\n{child.last_lines()}",
        remedy="read the log; the last lines say why",
    )


def check_installed(*names: str) -> None:
    """Refuses to start where a package is missing that a process would miss later.

    Raises:
        MachineError: names the package and what brings it.
    """
    for name in names:
        if find_spec(name) is None:
            raise missing_package(name)


def node_command(name: str, parameters: Mapping[str, object], *ros: str) -> list[str]:
    """The command that starts a module of `sigma_ros.nodes` with parameters by name; `ros` follows `--ros-args`."""
    given = [f"--{key}={value}" for key, value in parameters.items()]
    return [sys.executable, "-m", f"sigma_ros.nodes.{name}", *given, *(("--ros-args", *ros) if ros else ())]


def node_environment(domain: int | str) -> dict[str, str]:
    """The environment of nodes on one machine; the discovery range stays where a user has set it."""
    return {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        **os.environ,
        "ROS_DOMAIN_ID": str(domain),
        "PYTHONUNBUFFERED": "1",
    }


def free_domain(wanted: int | None = None) -> int:
    """A ROS domain id that no other process on this machine uses: the wanted one, or else any.

    Raises:
        MachineError: the wanted one, or every one, is in use.
    """
    first = os.getpid() % len(_DOMAINS)
    choices = [wanted] if wanted is not None else [*_DOMAINS[first:], *_DOMAINS[:first]]
    for domain in choices:
        if _is_free(domain):
            return domain
    raise MachineError(
        "the ROS domain is in use on this machine" if wanted is not None else "every ROS domain is in use",
        where=f"domain {wanted}, UDP port {_port(wanted)}" if wanted is not None else "this machine",
        expected="no other ROS process in the domain",
        remedy="end the other process, or choose another domain (1 to 101)",
    )


def _port(domain: int) -> int:
    """The unicast discovery port of the first DDS participant of a domain."""
    return 7400 + 250 * domain + 10


def _is_free(domain: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", _port(domain)))
        except OSError:
            return False
    return True


def _die_with_parent() -> None:
    """Asks Linux to end the child should its parent be killed without a chance to stop it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
