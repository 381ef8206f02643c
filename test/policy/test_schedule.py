# SPDX-License-Identifier: Apache-2.0
"""Which ticks plan, commit and are scored, and what is left of a chunk at a later tick."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_stand_in import CONTRACT, Model, window

from sigma_ros.cli.main import load_verb
from sigma_ros.cli.scores.evaluate import EvaluateRequest
from sigma_ros.cli.scores.replay import ReplayRequest
from sigma_ros.lerobot.configuration_sigma import SigmaPolicyConfig
from sigma_ros.nodes.policy.options import PolicyOptions
from sigma_ros.policy.loop import PolicySettings
from sigma_ros.policy.schedule import Schedule, left_over
from sigma_ros.sim.closed_loop import Loop, sim_limits
from sigma_ros.values import AdapterSettings, Chunk

STEP = CONTRACT.tick_period_ns


def test_plans_and_commits_fall_on_their_strides_from_tick_zero() -> None:
    schedule = Schedule(replan_ticks=3, memory_stride=4)
    assert [tick for tick in range(9) if schedule.plans(tick)] == [0, 3, 6]
    assert [tick for tick in range(9) if schedule.commits(tick)] == [0, 4, 8]


def test_who_asks_for_nothing_plans_and_takes_over_alike_everywhere() -> None:
    """The node, the simulator and its verb, `sigma run` in one process (`Loop()`), replays, LeRobot's policy."""
    names = ("replan_ticks", "stitching", "crossfade_steps", "residual_every_tick")
    node = [getattr(PolicyOptions(), name) for name in names]
    assert [getattr(Loop(settings=AdapterSettings(), limits=sim_limits()), name) for name in names] == node
    verb = {parameter.name: parameter.default for parameter in load_verb("sim").params}
    assert [verb[name] for name in names] == node
    live = PolicySettings(schedule=Schedule(), adapter=AdapterSettings())
    assert [live.schedule.replan_ticks, *(getattr(live, name) for name in names[1:])] == node
    every = [cls.__dataclass_fields__["replan_ticks"].default for cls in (ReplayRequest, EvaluateRequest)]
    assert [*every, SigmaPolicyConfig().n_action_steps] == [node[0]] * 3
    assert (node, Schedule().memory_stride) == ([16, "crossfade", 16, False], 16), "as docs/results.md found best"


@pytest.mark.parametrize("field", ["replan_ticks", "memory_stride"])
def test_a_stride_below_one_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least 1, got 0"):
        Schedule(**{field: 0})


def chunk(tick: int) -> Chunk:
    """A chunk of 50 steps, each of them another pose."""
    model = Model()
    inference, _ = model.step(
        window(tick), model.initial_state(epoch=0, task="t"), commit=False, settings=AdapterSettings(), chunk_id=0
    )
    base = np.arange(50.0)[:, None] * np.ones(6)
    return replace(inference.chunk, base_rad=base)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 800_000_000))
def test_what_is_left_over_begins_at_the_new_tick_and_counts_consumed_steps(first: int, later: int, delay: int) -> None:
    previous = chunk(first)
    found = left_over(previous, window(first + later), delay_ns=delay)
    consumed = delay // STEP
    if later + consumed >= 50:
        assert found is None
    else:
        assert found is not None
        np.testing.assert_array_equal(found.base_rad, previous.base_rad[later:])
        assert found.delay_steps == consumed


def test_nothing_is_left_over_from_another_epoch_or_the_future() -> None:
    previous = chunk(5)
    assert left_over(None, window(8), delay_ns=0) is None
    assert left_over(previous, window(8, epoch=1), delay_ns=0) is None
    assert left_over(previous, window(4), delay_ns=0) is None
    assert left_over(replace(previous, tick=4), window(4), delay_ns=0) is not None


def test_in_lockstep_the_model_is_asked_where_anything_is_due() -> None:
    schedule = Schedule(replan_ticks=5, memory_stride=7)
    asked = [tick for tick in range(36) if schedule.infers(tick)]
    assert asked == [0, 5, 7, 10, 14, 15, 16, 20, 21, 25, 28, 30, 32, 35]
