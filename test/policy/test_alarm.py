# SPDX-License-Identifier: Apache-2.0
"""What two chunks of one course say: nothing where they agree, their distance where they do not."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma_ros.contract_file import load_contract
from sigma_ros.policy.alarm import OVERLAP_STEPS, AlarmSettings, disagreement, disagreement_of
from sigma_ros.risk import plain_chunk
from sigma_ros.values import Chunk

HORIZON, DOF = 50, 6


def course(first: int, *, shift: float = 0.0) -> np.ndarray:
    """A path of its own over the ticks, from one of them on."""
    ticks = np.arange(first, first + HORIZON)[:, None]
    return np.sin(0.05 * ticks + np.arange(DOF)) + shift


def chunk(tick: int, *, epoch: int = 0, scale: float = 1.0, shift: float = 0.0) -> Chunk:
    residual = np.full((HORIZON, DOF), 0.25)
    base = course(tick, shift=shift) - scale * residual
    changes = {"epoch": epoch, "residual_rad": residual, "scale": scale, "checkpoint_hash": "x"}
    return plain_chunk(load_contract("so101"), base, stamp_ns=1 + tick, chunk_id=tick, **changes)


@given(st.integers(0, HORIZON - 1))
def test_chunks_of_one_course_agree_whenever_the_second_was_planned(ticks: int) -> None:
    assert disagreement(course(3), course(3 + ticks), ticks=ticks) == pytest.approx(0.0, abs=1e-12)


@given(st.integers(0, HORIZON - 1), st.floats(-2.0, 2.0))
def test_a_shift_of_all_joints_is_the_disagreement(ticks: int, shift: float) -> None:
    assert disagreement(course(3), course(3 + ticks, shift=shift), ticks=ticks) == pytest.approx(abs(shift), abs=1e-9)


def test_only_the_first_steps_in_common_count() -> None:
    later = course(8)
    later[OVERLAP_STEPS:] += 9.0
    assert disagreement(course(0), later, ticks=8) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("ticks", [-1, HORIZON, 3 * HORIZON])
def test_without_a_tick_in_common_nothing_is_said(ticks: int) -> None:
    assert disagreement(course(0), course(ticks, shift=1.0), ticks=ticks) == 0.0


def test_what_is_blended_is_compared_and_never_two_epochs() -> None:
    assert disagreement_of(chunk(0, scale=1.0), chunk(8, scale=0.5)) == pytest.approx(0.0, abs=1e-12)
    assert disagreement_of(chunk(0), chunk(8, shift=0.3)) == pytest.approx(0.3)
    assert disagreement_of(chunk(0), chunk(8, shift=0.3, epoch=1)) == 0.0
    assert disagreement_of(None, chunk(8)) == 0.0


def test_a_disagreement_that_is_not_finite_is_an_alarm_and_without_threshold_there_is_none() -> None:
    settings = AlarmSettings(threshold_rad=0.2)
    assert [settings.alarmed(value) for value in (0.0, 0.2, 0.21, math.inf, math.nan)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert not AlarmSettings().alarmed(math.inf)
    broken = replace(chunk(8), base_rad=np.full((HORIZON, DOF), math.nan))
    assert settings.alarmed(disagreement_of(chunk(0), broken))


def test_a_joint_below_its_bound_is_an_alarm_and_no_other_joint_is() -> None:
    settings = AlarmSettings(joint="gripper", below_rad=-0.05)
    assert settings.alarmed(0.0, {"gripper": -0.06, "pan": 0.0})
    assert not settings.alarmed(9.0, {"gripper": -0.05, "pan": -1.0})
    assert not settings.alarmed(9.0)
    assert not AlarmSettings(below_rad=1.0).alarmed(9.0, {"gripper": -0.06})


@pytest.mark.parametrize(
    "wrong", [{"below_rad": math.nan}, {"threshold_rad": -1.0}, {"threshold_rad": math.nan}, {"action": "hope"}]
)
def test_senseless_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        AlarmSettings(**wrong)  # type: ignore[arg-type]
