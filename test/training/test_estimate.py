# SPDX-License-Identifier: Apache-2.0
"""A run tells its time before its first update, from the work that comes; being asked changes nothing of it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from sigma_ros.errors import SigmaError
from training.options import TrainOptions
from training.progress import estimate
from training.run import Run
from training.train import CHECKPOINT, run_training

pytestmark = pytest.mark.slow


@pytest.fixture
def options(base, data, tmp_path) -> TrainOptions:
    size = {"batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 3, "eval_every": 0}
    places = {"base_model_id": str(base), "dataset_dir": str(data.folder), "output_dir": str(tmp_path / "run")}
    return TrainOptions(**places, **size, hide_motion=0.5, lora_dropout=0.2)  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{}, {"arm": "plain_lora", "hide_motion": 0.0}, {"train_parts": "residual"}])
def test_law_a_run_that_tells_its_time_is_bit_for_bit_the_run_that_does_not(changes, options, tmp_path):
    if "train_parts" in changes:
        run_training(replace(options, max_steps=1, output_dir=str(tmp_path / "first")), resume=False)
        changes = changes | {"start_from": str(tmp_path / "first" / CHECKPOINT)}
    told, silent = (Run(replace(options, **changes), Accelerator()) for _ in range(2))
    for run in (told, silent):
        torch.manual_seed(7)
        for _ in range(2):
            if run is told:
                estimate.steps(run)
            run.advance()
    assert told.places == silent.places
    for ours, theirs in zip(told.memories, silent.memories, strict=True):
        assert torch.equal(ours.memory, theirs.memory)
    for name, parameter in told.parameters.items():
        assert torch.equal(parameter, silent.parameters[name]), name


def test_law_the_time_is_told_before_the_first_update_and_before_the_base_has_looked(options, data, capsys, tmp_path):
    (tmp_path / "data").mkdir()
    for file in Path(data.folder).iterdir():
        if file.is_file():
            (tmp_path / "data" / file.name).symlink_to(file)
    run_training(replace(options, dataset_dir=str(tmp_path / "data")), resume=False)
    said = " ".join(capsys.readouterr().err.split())
    looked = said.index("until the base has looked at 4 episodes, from 16 of their ticks")
    told = re.search(r"estimate: \S+ \w+ to \S+ \w+ for 3 steps, \d+\.\d GB; from dry passes", said)
    assert told is not None
    assert looked < told.start() < said.index("estimate from the first step")


def test_law_the_estimate_counts_the_windows_of_the_steps_that_come(options, monkeypatch):
    run = Run(options, Accelerator())
    monkeypatch.setattr(estimate, "measured", lambda *_, **__: (1.0, 1.0))
    told = re.search(r"the first of (\d+) micro-steps", estimate.steps(run))
    assert told is not None
    sizes: list[int] = []
    pieces = run.pieces

    def counted(micro: int) -> Any:
        drawn = pieces(micro)
        sizes.append(max(len(piece.rows) for piece in drawn))
        return drawn

    monkeypatch.setattr(run, "pieces", counted)
    for _ in range(options.max_steps):
        run.advance()
    assert int(told[1]) == round(sum(sizes) / sizes[0])


def test_several_runs_are_counted(options, monkeypatch):
    monkeypatch.setattr(estimate, "measured", lambda *_, **__: (600.0, 600.0))
    one = re.search(r"estimate: (\S+) h", estimate.steps(Run(options, Accelerator())))
    many = re.search(
        r"; (\S+) h to \S+ h for 10 runs like this one", estimate.steps(Run(options, Accelerator()), alike=10)
    )
    assert one is None or many is None or float(many[1]) == pytest.approx(10 * float(one[1]), rel=0.1)
    assert many is not None


@pytest.mark.parametrize(
    ("each_s", "passes", "expected"),
    [([0.5, 0.1, 0.2, 0.3], None, 4), ([25.0], None, 1), ([2.0, 1.0], None, 2), ([9.0, 9.0], 2, 2)],
)
def test_the_first_of_several_passes_warms_up_and_a_long_one_is_enough(each_s, passes, expected, monkeypatch):
    clock = iter([at for i, took in enumerate(each_s) for at in (100.0 * i, 100.0 * i + took)])
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: next(clock))
    done: list[int] = []
    low_s, high_s = estimate.measured(lambda: done.append(1), passes=passes)
    warm = each_s[1:] or each_s
    assert (len(done), low_s, high_s) == (expected, pytest.approx(min(warm)), pytest.approx(max(warm)))


def test_a_loss_that_is_not_finite_is_named_before_the_first_update(options):
    run = Run(options, Accelerator())
    with torch.no_grad():
        run.parameters["telepathy.readouts"].fill_(float("nan"))
    with pytest.raises(SigmaError, match=r"not finite.*episode \d+ tick \d+"):
        estimate.steps(run)
