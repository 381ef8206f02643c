# SPDX-License-Identifier: Apache-2.0
"""Who executes the loop's jobs: a thread (`InferenceThread`), or given time (`TimedWorker`).

Both only execute and feed results back; every rule is in `PolicyLoop`.
"""

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sigma_ros.policy.job import Failed, Job, Lost, Outcome, PassGap, Result, Runtime, Step, Unused, execute, gap_of
from sigma_ros.policy.loop import PolicyLoop, PolicySettings
from sigma_ros.policy.remote import WATCH_S, InferenceLostError, RemoteRuntime
from sigma_ros.policy.served import be_nice
from sigma_ros.values import Certificate, Gap, Window

if TYPE_CHECKING:
    from sigma_ros.model.step import RecurrentState

RETRY_S = 2.0
"""Before an inference process that could not be started is started once more."""

NEVER_NS = 2**63 - 1


class InferenceThread:
    """Runs jobs in their order on one thread; nothing else may use the loop or the model.

    A model in a process of its own that is lost is started again; `mended` counts how often that came off.

    Args:
        loop: Decides; only reading its counters from outside is safe.
        wake: Called after each job, and where `outcomes` has something.
        certifies: Whether the model is certified before its first chunk, on the observation that it is for; without
            a `certificate` that holds no chunk comes.
    """

    def __init__(
        self,
        loop: PolicyLoop,
        runtime: Runtime,
        *,
        wake: Callable[[], None] = lambda: None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        certifies: bool = False,
    ) -> None:
        self.loop = loop
        self._runtime = runtime
        self._wake = wake
        self._clock_ns = clock_ns
        self._changed = threading.Condition()
        self._closing = False
        self._remote = runtime if isinstance(runtime, RemoteRuntime) else None
        self.mended = 0
        self._certifies = certifies
        self.certificate: Certificate | None = None
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str:
        """Why nothing is inferred now: the model's process is gone, or not certified; empty while all is well."""
        refused = self.certificate is not None and not self.certificate.holds
        return self._lost() or (self.certificate.line if self.certificate and refused else "")

    @property
    def busy_ns(self) -> int:
        """How long the current inference has been running; 0 when idle."""
        since_ns = self.loop.busy_since_ns
        return 0 if since_ns is None else self._clock_ns() - since_ns

    def on_item(self, item: Window | Gap, *, task: str = "", late_ns: int = 0) -> bool:
        """Gives the loop a tick and wakes the thread; False: too much waited, all was dropped."""
        with self._changed:
            is_kept = self.loop.on_item(item, self._clock_ns(), task=task, late_ns=late_ns)
            self._changed.notify()
            return is_kept

    def outcomes(self, until_ns: int = NEVER_NS) -> list[Outcome]:
        """What was finished since the last call, in order."""
        with self._changed:
            return self.loop.outcomes()

    def finish(self) -> list[Outcome]:
        """What was finished; what is still being worked on is given up."""
        return self.outcomes()

    def restart(self, inherits: "RecurrentState | None" = None) -> None:
        """Begins the memory anew; results still being computed are dropped (`PolicyLoop.restart`)."""
        with self._changed:
            self.loop.restart(inherits)

    def configure(self, settings: PolicySettings) -> None:
        """Puts settings in force; new adapter settings send the chunk in execution again."""
        with self._changed:
            self.loop.configure(settings)
        self._wake()

    def close(self, timeout_s: float) -> bool:
        """Ends the thread; False when it is still inside an inference after the timeout."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive() and self._remote is not None:
            self._remote.close("the inference was given up")
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        be_nice()
        while not self._closing:
            job = self._take()
            if job is not None:
                result = self._executed(job)
                with self._changed:
                    self.loop.on_result(result)
                self._wake()
            elif self._remote is not None and not self._closing:
                self._mend(self._remote)

    def _take(self) -> Job | None:
        """The next job; None when it is time to end, or to mend."""
        with self._changed:
            while not self._closing and not self._lost():
                job = self.loop.begin(self._clock_ns())
                if job is not None:
                    return job
                self._changed.wait(None if self._remote is None else WATCH_S)
            return None

    def _lost(self) -> str:
        return "" if self._remote is None else self._remote.problem()

    def _mend(self, remote: RemoteRuntime) -> None:
        """Starts the lost process again; what cannot be mended stays a problem that is told."""
        self._wake()
        try:
            remote.restart()
        except Exception:  # the problem says it
            with self._changed:
                self._changed.wait_for(lambda: self._closing, None if remote.gives_up else RETRY_S)
            return
        self.mended += 1
        self.certificate = None
        self._wake()

    def _executed(self, job: Job) -> Result:
        try:
            if self._certifies and isinstance(job, Step) and not self._certified(job.window):
                return Unused(request=job.request, gap=gap_of(job.window, self.problem)), None
            return execute(job, self._runtime, clock_ns=self._clock_ns)
        except InferenceLostError as error:
            state = None if isinstance(job, PassGap) else job.state
            return Lost(request=job.request, error=str(error)), state
        except Exception:
            return Failed(request=job.request, error=traceback.format_exc()), None

    def _certified(self, window: Window) -> bool:
        if self.certificate is None:
            self.certificate = self._runtime.certify(window)
        return self.certificate.holds


class TimedWorker:
    """Executes jobs at once and hands results in when the given time has passed.

    Time is that of the ticks' stamps. A tick comes before the results of the same instant, so that
    a model that comes free at a tick works on that tick. Where time goes back, what is being worked
    on is finished before.
    """

    def __init__(
        self,
        loop: PolicyLoop,
        run: Callable[[Job], Result],
        latency_ns: Callable[[Job], int] = lambda _: 0,
    ) -> None:
        self.loop = loop
        self._run = run
        self._latency_ns = latency_ns
        self._begun: tuple[int, Result] | None = None
        self._free_ns = self._now_ns = 0
        self._finished: list[Outcome] = []

    def on_item(self, item: Window | Gap, *, late_ns: int = 0) -> bool:
        """Gives the next tick to the loop, at its stamp; see `PolicyLoop.on_item`."""
        if item.stamp_ns < self._now_ns:
            self._finish_begun()
            self._free_ns = 0
        self._work_until(item.stamp_ns - 1)
        self._finished += self.loop.outcomes()
        self._now_ns = item.stamp_ns
        return self.loop.on_item(item, item.stamp_ns, late_ns=late_ns)

    def outcomes(self, until_ns: int) -> list[Outcome]:
        """What has come of ticks since the last call, up to this stamp."""
        self._work_until(until_ns)
        finished, self._finished = [*self._finished, *self.loop.outcomes()], []
        return finished

    def finish(self) -> list[Outcome]:
        """What is still being worked on too; what waits is not begun."""
        self._finish_begun()
        finished, self._finished = [*self._finished, *self.loop.outcomes()], []
        return finished

    def _work_until(self, until_ns: int) -> None:
        while self._begun is not None or self._begin():
            assert self._begun is not None
            if self._begun[0] > until_ns:
                return
            self._finish_begun()

    def _begin(self) -> bool:
        at_ns = max(self._free_ns, self._now_ns)
        job = self.loop.begin(at_ns)
        if job is None:
            return False
        took_ns = self._latency_ns(job)
        outcome, state = self._run(job)
        self._begun = at_ns + took_ns, (replace(outcome, took_ns=took_ns), state)
        return True

    def _finish_begun(self) -> None:
        if self._begun is None:
            return
        self._free_ns, result = self._begun
        self._begun = None
        self.loop.on_result(result)


Worker = InferenceThread | TimedWorker
"""What a replay can drive."""
