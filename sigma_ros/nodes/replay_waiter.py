# SPDX-License-Identifier: Apache-2.0
"""Waiting for other nodes: with a limit, with the user's wish to stop, and with a clear word when nothing comes."""

import time
from collections.abc import Callable
from typing import Any

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from sigma_ros.errors import SigmaError
from sigma_ros.stopping import StopRequest


class InterruptedReplayError(Exception):
    """The user asked to stop."""


class Waiter:
    """Runs callbacks until something has come, with a limit and a clear word when it has not.

    Args:
        executor: Runs the node's callbacks.
        stop: The user's wish to stop; raises `InterruptedReplayError`.
        timeout_s: Limit of a wait that names none.
    """

    def __init__(self, executor: SingleThreadedExecutor, stop: StopRequest, *, timeout_s: float) -> None:
        self._executor = executor
        self._stop = stop
        self._timeout_s = timeout_s

    def until(
        self, done: Callable[[], object], *, what: str, where: str, remedy: str, timeout_s: float | None = None
    ) -> None:
        """Waits for `done()`.

        Raises:
            InterruptedReplayError: the user asked to stop.
            SigmaError: it did not come in time; says `what` was waited for, from `where`.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        end_s = time.monotonic() + limit_s
        while not done():
            if self._stop:
                raise InterruptedReplayError
            if time.monotonic() > end_s:
                raise SigmaError(f"no answer within {limit_s:g} s", where=where, expected=what, remedy=remedy)
            self._executor.spin_once(timeout_sec=0.1)

    def call(self, node: Node, kind: type, name: str, request: object, *, remedy: str) -> Any:
        """A service's answer."""
        client: Any = node.create_client(kind, name)
        try:
            self.until(client.service_is_ready, what="the service", where=name, remedy=remedy)
            future = client.call_async(request)
            self.until(future.done, what="the service's answer", where=name, remedy=remedy)
            return future.result()
        finally:
            node.destroy_client(client)
