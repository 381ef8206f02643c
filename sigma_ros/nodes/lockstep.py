# SPDX-License-Identifier: Apache-2.0
"""The supervisor on a replay's clock: whatever order the topics arrive in, things happen in the order of their stamps.

At each clock message: joint states up to it and chunks stamped up to it, by stamp, joint states first where
equal; then the operator; then the tick. The graph-free replay (`evaluation.supervised`) keeps the same order.
"""

import heapq
from dataclasses import dataclass

from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.control.decision import Decision
from sigma_ros.control.limits import SupervisorLimits
from sigma_ros.control.supervisor import Supervisor
from sigma_ros.evaluation.replay_operator import ReplayOperator
from sigma_ros.values import Chunk

_JOINTS, _CHUNK = 0, 1


@dataclass(frozen=True, slots=True)
class Stepped:
    """One supervisor tick of a replay. `host_ns` is left to the caller's clock."""

    stamp_ns: int
    decision: Decision


class LockstepSupervisor:
    """One `Supervisor` on bag time. Bag time must not go back.

    A clock message is worked on once the joint stream has reached it.
    """

    def __init__(self, contract: Contract, limits: SupervisorLimits) -> None:
        self._contract = contract
        self._limits = limits
        self.restart()

    def restart(self) -> None:
        """Begins anew, as in a new process."""
        self.supervisor = Supervisor(self._contract, self._limits)
        self._operator = ReplayOperator()
        self._events: list[tuple[int, int, int, Chunk | ndarray]] = []
        self._count = 0
        self._joints_until_ns = 0
        self._clocks: list[int] = []

    def on_joints(self, stamp_ns: int, positions_rad: Float64[ndarray, " dof"] | None) -> None:
        """Stores a joint state; None only says that no other will come up to this stamp."""
        self._joints_until_ns = max(self._joints_until_ns, stamp_ns)
        if positions_rad is not None:
            self._push(stamp_ns, _JOINTS, positions_rad)

    def on_chunk(self, chunk: Chunk) -> None:
        """Stores a chunk."""
        self._push(chunk.stamp_ns, _CHUNK, chunk)

    def on_clock(self, stamp_ns: int) -> None:
        """Asks for a tick at a time of the recording."""
        self._clocks.append(stamp_ns)

    def due(self) -> list[Stepped]:
        """Makes the ticks for which everything has come."""
        done = []
        while self._clocks and self._joints_until_ns >= self._clocks[0]:
            stamp_ns = self._clocks.pop(0)
            self._feed(stamp_ns)
            self._operator.act(self.supervisor, stamp_ns)
            decision = self.supervisor.tick(stamp_ns, stamp_ns)
            self._operator.note(decision)
            done.append(Stepped(stamp_ns, decision))
        return done

    def _push(self, stamp_ns: int, kind: int, value: Chunk | ndarray) -> None:
        self._count += 1
        heapq.heappush(self._events, (stamp_ns, kind, self._count, value))

    def _feed(self, until_ns: int) -> None:
        while self._events and self._events[0][0] <= until_ns:
            stamp_ns, _, _, value = heapq.heappop(self._events)
            if isinstance(value, Chunk):
                self._operator.on_chunk()
                self.supervisor.on_chunk(value, stamp_ns, stamp_ns)
            else:
                self.supervisor.on_joints(stamp_ns, value, stamp_ns)
