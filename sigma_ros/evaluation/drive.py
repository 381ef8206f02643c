# SPDX-License-Identifier: Apache-2.0
"""One recording through policy loop and supervisor, tick by tick: the same for every kind of replay.

Where the policy and the supervisor run, in which time and how fast, is up to `worker` and `supervisor`.
"""

from collections import Counter, deque
from collections.abc import Callable

from sigma_ros.bags.episode import Tick
from sigma_ros.errors import SigmaError
from sigma_ros.evaluation.latency import Arrival
from sigma_ros.evaluation.recorder import ReplayRecorder
from sigma_ros.evaluation.supervised import SupervisorGrid
from sigma_ros.policy.job import Failed, Outcome, Proposed
from sigma_ros.policy.worker import Worker
from sigma_ros.values import Chunk, Gap, Telepathy


class ReplayDrive:
    """Drives worker and supervisor from a recording's ticks, and writes down what comes of them.

    Args:
        worker: Executes the policy loop.
        recorder: Takes everything down.
        supervisor: Gets each chunk when it arrives; None leaves it out.
        inferred: Hears every inference.
    """

    def __init__(
        self,
        worker: Worker,
        recorder: ReplayRecorder,
        supervisor: SupervisorGrid | None,
        *,
        inferred: Callable[[Chunk, Telepathy], None] = lambda *_: None,
    ) -> None:
        self.arrivals: list[Arrival] = []
        self.inferences = 0
        self.reasons: Counter[str] = Counter()
        self._worker = worker
        self._recorder = recorder
        self._supervisor = supervisor
        self._inferred = inferred
        self._arriving: deque[Outcome] = deque()
        self._now_ns = 0

    def tick(self, tick: Tick, *, late_ns: int = 0) -> None:
        """One tick: what arrived since the last one, then what comes of this one at once.

        Args:
            tick: The recording's next.
            late_ns: How much later than its stamp it is; 0 in bag time.
        """
        given, before_ns, now_ns = tick.item, self._now_ns, tick.item.stamp_ns
        if self._supervisor is not None:
            is_back = now_ns < before_ns or not before_ns
            self._supervisor.advance(now_ns if is_back else before_ns, tick.joint_samples)
        self._arriving.extend(self._worker.outcomes(now_ns - 1))
        self._worker.on_item(given, late_ns=late_ns)
        self._arriving.extend(self._worker.outcomes(now_ns))
        item = self._worker.loop.judge(given)
        self._recorder.tick(item, tick.action_rad)
        if isinstance(item, Gap):
            self.reasons.update(item.reasons)
        self._now_ns = now_ns
        while self._arriving and (
            self._arriving[0].arrival_ns <= now_ns or self._arriving[0].request.item.epoch != item.epoch
        ):
            self._take(self._arriving.popleft(), since_ns=before_ns)
        if self._supervisor is not None:
            self._supervisor.advance(now_ns, ())

    def end(self) -> None:
        """The last chunks and supervisor ticks."""
        for outcome in [*self._arriving, *self._worker.finish()]:
            self._note(outcome)
        if self._supervisor is not None:
            self._supervisor.end()

    def _take(self, outcome: Outcome, *, since_ns: int) -> None:
        self._note(outcome)
        if self._supervisor is not None and isinstance(outcome, Proposed) and outcome.published:
            self._supervisor.advance(min(max(outcome.arrival_ns, since_ns), self._now_ns), ())
            self._supervisor.on_chunk(outcome.chunk)

    def _note(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            raise SigmaError("the model failed", got=outcome.last_line)
        if not isinstance(outcome, Proposed):
            return
        self.inferences += 1
        chunk = outcome.chunk
        if outcome.published:
            self.arrivals.append(Arrival(chunk=chunk, stamp_ns=outcome.arrival_ns, took_ns=outcome.took_ns))
        self._recorder.inference(chunk, outcome.telepathy, published=outcome.published, host_ns=outcome.host_ns)
        self._inferred(chunk, outcome.telepathy)
