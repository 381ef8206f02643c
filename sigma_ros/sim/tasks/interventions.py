# SPDX-License-Identifier: Apache-2.0
"""What is exchanged in an episode to ask whether it decides: memory at the moment of choice, or the text."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np

from sigma_ros.policy.schedule import Schedule
from sigma_ros.sim.tasks.task import TaskEpisode
from sigma_ros.values import Window

Intervention = Literal["", "reset", "swap", "other text"]
"""Nothing; memory and factors emptied; those of the twin episode put in; the twin's text, from the start."""

INTERVENTIONS: tuple[Intervention, ...] = get_args(Intervention)

Exchange = Callable[[Any], Any]
"""The recurrent state that goes on, from the one that was committed."""


def emptied(state: Any) -> Any:
    """The state with nothing remembered; its window stays."""
    return replace(state, memory=state.memory * 0.0, factors=state.factors * 0.0)


def choice_tick(episode: TaskEpisode, schedule: Schedule, *, fps: float) -> int:
    """The first tick from the moment of choice on at which the memory is committed."""
    first = int(np.ceil(episode.choice_s * fps))
    return next(tick for tick in range(first, first + schedule.memory_stride) if schedule.commits(tick))


class AtChoice:
    """A runtime whose committed memory is exchanged once, at a tick; the rest is the runtime's own.

    `kept` is the state that was committed there; None: the tick has not come.
    """

    def __init__(self, runtime: Any, tick: int, exchange: Exchange) -> None:
        self._runtime, self._tick, self._exchange = runtime, tick, exchange
        self.kept: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def step(self, window: Window, state: Any, *, commit: bool, **options: Any) -> tuple[Any, Any]:
        """As the runtime's."""
        inference, advanced = self._runtime.step(window, state, commit=commit, **options)
        return inference, self._exchanged(window, advanced) if commit else advanced

    def remember(self, window: Window, state: Any) -> tuple[Any, Any]:
        """As the runtime's."""
        telepathy, advanced = self._runtime.remember(window, state)
        return telepathy, self._exchanged(window, advanced)

    def _exchanged(self, window: Window, state: Any) -> Any:
        if window.tick != self._tick:
            return state
        self.kept = state
        return self._exchange(state)
