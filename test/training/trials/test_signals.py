# SPDX-License-Identifier: Apache-2.0
"""What a log says of an episode: signals rise where chunks disagree or the arm trembles; other files are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sigma_ros.errors import UsageError
from training.trials.signals import COSTS, read_episode, reversals, signals_of

PLANS, HORIZON, DOF = 6, 50, 6


def arrays_of(*, apart_at: int | None = None) -> dict[str, np.ndarray]:
    """Plans every 15 ticks on one course; at one of them the course is another from then on."""
    ticks = np.arange(PLANS) * 15
    courses = np.sin(0.02 * (ticks[:, None, None] + np.arange(HORIZON)[None, :, None]) + np.arange(DOF))
    if apart_at is not None:
        courses[apart_at:] += 0.3
    times_s = np.arange(400)[:, None] / 50
    ones = np.ones(PLANS)
    return {
        "tick": ticks,
        "delay_ns": np.full(PLANS, 100_000_000),
        "base_rad": courses - 0.5,
        "residual_rad": np.full_like(courses, 0.5),
        "scale": ones,
        "positions_rad": np.zeros((200, DOF)),
        "commands_rad": np.sin(0.3 * times_s + np.arange(DOF)),
        "tau_l2": 18.0 * ones,
        "risk.total": 0.0 * ones,
        "risk.residual_ratio": 0.4 * ones,
        "intent": np.zeros((PLANS, 4)),
        "factors": np.zeros((PLANS, 8)),
    }


def write(folder: Path, arrays: dict[str, np.ndarray], **result: object) -> Path:
    file = folder / "sigma_0_7.safetensors"
    told = {"seed": 7, "success": True} | result
    save_file(
        {name: np.ascontiguousarray(values) for name, values in arrays.items()}, file, {"result": json.dumps(told)}
    )
    return file


def test_chunks_of_one_course_do_not_disagree_and_another_course_shows_at_its_plan() -> None:
    calm = signals_of(arrays_of(), np.arange(PLANS) / 2)
    assert calm["disagreement"] == pytest.approx(np.zeros(PLANS), abs=1e-6)
    apart = signals_of(arrays_of(apart_at=3), np.arange(PLANS) / 2)
    assert apart["disagreement"] == pytest.approx([0, 0, 0, 0.3, 0, 0], abs=1e-6)


def test_fingers_that_close_on_nothing_close_further() -> None:
    arrays = arrays_of()
    arrays["positions_rad"][45:, -1] = -0.12
    closed = signals_of(arrays, np.arange(PLANS) / 2)["closed on nothing"]
    assert closed == pytest.approx([0, 0, 0, 0.12, 0.12, 0.12])


def test_an_arm_that_trembles_turns_round_and_one_that_goes_on_does_not() -> None:
    times_s = np.arange(300)[:, None] / 50
    steady = 0.5 * times_s + np.zeros(DOF)
    assert reversals(steady, 4.0) == 0.0
    trembling = steady + 0.02 * np.sin(40 * times_s)
    assert reversals(trembling, 4.0) > 0.1
    assert reversals(np.zeros((300, DOF)), 4.0) == 0.0, "rest is no turn"
    assert reversals(steady, 0.0) == 0.0


def test_a_log_is_read_as_its_signals_at_the_times_of_arrival(tmp_path: Path) -> None:
    episode = read_episode(write(tmp_path, arrays_of() | {"spread": np.arange(PLANS) / 10}))
    assert (episode.seed, episode.success) == (7, True)
    assert episode.times_s == pytest.approx(np.arange(PLANS) * 0.5 + 0.1)
    assert episode.embedding.shape == (PLANS, 12)
    assert episode.signals["noise spread"] == pytest.approx(np.arange(PLANS) / 10)
    assert set(episode.signals) <= set(COSTS)
    assert "noise spread" not in read_episode(write(tmp_path, arrays_of())).signals


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "text.safetensors"
    file.write_text("no tensors")
    with pytest.raises(UsageError, match="cannot be read"):
        read_episode(file)
    arrays = arrays_of()
    del arrays["factors"]
    with pytest.raises(UsageError, match="no log of an episode of Sigma"):
        read_episode(write(tmp_path, arrays))
