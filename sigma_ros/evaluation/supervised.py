# SPDX-License-Identifier: Apache-2.0
"""The supervisor at 50 Hz of bag time, with `ReplayOperator` in the operator's place.

Where times are equal, joint states come first, then the tick's chunk, then the supervisor's tick; the node replay
keeps the same order.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from sigma_ros.bags.episode import JointSample
from sigma_ros.contract import Contract
from sigma_ros.control.limits import SupervisorLimits
from sigma_ros.control.supervisor import Supervisor
from sigma_ros.evaluation.recorder import ReplayRecorder
from sigma_ros.evaluation.replay_operator import ReplayOperator
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


class BagTimeSupervisor:
    """Feeds one `Supervisor` from a recording, tick by tick, and writes its decisions down.

    Bag time is its observation clock. Its own clock is bag time too, but goes on where bag time jumps back.
    """

    def __init__(
        self, contract: Contract, limits: SupervisorLimits, recorder: ReplayRecorder, clock_ns: Callable[[], int]
    ) -> None:
        self._supervisor = Supervisor(contract, limits)
        self._times = SupervisorTimes(contract.command_period_ns)
        self._recorder = recorder
        self._clock_ns = clock_ns
        self._joints: deque[JointSample] = deque()
        self._now_ns = 0
        self._shift_ns = 0
        self._operator = ReplayOperator()

    def advance(self, stamp_ns: int, joints: Sequence[JointSample]) -> None:
        """Brings the supervisor to a policy tick: its own ticks before that, then the joint states up to it."""
        if stamp_ns < self._now_ns:
            self._shift_ns += self._times.restart(stamp_ns)
            self._joints.clear()
        self._joints.extend(joints)
        self._run_until(stamp_ns)
        self._feed(stamp_ns)
        self._now_ns = stamp_ns

    def on_chunk(self, chunk: Chunk) -> None:
        """Hands over the chunk of the policy tick that was advanced to."""
        self._operator.on_chunk()
        self._supervisor.on_chunk(chunk, self._now_ns + self._shift_ns, self._now_ns)

    def end(self) -> None:
        """The supervisor's tick at the last policy tick, if one falls on it."""
        self._run_until(self._now_ns + 1)

    def _run_until(self, stamp_ns: int) -> None:
        for due_ns in self._times.before(stamp_ns):
            self._feed(due_ns)
            self._tick(due_ns)

    def _feed(self, stamp_ns: int) -> None:
        while self._joints and self._joints[0].stamp_ns <= stamp_ns:
            sample = self._joints.popleft()
            self._supervisor.on_joints(sample.stamp_ns, sample.positions_rad, sample.stamp_ns + self._shift_ns)

    def _tick(self, stamp_ns: int) -> None:
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
