# SPDX-License-Identifier: Apache-2.0
"""Scenes are written once and read back; the second task teaches the vision tower, and a cut run goes on exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sigma_ros.errors import DatasetError
from training.toy.locate import Scenes, main, write_scenes
from training.toy.pretrain_mini import PretrainOptions, PretrainRun

pytestmark = pytest.mark.slow

OPTIONS = PretrainOptions(max_steps=3, batch_size=2, warmup_steps=1, dtype="float32", locate_batch=8, locate_steps=2)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, contract="so101", setups=2, seed=1)
    return folder


def test_what_is_there_is_not_made_again(scenes):
    (file,) = scenes.glob("*.safetensors")
    before = file.stat().st_mtime_ns
    assert main(["--out", str(scenes), "--setups", "2", "--seed", "1"]) == 0
    assert file.stat().st_mtime_ns == before
    read = Scenes.open(scenes)
    assert read.images.shape == (64, 112, 112, 3)  # 2 set-ups, 16 instants, 2 cameras
    assert len(read.places) == 64


def test_no_scenes_are_said_in_one_sentence(tmp_path):
    with pytest.raises(DatasetError, match=r"no scenes.*training\.toy\.locate"):
        Scenes.open(tmp_path)


def test_a_file_of_fewer_setups_is_made_again_and_a_damaged_one_is_named(tmp_path):
    write_scenes(tmp_path, contract="so101", setups=1, seed=1)
    first = Scenes.open(tmp_path).images
    write_scenes(tmp_path, contract="so101", setups=2, seed=1)
    both = Scenes.open(tmp_path).images
    assert len(both) == 2 * len(first)
    assert torch.equal(both[: len(first)], first)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DatasetError, match=rf"cannot be read.*{file.name}.*remove the file"):
        Scenes.open(tmp_path)


def test_the_first_steps_teach_the_eyes_alone_and_the_later_ones_everything(data, scenes):
    run = PretrainRun(data, replace(OPTIONS, scenes_dir=str(scenes)))

    def changed(before):
        return {name for name, parameter in run.parameters.items() if not torch.equal(parameter, before[name])}

    start = {name: parameter.detach().clone() for name, parameter in run.parameters.items()}
    assert set(run.advance()) == {"locate"}
    assert set(run.advance()) == {"locate"}
    eyes = changed(start)
    assert eyes
    assert all("vision_tower" in name or "multi_modal_projector" in name or "locator" in name for name in eyes)
    assert set(run.advance()) == {"loss", "locate"}
    assert any("action_out_proj" in name for name in changed(start))


def test_places_are_learned(data, scenes):
    run = PretrainRun(data, replace(OPTIONS, max_steps=60, locate_steps=60, scenes_dir=str(scenes)))
    losses = [run.advance()["locate"] for _ in range(60)]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert np.isfinite(run.averaged_errors(2)["brick_error_px"])


def test_a_cut_run_goes_on_with_its_readout(data, scenes, tmp_path):
    options = replace(OPTIONS, scenes_dir=str(scenes))
    whole, cut, resumed = (PretrainRun(data, options) for _ in range(3))
    for _ in range(3):
        whole.advance()
    cut.advance()
    cut.save(tmp_path)
    resumed.restore(tmp_path)
    for _ in range(2):
        resumed.advance()
    for name, average in whole.average.items():
        assert torch.equal(average, resumed.average[name]), name
