# SPDX-License-Identifier: Apache-2.0
"""The supervisor at 50 Hz of bag time, in this process or as a node; `ReplayOperator` is in the operator's place.

Where times are equal, joint states come first, then the tick's chunk, then the supervisor's tick.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from sigma_ros.contract import Contract
from sigma_ros.evaluation.recorder import ReplayRecorder
from sigma_ros.evaluation.replay_operator import ReplayOperator
from sigma_ros.streams.samples import JointSample
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.supervisor import Supervisor
from sigma_ros.values import NS_PER_S, Chunk

LONGEST_PAUSE_NS = 2 * NS_PER_S
"""A recording that is silent for longer is not ticked through: the supervisor has long brought the arm to rest."""


class SupervisorTimes:
    """When the supervisor ticks: at the first policy tick's stamp plus multiples of the command period."""

    def __init__(self, period_ns: int) -> None:
        self._period_ns = period_ns
        self._next_ns: int | None = None

    def restart(self, stamp_ns: int) -> int:
        """Puts the next tick at a stamp; returns by how much the grid was moved back."""
        moved_ns = 0 if self._next_ns is None else self._next_ns - stamp_ns
        self._next_ns = stamp_ns
        return moved_ns

    def before(self, stamp_ns: int) -> Iterator[int]:
        """The ticks that are due before a stamp; of a long silence only its beginning."""
        if self._next_ns is None:
            self._next_ns = stamp_ns
        silence_ends_ns = self._next_ns + LONGEST_PAUSE_NS
        while self._next_ns < min(stamp_ns, silence_ends_ns):
            due_ns = self._next_ns
            self._next_ns += self._period_ns
            yield due_ns
        if self._next_ns < stamp_ns:
            self._next_ns += -(-(stamp_ns - self._next_ns) // self._period_ns) * self._period_ns


class ReplayedSupervisor(Protocol):
    """A supervisor that a replay drives; it writes its own decisions down."""

    def go_back(self, by_ns: int) -> None:
        """Bag time has jumped back."""
        ...

    def feed(self, joints: Sequence[JointSample], until_ns: int) -> None:
        """Adds joint states; those up to a time are given to the supervisor now."""
        ...

    def tick(self, stamp_ns: int) -> None:
        """One tick of the supervisor."""
        ...

    def on_chunk(self, chunk: Chunk, now_ns: int) -> None:
        """Hands over a chunk."""
        ...


class SupervisorGrid:
    """Ticks one supervisor at the command period of bag time.

    Args:
        period_ns: Between two ticks of the supervisor.
        supervisor: In this process, or the node.
    """

    def __init__(self, period_ns: int, supervisor: ReplayedSupervisor) -> None:
        self._times = SupervisorTimes(period_ns)
        self._supervisor = supervisor
        self._now_ns = 0

    def advance(self, stamp_ns: int, joints: Sequence[JointSample]) -> None:
        """Brings the supervisor to a time: its own ticks before that, then the joint states up to it."""
        if stamp_ns < self._now_ns:
            self._supervisor.go_back(self._times.restart(stamp_ns))
        self._supervisor.feed(joints, 0)
        self._run_until(stamp_ns)
        self._supervisor.feed((), stamp_ns)
        self._now_ns = stamp_ns

    def on_chunk(self, chunk: Chunk) -> None:
        """Hands over a chunk at the time that was advanced to."""
        self._supervisor.on_chunk(chunk, self._now_ns)

    def end(self) -> None:
        """The supervisor's tick at the last time, if one falls on it."""
        self._run_until(self._now_ns + 1)

    def _run_until(self, stamp_ns: int) -> None:
        for due_ns in self._times.before(stamp_ns):
            self._supervisor.feed((), due_ns)
            self._supervisor.tick(due_ns)


class LocalSupervisor(ReplayedSupervisor):
    """The supervisor in this process.

    Bag time is its observation clock. Its own clock is bag time too, but goes on where bag time jumps back.
    """

    def __init__(
        self, contract: Contract, limits: SupervisorLimits, recorder: ReplayRecorder, clock_ns: Callable[[], int]
    ) -> None:
        self._supervisor = Supervisor(contract, limits)
        self._recorder = recorder
        self._clock_ns = clock_ns
        self._joints: deque[JointSample] = deque()
        self._shift_ns = 0
        self._operator = ReplayOperator()

    def go_back(self, by_ns: int) -> None:
        """Joint states of before are gone."""
        self._shift_ns += by_ns
        self._joints.clear()

    def feed(self, joints: Sequence[JointSample], until_ns: int) -> None:
        """Adds joint states; those up to a time are given to the supervisor now."""
        self._joints.extend(joints)
        while self._joints and self._joints[0].stamp_ns <= until_ns:
            sample = self._joints.popleft()
            self._supervisor.on_joints(sample.stamp_ns, sample.positions_rad, sample.stamp_ns + self._shift_ns)

    def on_chunk(self, chunk: Chunk, now_ns: int) -> None:
        """Hands over a chunk."""
        self._operator.on_chunk()
        self._supervisor.on_chunk(chunk, now_ns + self._shift_ns, now_ns)

    def tick(self, stamp_ns: int) -> None:
        """One tick; the decision is written down."""
        own_ns = stamp_ns + self._shift_ns
        started_ns = self._clock_ns()
        self._operator.act(self._supervisor, own_ns)
        decision = self._supervisor.tick(own_ns, stamp_ns)
        host_ns = self._clock_ns() - started_ns
        self._recorder.decision(
            stamp_ns=stamp_ns,
            state=decision.state.name,
            reason=decision.reason.name,
            command_rad=decision.command_rad,
            requested_scale=decision.requested_scale,
            scale_ceiling=decision.scale_ceiling,
            applied_scale=decision.applied_scale,
            clipped_joints=decision.clipped_joints,
            chunk_id=decision.chunk_id,
            host_ns=host_ns,
        )
        self._operator.note(decision)
        counters = decision.counters
        self._recorder.supervisor_counters(
            violations=counters.violations,
            refused_chunks=counters.refused_chunks,
            holds=counters.holds,
            engagements=counters.engagements,
        )
