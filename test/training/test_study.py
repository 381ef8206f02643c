# SPDX-License-Identifier: Apache-2.0
"""A study says what its runs say: kept runs are not trained again, differences come back with their sign and spread."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma_ros.evaluation.scoring.metrics import SPANS
from sigma_ros.evaluation.scoring.statistics import holm
from training import study as module
from training.held_out import WindowScores
from training.options import TrainOptions
from training.study import ARMS, UNADAPTED, arm_options, main, study, summarise
from training.trials.statistics import change_over_seeds
from training.trials.study_page import PAGE, PICTURE, page

pytestmark = pytest.mark.slow

EPISODES = np.arange(120) // 10
COMMON = TrainOptions(base_model_id="mini", dataset_dir="data", output_dir="out", max_steps=2)
CHANCES = st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0.0, 1.0), min_size=1, max_size=9)


def made_up(factor: float, seed: int, *, noise: float = 0.1) -> WindowScores:
    """Windows whose error is `factor` of the base's, give or take; the whole residual leaves a tenth more."""
    base = np.random.default_rng(0).gamma(4.0, 0.1, (120, 16, 6))
    ours = base * factor * np.exp(np.random.default_rng(seed).normal(0.0, noise, base.shape))
    pair = np.full((120, 2), 1.0)
    ones = np.ones(120)
    return WindowScores(
        base=base,
        sigma=ours,
        full=1.1 * ours,
        scale=ones,
        residual_rms=ones,
        tau_l2=pair,
        sem_align=pair,
        episode=EPISODES,
    )


@given(CHANCES)
def test_holms_correction_keeps_the_order_and_lies_between_none_and_bonferronis(chances):
    corrected = holm(chances)
    for name, p in chances.items():
        assert p <= corrected[name] <= min(1.0, len(chances) * p)
        for other, q in chances.items():
            assert p > q or corrected[name] <= corrected[other]
    smallest = min(chances, key=lambda name: chances[name])
    assert corrected[smallest] == min(1.0, len(chances) * chances[smallest])


def test_an_interval_over_seeds_holds_the_truth_as_often_as_it_says():
    """Thousand studies of five seeds; a training seed moves the ratio by a tenth, the truth is a fifth more."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        theirs = np.exp(rng.normal(0.0, 0.05, 5))
        found = change_over_seeds(theirs, 1.2 * theirs * np.exp(rng.normal(0.0, 0.1, 5)))
        held += found.low <= 0.2 <= found.high
    assert 0.93 <= held / 1000 <= 0.97


def test_an_interval_over_seeds_turns_round_with_its_arms():
    rng = np.random.default_rng(1)
    one, other = rng.gamma(9.0, 1.0, 5), rng.gamma(9.0, 1.0, 5)
    there, back = change_over_seeds(one, other), change_over_seeds(other, one)
    assert (1.0 + there.mean) * (1.0 + back.mean) == pytest.approx(1.0)
    assert (1.0 + there.low) * (1.0 + back.high) == pytest.approx(1.0)
    assert there.worse + back.worse == there.seeds == 5


def test_too_little_to_say_is_not_a_number():
    single = change_over_seeds(np.array([1.0]), np.array([1.5]))
    assert single.mean == pytest.approx(0.5)
    assert math.isnan(single.low)
    assert math.isnan(single.high)
    assert math.isnan(change_over_seeds(np.zeros(2), np.ones(2)).mean)
    assert change_over_seeds(np.ones(3), np.ones(3)).high == 0.0


def test_every_arm_is_compared_with_the_base_and_with_sigma_of_the_same_seeds():
    results = {
        "sigma": {seed: made_up(0.5, seed) for seed in range(5)},
        "plain_lora": {seed: made_up(0.6, 10 + seed) for seed in (1, 3)},
        "without memory": {},
    }
    arms = {arm.name: arm for arm in summarise(results)}
    assert list(arms) == ["sigma", "plain_lora", UNADAPTED]
    assert arms["plain_lora"].seeds == (1, 3)
    assert not arms["sigma"].against_sigma
    for span in SPANS:
        assert arms["sigma"].against_base[span].relative == pytest.approx(-0.5, abs=0.02)
        assert arms["plain_lora"].against_sigma[span].relative == pytest.approx(0.2, abs=0.03)
        assert arms[UNADAPTED].seeds_against_sigma[span].mean == pytest.approx(0.1)
        assert arms[UNADAPTED].seeds_against_sigma[span].worse == 5
        assert arms["plain_lora"].seeds_against_sigma[span].seeds == 2


def test_the_page_of_one_seed_claims_no_spread():
    arms = summarise({"sigma": {0: made_up(0.5, 0)}, "without film": {0: made_up(0.5, 1)}})
    text = page(arms, COMMON)
    row = next(line for line in text.splitlines() if line.startswith("| without film | 1 | 0."))
    assert "±" not in row
    assert "nan" not in text
    alone = page(summarise({"plain_lora": {0: made_up(0.5, 0)}}), COMMON)
    assert "Against the whole of Sigma" not in alone
    assert page([], COMMON) == "No run has finished yet.\n"


def test_arms_differ_from_sigma_in_what_their_names_say_and_nothing_else():
    for arm in ARMS:
        own = arm_options(arm, COMMON)
        assert replace(own, arm="sigma", ablate=()) == COMMON
        assert (own.arm == "plain_lora") == (arm == "plain_lora")
        assert own.ablate == ((arm.removeprefix("without "),) if arm.startswith("without ") else ())


def test_a_real_study_keeps_its_runs_and_trains_none_twice(base, data, tmp_path, monkeypatch):
    out = tmp_path / "study"
    command = ["--base_model_id", str(base), "--dataset_dir", str(data.folder), "--out", str(out), "--max_steps", "1"]
    command += ["--batch_size", "2", "--arms", "sigma", "plain_lora", "without glance", "--seeds", "0"]
    assert main(command) == 0
    text = (out / PAGE).read_text(encoding="utf-8")
    assert (out / PICTURE).is_file()
    assert not list((out / "work").iterdir())

    def again(*_: object, **__: object) -> None:
        pytest.fail("a finished run was trained again")

    monkeypatch.setattr(module, "run_training", again)
    assert main(command) == 0
    assert (out / PAGE).read_text(encoding="utf-8") == text


def test_an_interrupted_study_says_so_and_goes_on_with_the_run_it_left(tmp_path, monkeypatch):
    asked = []

    def interrupted(options: TrainOptions, *, resume: bool, alike: int) -> tuple[None, bool]:
        asked.append((options.seed, options.arm, resume))
        return None, False

    monkeypatch.setattr(module, "run_training", interrupted)
    assert not study(COMMON, ["sigma", "plain_lora"], [0, 1], tmp_path)
    (tmp_path / "work" / "sigma_seed0" / "state").mkdir(parents=True)
    assert not study(COMMON, ["sigma", "plain_lora"], [0, 1], tmp_path)
    assert asked == [(0, "sigma", False), (0, "sigma", True)]
    assert not (tmp_path / PAGE).exists()
