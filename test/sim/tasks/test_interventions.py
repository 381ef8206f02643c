# SPDX-License-Identifier: Apache-2.0
"""An intervention exchanges the committed memory once, at the choice, and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sigma_ros.contract import Contract
from sigma_ros.policy.schedule import Schedule
from sigma_ros.sim.tasks.catalogue import TASKS, draw
from sigma_ros.sim.tasks.interventions import AtChoice, choice_tick, emptied

STRIDE = 16


@dataclass(frozen=True)
class Remembers:
    """A state whose memory counts its commits."""

    memory: np.ndarray
    factors: np.ndarray
    window: int = 7


class Counting:
    """A runtime in whose place a memory only counts."""

    memory_stride = STRIDE

    def step(self, _window: Any, state: Remembers, *, commit: bool) -> tuple[str, Remembers]:
        return "chunk", _one_more(state) if commit else state

    def remember(self, _window: Any, state: Remembers) -> tuple[str, Remembers]:
        return "told", _one_more(state)


def _one_more(state: Remembers) -> Remembers:
    return replace(state, memory=state.memory + 1, factors=state.factors + 1)


START = Remembers(np.zeros(3), np.zeros((2, 2)))


def played(exchange: Callable[[Any], Any], at: int, *, only_remembers: bool) -> tuple[list[float], AtChoice]:
    runtime, state, seen = AtChoice(Counting(), at, exchange), START, []
    for tick in range(0, 6 * STRIDE, STRIDE // 2):
        window = SimpleNamespace(tick=tick)
        if tick % STRIDE == 0 and only_remembers:
            _, state = runtime.remember(window, state)
        else:
            _, state = runtime.step(window, state, commit=tick % STRIDE == 0)
        seen.append(float(state.memory[0]))
    return seen, runtime


@pytest.mark.parametrize("only_remembers", [False, True])
def test_the_memory_is_exchanged_at_its_tick_and_goes_on_from_there(only_remembers: bool) -> None:
    usual, _ = played(lambda state: state, 2 * STRIDE, only_remembers=only_remembers)
    changed, runtime = played(emptied, 2 * STRIDE, only_remembers=only_remembers)
    assert usual == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert changed == [1, 1, 2, 2, 0, 0, 1, 1, 2, 2, 3, 3]
    assert runtime.kept.memory[0] == 3


def test_an_emptied_state_keeps_its_window() -> None:
    state = emptied(_one_more(START))
    assert not state.memory.any()
    assert not state.factors.any()
    assert state.window == START.window


def test_what_is_not_exchanged_is_the_runtimes_own() -> None:
    assert AtChoice(Counting(), 0, emptied).memory_stride == STRIDE


@pytest.mark.parametrize("name", ["M1", "M2", "M3"])
def test_the_choice_is_the_first_commit_at_which_nothing_tells_the_goal_any_more(contract: Contract, name: str) -> None:
    for seed in range(20):
        episode = draw(TASKS[name], seed, test=True)
        tick = choice_tick(episode, Schedule(STRIDE, STRIDE), fps=contract.fps)
        assert tick % STRIDE == 0
        assert 0 <= tick / contract.fps - episode.choice_s < STRIDE / contract.fps
