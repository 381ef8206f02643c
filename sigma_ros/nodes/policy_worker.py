# SPDX-License-Identifier: Apache-2.0
"""Inference on one thread of its own: ticks go in, outcomes come out, the recurrent state stays inside.

A slow model must not change the memory: a tick that commits is never skipped, however late it is worked on.
A tick that only plans is replaced by the next one that plans (live), or waits its turn (lockstep).
"""

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from numpy import ndarray

from sigma_ros.values import AdapterSettings, Chunk, Gap, Telepathy, Window

if TYPE_CHECKING:
    from sigma_ros.model.runtime import Inference
    from sigma_ros.model.state import RecurrentState


class Runtime(Protocol):
    """What the worker needs of `model.runtime.SigmaRuntime`."""

    def initial_state(self, *, epoch: int, task: str) -> "RecurrentState":
        """The empty state of an epoch."""
        ...

    def step(
        self,
        window: Window,
        state: "RecurrentState",
        *,
        commit: bool,
        settings: AdapterSettings,
        chunk_id: int,
        baseline_diagnostics: bool = False,
    ) -> "tuple[Inference, RecurrentState]":
        """One inference."""
        ...

    def check_units(self, positions_rad: ndarray) -> tuple[str, ...]:
        """Why a pose cannot be in the units of the training data."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A tick to work on. A `Gap` is passed through in its turn, so that outcomes keep the ticks' order.

    A window that neither plans nor commits is inferred for its score only and leaves the state as it was.
    `baseline` also measures the arm without LoRA.
    """

    item: Window | Gap
    task: str
    settings: AdapterSettings
    plans: bool
    commits: bool
    baseline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a job: chunk and telepathy, or neither for a gap, or `error` with a traceback."""

    job: Job
    chunk: Chunk | None = None
    telepathy: Telepathy | None = None
    error: str | None = None
    waited_ns: int = 0
    took_ns: int = 0


class InferenceWorker:
    """Runs jobs in tick order on one thread.

    Args:
        runtime: The model; used by this thread alone.
        lockstep: Work on every job; otherwise a waiting job that only plans gives way to a newer one.
        wake: Called from the thread after each outcome.
        max_waiting: More jobs waiting than this cannot be caught up with (live): `overrun` is set, they are dropped.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        lockstep: bool,
        wake: Callable[[], None],
        max_waiting: int = 3,
    ) -> None:
        self._runtime = runtime
        self._lockstep = lockstep
        self._wake = wake
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[Job, int]] = deque()
        self._outcomes: deque[Outcome] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._busy_since_ns: int | None = None
        self._state: RecurrentState | None = None
        self._chunk_id = 0
        self._generation = 0
        self.skipped = 0
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> bool:
        """Adds a job; False when the thread is so far behind that everything waiting was dropped."""
        with self._changed:
            if not self._lockstep:
                if self._waiting and self._waiting[-1][0].item.epoch != job.item.epoch:
                    self._waiting.clear()
                if job.plans:
                    self._drop_superseded()
                if len(self._waiting) >= self._max_waiting:
                    self.skipped += len(self._waiting) + 1
                    self._waiting.clear()
                    return False
            self._waiting.append((job, time.monotonic_ns()))
            self._changed.notify()
            return True

    def _drop_superseded(self) -> None:
        kept = [(job, since) for job, since in self._waiting if job.commits]
        self.skipped += len(self._waiting) - len(kept)
        self._waiting = deque(kept)

    def outcomes(self) -> list[Outcome]:
        """What was finished since the last call, in order."""
        with self._changed:
            finished = list(self._outcomes)
            self._outcomes.clear()
            return finished

    def restart(self) -> None:
        """Forgets waiting jobs, outcomes and the recurrent state, also of the job being worked on.

        Chunk ids go on; in lockstep they begin at 0, as in a new process.
        """
        with self._changed:
            self._generation += 1
            if self._lockstep:
                self._chunk_id = 0
            self._waiting.clear()
            self._outcomes.clear()
            self._state = None

    def busy_ns(self) -> int:
        """How long the current inference has been running; 0 when idle."""
        since = self._busy_since_ns
        return 0 if since is None else time.monotonic_ns() - since

    def close(self, timeout_s: float) -> bool:
        """Ends the thread; False when it is still inside an inference after the timeout."""
        with self._changed:
            self._closing = True
            self._waiting.clear()
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                job, since_ns = self._waiting.popleft()
                generation, state = self._generation, self._state
            started_ns = time.monotonic_ns()
            self._busy_since_ns = started_ns
            outcome, state = self._outcome(job, state, waited_ns=started_ns - since_ns)
            self._busy_since_ns = None
            with self._changed:
                if generation == self._generation:
                    self._state = state
                    self._chunk_id += outcome.chunk is not None
                    self._outcomes.append(outcome)
            self._wake()

    def _outcome(
        self, job: Job, state: "RecurrentState | None", *, waited_ns: int
    ) -> "tuple[Outcome, RecurrentState | None]":
        if isinstance(job.item, Gap):
            return Outcome(job=job, waited_ns=waited_ns), state
        try:
            return self._infer(job, job.item, state, waited_ns=waited_ns)
        except Exception:
            return Outcome(job=job, error=traceback.format_exc(), waited_ns=waited_ns), None

    def _infer(
        self, job: Job, window: Window, state: "RecurrentState | None", *, waited_ns: int
    ) -> "tuple[Outcome, RecurrentState]":
        if state is None or (state.epoch, state.task) != (window.epoch, window.task):
            state = self._runtime.initial_state(epoch=window.epoch, task=window.task)
        started_ns = time.monotonic_ns()
        inference, advanced = self._runtime.step(
            window,
            state,
            commit=job.commits,
            settings=job.settings,
            chunk_id=self._chunk_id,
            baseline_diagnostics=job.baseline,
        )
        took_ns = time.monotonic_ns() - started_ns
        return (
            Outcome(
                job=job, chunk=inference.chunk, telepathy=inference.telepathy, waited_ns=waited_ns, took_ns=took_ns
            ),
            advanced if job.plans or job.commits else state,
        )
