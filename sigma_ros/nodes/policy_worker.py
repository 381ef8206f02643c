# SPDX-License-Identifier: Apache-2.0
"""Inference on one thread of its own: ticks go in, outcomes come out, the recurrent state stays inside.

A slow model must not change the memory: a tick that commits is never skipped, however late it is worked on; where
a newer plan waits behind it, only its memory is computed, not a chunk that would come too late. A plan that waits is
replaced by the next tick's (live), so that a thread that comes free works on the newest window; in lockstep all wait.
"""

import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sigma_ros.control.left_over import left_over
from sigma_ros.errors import SigmaError
from sigma_ros.nodes.policy_job import Job, Outcome, Runtime, rescaled
from sigma_ros.values import AdapterSettings, Chunk, Gap, LeftOver, Window

if TYPE_CHECKING:
    from sigma_ros.model.runtime import Inference
    from sigma_ros.model.state import RecurrentState


NICENESS = 5
"""Of the inference thread: where cores are few, the supervisor's and our own callbacks go first."""


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
        self._inherited: RecurrentState | None = None
        self._chunk_id = 0
        self._generation = 0
        self._was_bare = False
        self._executed: Outcome | None = None
        self._settings: AdapterSettings | None = None
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> bool:
        """Adds a job; False when the thread is so far behind that everything waiting was dropped."""
        with self._changed:
            if not self._lockstep:
                if self._waiting and self._waiting[-1][0].item.epoch != job.item.epoch:
                    self._waiting.clear()
                if job.refreshes and (self._waiting or self._busy_since_ns is not None):
                    return True
                if job.plans:
                    self._drop_superseded()
                if len(self._waiting) >= self._max_waiting:
                    self._waiting.clear()
                    return False
            self._waiting.append((job, time.monotonic_ns()))
            self._changed.notify()
            return True

    def _drop_superseded(self) -> None:
        self._waiting = deque((replace(job, plans=False), since) for job, since in self._waiting if job.commits)

    @property
    def awaits_plan(self) -> bool:
        """Whether a tick that plans still waits for the thread: then the next tick had better take its place."""
        with self._changed:
            return any(job.plans for job, _ in self._waiting)

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
            self._state = self._executed = self._inherited = None

    def save(self, path: Path) -> int:
        """Writes the recurrent state to a file; returns how many commits are in it.

        Raises:
            SigmaError: there is none yet, something else is at that place, or the disk refuses.
        """
        with self._changed:
            state = self._state
        if state is None:
            raise SigmaError("there is no memory to save yet", remedy="wait for the first chunk")
        try:
            self._runtime.save(state, path)
        except OSError as error:
            raise SigmaError("the memory cannot be written", where=path, got=error) from error
        return state.commits

    def read(self, path: Path, *, task: str) -> "RecurrentState":
        """An empty state with a saved memory, for `inherit`.

        Raises:
            SigmaError: the file cannot be used with this model and task.
        """
        return self._runtime.restore(path, self._runtime.initial_state(epoch=0, task=task))

    def inherit(self, state: "RecurrentState") -> None:
        """The next epoch begins with this state's memory. `restart` forgets it."""
        with self._changed:
            self._inherited = state

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
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                job, since_ns = self._next()
                generation, state = self._generation, self._state
            started_ns = time.monotonic_ns()
            self._busy_since_ns = started_ns
            outcome, state = self._outcome(job, state, waited_ns=started_ns - since_ns)
            self._busy_since_ns = None
            with self._changed:
                if generation == self._generation:
                    self._state = state
                    self._outcomes.append(self._numbered(outcome))
            self._wake()

    def rescale(self, settings: AdapterSettings) -> None:
        """Puts the adapter's settings in force at once: the chunk in execution comes again, scaled by them.

        In lockstep they are in force from the next chunk on: a replay knows which chunks are to come.
        """
        if self._lockstep:
            return
        with self._changed:
            self._settings = settings
            last = self._executed
            if last is None or last.chunk is None or last.chunk.settings == settings:
                return
            again = replace(last.chunk, stamp_ns=last.chunk.stamp_ns + 1)
            self._outcomes.append(self._numbered(replace(last, chunk=again, telepathy=None)))
        self._wake()

    def _numbered(self, outcome: Outcome) -> Outcome:
        """A finished outcome with the next chunk id and, live, with the settings in force now."""
        if outcome.chunk is None:
            return outcome
        chunk = replace(outcome.chunk, chunk_id=self._chunk_id)
        self._chunk_id += 1
        if self._settings is not None:
            chunk = rescaled(chunk, self._settings)
        outcome = replace(outcome, chunk=chunk)
        self._executed = outcome
        return outcome

    @property
    def _executing(self) -> Chunk | None:
        return None if self._executed is None else self._executed.chunk

    def _next(self) -> tuple[Job, int]:
        """The oldest job. Where commits alone fill the thread, every second one plans too, or no chunk would come."""
        job, since_ns = self._waiting.popleft()
        bare = job.commits and not job.plans and not self._lockstep
        if bare and self._was_bare and any(other.plans for other, _ in self._waiting):
            job, bare = replace(job, plans=True), False
        self._was_bare = bare
        return job, since_ns

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
    ) -> "tuple[Outcome, RecurrentState | None]":
        if state is None or (state.epoch, state.task) != (window.epoch, window.task):
            if job.refreshes:
                return Outcome(job=job, waited_ns=waited_ns), state
            state = self._begun(window)
        started_ns = time.monotonic_ns()
        inference: Inference | None = None
        if job.commits and not job.plans and not self._lockstep:
            telepathy, advanced = self._runtime.remember(window, state)
        else:
            inference, advanced = self._step(job, window, state)
            telepathy = inference.telepathy
        outcome = Outcome(
            job=job,
            chunk=None if inference is None else replace(inference.chunk, crossfade_steps=job.crossfade_steps),
            telepathy=telepathy,
            waited_ns=waited_ns,
            took_ns=time.monotonic_ns() - started_ns,
        )
        return outcome, advanced if job.plans or job.commits or job.refreshes else state

    def _begun(self, window: Window) -> "RecurrentState":
        with self._changed:
            inherited, self._inherited = self._inherited, None
        if inherited is not None and inherited.task == window.task:
            return replace(inherited, epoch=window.epoch)
        return self._runtime.initial_state(epoch=window.epoch, task=window.task)

    def _step(self, job: Job, window: Window, state: "RecurrentState") -> "tuple[Inference, RecurrentState]":
        if job.refreshes and self._executing is not None:
            return self._runtime.refresh(window, state, self._executing, settings=job.settings, chunk_id=self._chunk_id)
        return self._runtime.step(
            window,
            state,
            commit=job.commits,
            settings=job.settings,
            chunk_id=self._chunk_id,
            baseline_diagnostics=job.baseline,
            left_over=self._left_over(window) if job.guided else None,
        )

    def _left_over(self, window: Window) -> LeftOver | None:
        last = self._executed
        return None if last is None else left_over(last.chunk, window, delay_ns=last.delay_ns)
