# SPDX-License-Identifier: Apache-2.0
"""A child process with its log and its resources."""

import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]


class Process:
    """A Python process that was started here; `usage` is its entry in the process table."""

    def __init__(self, *command: str, log: Path, stdin: bool = False) -> None:
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                [sys.executable, *command],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                cwd=ROOT,
            )
        self.usage = psutil.Process(self.popen.pid)

    @property
    def alive(self) -> bool:
        """Whether it still runs (stopped counts as running)."""
        return self.popen.poll() is None

    def signal(self, number: int) -> None:
        """Sends a signal to a living process."""
        if self.alive:
            self.popen.send_signal(number)

    def end(self) -> None:
        """Kills it and waits."""
        if self.alive:
            self.popen.kill()
        self.popen.wait()
        if self.popen.stdin is not None:
            self.popen.stdin.close()

    def resources(self) -> dict[str, float]:
        """Resident memory [MB], file descriptors, threads, CPU seconds; empty when it is gone."""
        try:
            with self.usage.oneshot():
                cpu = self.usage.cpu_times()
                return {
                    "rss_mb": round(self.usage.memory_info().rss / 2**20, 2),
                    "fds": self.usage.num_fds(),
                    "threads": self.usage.num_threads(),
                    "cpu_s": round(cpu.user + cpu.system, 2),
                }
        except psutil.NoSuchProcess:
            return {}
