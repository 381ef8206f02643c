# SPDX-License-Identifier: Apache-2.0
"""What a tick asks for, what the model is to do for it (`Job`), what comes of it (`Outcome`).

`execute` is the only place that calls the model; it decides nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.values import AdapterSettings, Certificate, Chunk, Gap, LeftOver, Memory, Telepathy, Window

if TYPE_CHECKING:
    from sigma_ros.model.step import RecurrentState


class Inferred(Protocol):
    """What the loop's drivers need of an inference."""

    @property
    def chunk(self) -> Chunk:
        """Proposed actions."""

    @property
    def telepathy(self) -> Telepathy:
        """What Sigma believes."""


class Runtime(Protocol):
    """What the loop's drivers need of `model.runtime.SigmaRuntime`."""

    image_size_px: int

    def initial_state(self, *, epoch: int, task: str) -> "RecurrentState":
        """The empty state of an epoch."""

    def step(
        self,
        window: Window,
        state: "RecurrentState",
        *,
        commit: bool,
        settings: AdapterSettings,
        chunk_id: int,
        baseline_diagnostics: bool = False,
        left_over: LeftOver | None = None,
    ) -> "tuple[Inferred, RecurrentState]":
        """One inference."""

    def observe(self, window: Window, state: "RecurrentState") -> "RecurrentState":
        """The state with the window's pictures encoded."""

    def remember(self, window: Window, state: "RecurrentState") -> "tuple[Telepathy, RecurrentState]":
        """A commit without a chunk."""

    def refresh(
        self, window: Window, state: "RecurrentState", previous: Chunk, *, settings: AdapterSettings, chunk_id: int
    ) -> "tuple[Inferred, RecurrentState]":
        """A new residual on what is left of a chunk."""

    def certify(self, window: Window) -> Certificate:
        """Whether what runs is what was trained, on this observation."""

    def save(self, state: "RecurrentState", path: Path) -> None:
        """Writes a recurrent state."""

    def restore(self, path: Path, fresh: "RecurrentState") -> "RecurrentState":
        """An empty state with a saved memory."""

    def memory(self, state: "RecurrentState") -> Memory:
        """What of a state outlives the process that computes."""

    def remembering(self, fresh: "RecurrentState", memory: Memory) -> "RecurrentState":
        """An empty state with this memory."""

    def check_units(self, positions_rad: Float64[ndarray, " dof"]) -> tuple[str, ...]:
        """Why a pose cannot be in the units of the training data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TickRequest:
    """What one tick asks for.

    A window that neither plans nor commits nor refreshes is inferred for its score alone.
    `baseline` also measures the arm without LoRA; `refreshes`: a new residual on the chunk in
    execution; `guided`: the base is led on from what is left of it. It came in at `since_ns`,
    `late_ns` after its stamp, and waited `waited_ns` until its job began. `session` tells what came
    in before a restart from what came after.
    """

    item: Window | Gap
    task: str
    settings: AdapterSettings
    plans: bool
    commits: bool
    baseline: bool = False
    refreshes: bool = False
    guided: bool = False
    crossfade_steps: int = 0
    late_ns: int = 0
    since_ns: int = 0
    waited_ns: int = 0
    session: int = 0


@dataclass(frozen=True, slots=True)
class PassGap:
    """A tick that cannot be used takes its turn, so that outcomes keep the ticks' order."""

    request: TickRequest
    gap: Gap


@dataclass(frozen=True, slots=True)
class Encode:
    """A window's pictures, encoded before anything is asked of it: the next inference finds them done."""

    request: TickRequest
    window: Window
    state: "RecurrentState | None"


@dataclass(frozen=True, slots=True)
class Remember:
    """A commit of the memory without a chunk; `state` None: the epoch begins with an empty one."""

    request: TickRequest
    window: Window
    state: "RecurrentState | None"


@dataclass(frozen=True, slots=True)
class Step:
    """One inference, led on from what is `remaining`; `state` as for `Remember`."""

    request: TickRequest
    window: Window
    state: "RecurrentState | None"
    chunk_id: int
    remaining: LeftOver | None


@dataclass(frozen=True, slots=True)
class Refresh:
    """A new residual on what is left of `previous`."""

    request: TickRequest
    window: Window
    state: "RecurrentState"
    chunk_id: int
    previous: Chunk


Job = PassGap | Encode | Remember | Step | Refresh


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a tick that asked for something; `took_ns` without waiting."""

    request: TickRequest
    took_ns: int = 0

    @property
    def delay_ns(self) -> int:
        """From the tick to its outcome."""
        return self.request.late_ns + self.request.waited_ns + self.took_ns

    @property
    def arrival_ns(self) -> int:
        """When it was there, on the clock of the stamps."""
        return self.request.item.stamp_ns + self.delay_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Unused(Outcome):
    """The tick was a gap, or the executor refuses its window, and with it the whole epoch."""

    gap: Gap


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Outcome):
    """The model failed; the memory begins anew. `error` is its traceback."""

    error: str

    @property
    def last_line(self) -> str:
        """What failed, in one line."""
        return self.error.strip().splitlines()[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(Failed):
    """The process of inference is gone, and the tick with it; the memory stands as before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded(Outcome):
    """Nothing but pictures that were encoded; nobody is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered(Outcome):
    """The memory was updated, without a chunk."""

    telepathy: Telepathy


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposed(Outcome):
    """A chunk, for the arm if `published`, else for the score; `host_ns`: this machine took."""

    chunk: Chunk
    telepathy: Telepathy
    host_ns: int

    @property
    def published(self) -> bool:
        """Whether the supervisor gets it."""
        return self.request.plans or self.request.refreshes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescaled(Outcome):
    """The chunk in execution once more, with the adapter's new settings."""

    chunk: Chunk


def gap_of(item: Window | Gap, *reasons: str) -> Gap:
    """A tick that cannot be used, and why."""
    return Gap(epoch=item.epoch, tick=item.tick, stamp_ns=item.stamp_ns, reasons=reasons)


Result = tuple[Outcome, "RecurrentState | None"]
"""What came of a job, as the model gave it, and the state after it."""


def execute(job: Job, runtime: Runtime, *, clock_ns: Callable[[], int] = time.monotonic_ns, **options: Any) -> Result:
    """Runs one job on the model; what it raises is the model's.

    `options` are for `runtime.step` alone, such as what an offline run has prepared.
    """
    request = job.request
    if isinstance(job, PassGap):
        return Unused(request=request, gap=job.gap), None
    window, started_ns = job.window, clock_ns()
    state = job.state or runtime.initial_state(epoch=window.epoch, task=window.task)
    if isinstance(job, Encode):
        return Encoded(request=request), runtime.observe(window, state)
    if isinstance(job, Remember):
        telepathy, advanced = runtime.remember(window, state)
        return Remembered(request=request, took_ns=clock_ns() - started_ns, telepathy=telepathy), advanced
    if isinstance(job, Refresh):
        settings, chunk_id = request.settings, job.chunk_id
        inference, advanced = runtime.refresh(window, state, job.previous, settings=settings, chunk_id=chunk_id)
    else:
        if job.remaining is not None:
            options["left_over"] = job.remaining
        inference, advanced = runtime.step(
            window,
            state,
            commit=request.commits,
            settings=request.settings,
            chunk_id=job.chunk_id,
            baseline_diagnostics=request.baseline,
            **options,
        )
    took_ns = clock_ns() - started_ns
    chunk, telepathy = inference.chunk, inference.telepathy
    return Proposed(request=request, took_ns=took_ns, host_ns=took_ns, chunk=chunk, telepathy=telepathy), advanced
