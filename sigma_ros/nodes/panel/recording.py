# SPDX-License-Identifier: Apache-2.0
"""The page's recordings: a `record_node` in the panel's own process, started, kept or thrown away."""

import shutil
import time
from datetime import datetime
from pathlib import Path

from rclpy.executors import Executor
from rclpy.parameter import Parameter

from sigma_ros.errors import UsageError
from sigma_ros.nodes.record_node import RecordNode, judge


class Recording:
    """At most one at a time; used by the executor's thread alone.

    Args:
        folder: Each recording is a new folder in it, named by the time of its start.
        contract: Name or file.
    """

    def __init__(self, folder: Path, contract: str) -> None:
        self._folder = folder
        self._contract = contract
        self._node: RecordNode | None = None
        self._out = folder
        self._started_s = 0.0
        self.said = ""

    @property
    def view(self) -> dict[str, object]:
        """What the page shows."""
        running = self._node is not None
        seconds = time.monotonic() - self._started_s if running else 0.0
        return {"running": running, "seconds": seconds, "said": self.said}

    def start(self, executor: Executor, task: str) -> str:
        """Begins a bag.

        Raises:
            UsageError: one is being recorded.
            SigmaError: the bag cannot be begun.
        """
        if self._node is not None:
            raise UsageError("a recording runs already", where=self._out, remedy="save or discard it first")
        self._out = self._folder / f"{datetime.now():%Y%m%d-%H%M%S-%f}"
        given = {"out": str(self._out), "contract": self._contract, "task": task}
        self._node = RecordNode([Parameter(name, value=value) for name, value in given.items()])
        self._started_s = time.monotonic()
        executor.add_node(self._node)
        self.said = f"recording into {self._out}"
        return self.said

    def save(self, executor: Executor) -> str:
        """Ends the bag and says what it is good for."""
        useless, losses = self._end(executor)
        self.said = f"saved {self._out}" + "".join(f"; {line}" for line in (*useless, *losses))
        return self.said

    def discard(self, executor: Executor) -> str:
        """Ends the bag and deletes it."""
        self._end(executor)
        shutil.rmtree(self._out)
        self.said = f"discarded {self._out}"
        return self.said

    def end_if_full(self, executor: Executor) -> None:
        """Saves what a full disk has ended."""
        if self._node is not None and self._node.finished:
            self.save(executor)

    def close(self, executor: Executor) -> None:
        """At the panel's end: what is being recorded is kept."""
        if self._node is not None:
            self.save(executor)

    def _end(self, executor: Executor) -> tuple[list[str], list[str]]:
        if self._node is None:
            raise UsageError("nothing is being recorded", remedy="start a recording first")
        node, self._node = self._node, None
        executor.remove_node(node)
        node.stop()
        verdict = judge(node.tallies, node.fps)
        node.destroy_node()
        return verdict
