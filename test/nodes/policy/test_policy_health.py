# SPDX-License-Identifier: Apache-2.0
"""The three failure signatures: each is told when it comes, none while all is as before."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from node_fakes import make_chunk, small_contract

from sigma_ros.nodes.policy.health import NORMAL, RECENT, PolicyHealth, Signatures
from sigma_ros.nodes.shared.diagnostics import Level
from sigma_ros.policy.job import Proposed, Remembered, Rescaled, TickRequest
from sigma_ros.risk import assess
from sigma_ros.values import WINDOW_TICKS, Chunk, Frame, Telepathy, Window

pytestmark = pytest.mark.ros
CONTRACT = small_contract()


def telepathy_of(chunk: Chunk) -> Telepathy:
    zero = np.zeros(1)
    return Telepathy(
        epoch=chunk.epoch, tick=chunk.tick, stamp_ns=1, semantic_memory=zero, intent=zero, factors=zero[None],
        tau_l2=1.0, sem_align=1.0, baseline_tau_l2=1.0, baseline_sem_align=1.0, committed=False,
    )  # fmt: skip


def proposed(chunk: Chunk, telepathy: Telepathy, *, took_ns: int = 0) -> Proposed:
    """What comes of a planning tick at which the arm stands at zero."""
    frame = Frame(
        epoch=chunk.epoch, tick=chunk.tick, stamp_ns=1, images={}, positions_rad=np.zeros(6), image_age_ns={},
        joint_age_ns=0,
    )  # fmt: skip
    window = Window(epoch=chunk.epoch, task="t", frames=(frame,) * WINDOW_TICKS, mask=np.ones(WINDOW_TICKS, dtype=bool))
    request = TickRequest(item=window, task="t", settings=chunk.settings, plans=True, commits=False)
    return Proposed(request=request, chunk=chunk, telepathy=telepathy, took_ns=took_ns, host_ns=took_ns)


def feed(
    signatures: Signatures,
    ticks: range,
    *,
    planned_rad: float = 0.0,
    factor: float = 1.0,
    align: float = 0.6,
    ms: float = 50,
    epoch: int = 0,
) -> None:
    for tick in ticks:
        chunk = make_chunk(
            CONTRACT,
            tick=tick * 8,
            epoch=epoch,
            base_rad=np.full((50, 6), planned_rad),
            residual_rad=np.zeros((50, 6)),
            risk=assess(residual_ratio=1.0, factor_ratio=factor, alignment=1.0),
        )
        telepathy = replace(telepathy_of(chunk), sem_align=align)
        signatures.note(proposed(chunk, telepathy, took_ns=round(ms * 1e6)))


def levels(signatures: Signatures) -> list[Level]:
    return [task().level for task in (signatures.action_error, signatures.semantic_drift, signatures.latency)]


@pytest.fixture
def steady() -> Signatures:
    signatures = Signatures()
    feed(signatures, range(NORMAL))
    return signatures


def test_before_there_is_anything_to_compare_nothing_is_claimed() -> None:
    assert levels(Signatures()) == [Level.STALE] * 3


def test_while_all_is_as_before_all_is_well(steady) -> None:
    assert levels(steady) == [Level.OK] * 3


def test_an_arm_that_leaves_the_plan_is_told(steady) -> None:
    feed(steady, range(NORMAL, NORMAL + RECENT + 1), planned_rad=0.2)
    assert steady.action_error().level is Level.WARN
    assert "0.20 rad from the plan" in steady.action_error().text


@pytest.mark.parametrize(
    ("changes", "said"), [({"factor": 3.0}, "off the training"), ({"align": 0.1}, "sem_align fell")]
)
def test_a_drift_of_what_the_model_believes_is_told(steady, changes: dict, said: str) -> None:
    feed(steady, range(NORMAL, NORMAL + RECENT), **changes)
    assert steady.semantic_drift().level is Level.WARN
    assert said in steady.semantic_drift().text


def test_one_slow_chunk_is_a_spike_and_a_slow_machine_is_not(steady) -> None:
    feed(steady, range(NORMAL, NORMAL + 1), ms=400)
    assert steady.latency().level is Level.WARN
    slow = Signatures()
    feed(slow, range(NORMAL), ms=400)
    assert slow.latency().level is Level.OK


def test_a_new_epoch_is_compared_with_itself(steady) -> None:
    feed(steady, range(5), align=0.0, epoch=1)
    assert steady.semantic_drift().level is Level.OK
    assert steady.action_error().level is Level.STALE


def test_bare_commits_and_rescaled_chunks_do_not_count(steady) -> None:
    before = list(steady._delays_ms)
    chunk = make_chunk(CONTRACT, base_rad=np.full((50, 6), 9.0))
    scored = proposed(chunk, telepathy_of(chunk))
    request = replace(scored.request, plans=False)
    steady.note(replace(scored, request=request))
    steady.note(Remembered(request=request, telepathy=scored.telepathy))
    steady.note(Rescaled(request=scored.request, chunk=chunk))
    assert list(steady._delays_ms) == before


@pytest.mark.parametrize(("alarmed", "level"), [(False, Level.OK), (True, Level.WARN)])
def test_a_chunk_that_is_an_alarm_asks_for_help(alarmed: bool, level: Level) -> None:
    chunk = make_chunk(CONTRACT, disagreement_rad=0.31, alarmed=alarmed)
    health = PolicyHealth(cast(Any, None), cast(Any, SimpleNamespace(contract=CONTRACT)))
    health.note(proposed(chunk, telepathy_of(chunk)))
    told = health.tasks()["policy/adapter"]()
    assert told.level is level
    assert told.values["disagreement_rad"] == "0.310"
    assert ("asks for help" in told.text) is alarmed
