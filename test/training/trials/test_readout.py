# SPDX-License-Identifier: Apache-2.0
"""A readout finds what is there, finds nothing where nothing is, and tells it of every part of a real model."""

import numpy as np
import pytest
from accelerate import Accelerator

from training.options import TrainOptions
from training.run import Run
from training.trials.readout import main, read_right, readouts, sides, table


def test_law_a_planted_side_is_read_among_many_features_and_one_that_is_not_there_is_not():
    rng = np.random.default_rng(0)
    side = rng.random(200) > 0.5
    features = rng.normal(size=(200, 400))
    assert 0.35 < read_right(features, side) < 0.65
    planted = np.concatenate([features[:, :20], 3.0 * side[:, None] + rng.normal(size=(200, 1)) / 4], axis=1)
    assert read_right(planted, side) > 0.95
    assert 0.35 < read_right(np.ones((200, 3)), side) < 0.65  # no feature varies


def test_the_side_is_a_group_of_the_joint_whose_end_varies_most_however_unlike_the_groups_are_in_size():
    rng = np.random.default_rng(0)
    ends = rng.normal(size=(60, 3))
    ends[:, 2] += np.where(np.arange(60) < 14, 40.0, -40.0)
    assert sides(ends).tolist() == [True] * 14 + [False] * 46


def test_a_table_has_a_row_for_each_window():
    text = table([{"memory": 0.5}, {"memory": 1.0}], seconds=0.5)
    assert text.splitlines() == ["| after | memory |", "| ---: | ---: |", "| 0.0 s | 50 % |", "| 0.5 s | 100 % |"]


@pytest.mark.slow
def test_every_part_of_a_model_is_read_window_after_window_and_the_command_prints_it(base, data, tmp_path, capsys):
    options = TrainOptions(base_model_id=str(base), dataset_dir=str(data.folder), output_dir=str(tmp_path / "run"))
    found = readouts(Run(options, Accelerator()), 2)
    assert [set(row) for row in found] == [{"pictures", "glance", "memory", "intent", "factors"}] * 2
    assert all(0.0 <= share <= 1.0 for row in found for share in row.values())
    given = ["--checkpoint", str(tmp_path / "none"), "--dataset_dir", str(data.folder), "--base_model_id", str(base)]
    assert main(given) == 2
    assert "none" in capsys.readouterr().err
