# SPDX-License-Identifier: Apache-2.0
"""What goes to the inference thread and what comes back, and what the thread needs of a model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy import ndarray

from sigma_ros.risk import scale_of
from sigma_ros.values import AdapterSettings, Chunk, Gap, LeftOver, Telepathy, Window

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
        left_over: LeftOver | None = None,
    ) -> "tuple[Inference, RecurrentState]":
        """One inference."""
        ...

    def remember(self, window: Window, state: "RecurrentState") -> "tuple[Telepathy, RecurrentState]":
        """A commit without a chunk."""
        ...

    def refresh(
        self, window: Window, state: "RecurrentState", previous: Chunk, *, settings: AdapterSettings, chunk_id: int
    ) -> "tuple[Inference, RecurrentState]":
        """A new residual on what is left of a chunk."""
        ...

    def save(self, state: "RecurrentState", path: Path) -> None:
        """Writes a recurrent state."""
        ...

    def restore(self, path: Path, fresh: "RecurrentState") -> "RecurrentState":
        """An empty state with a saved memory."""
        ...

    def check_units(self, positions_rad: ndarray) -> tuple[str, ...]:
        """Why a pose cannot be in the units of the training data."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A tick to work on. A `Gap` is passed through in its turn, so that outcomes keep the ticks' order.

    A window that neither plans nor commits is inferred for its score only and leaves the state as it was.
    `baseline` also measures the arm without LoRA. `refreshes`: a new residual on the chunk in execution, if the
    thread is free. `guided`: the base is led on from what is left of the chunk before. `late_ns`: from the tick's
    stamp to its submission.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a job: chunk and telepathy, telepathy alone for a bare commit, neither for a gap, or `error`."""

    job: Job
    chunk: Chunk | None = None
    telepathy: Telepathy | None = None
    error: str | None = None
    waited_ns: int = 0
    took_ns: int = 0

    @property
    def delay_ns(self) -> int:
        """From the tick to its outcome."""
        return self.job.late_ns + self.waited_ns + self.took_ns


def rescaled(chunk: Chunk, settings: AdapterSettings) -> Chunk:
    """A chunk as these settings scale it; the scale of a base that is not finite stays 0."""
    if chunk.settings == settings:
        return chunk
    scale = scale_of(chunk.risk, settings) if np.isfinite(chunk.base_rad).all() else 0.0
    return replace(chunk, settings=settings, scale=scale)
