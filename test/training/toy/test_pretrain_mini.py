# SPDX-License-Identifier: Apache-2.0
"""The small model learns with LeRobot's own loss, exactly resumable, and comes out as a base that loads strictly."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import CheckpointError
from sigma_ros.model.pi05.loading import load_base
from sigma_ros.model.pi05.mini import limit_normalisation
from training.toy.locate import augmented
from training.toy.pretrain_mini import PretrainOptions, PretrainRun, read_batch, train

pytestmark = pytest.mark.slow

OPTIONS = PretrainOptions(max_steps=4, batch_size=2, warmup_steps=2, dtype="float32")


def test_one_draw_costs_what_lerobots_policy_says_and_more_draws_only_repeat_it(data):
    run = PretrainRun(data, OPTIONS)
    backbone, batch = run.backbone, run.train.draw(2, seed=0, step=0)
    core = backbone.policy.model
    noise = torch.randn(2, 3, backbone.horizon, backbone.max_dof, generator=torch.Generator().manual_seed(1))
    time = torch.tensor([[0.2, 0.5, 0.9], [1.0, 0.4, 0.1]])
    actions = torch.nn.functional.pad(batch.actions, (0, backbone.max_dof - batch.actions.shape[2]))
    with torch.no_grad():
        given = read_batch(backbone, batch)
        ours = backbone.flow_loss(backbone.prefix(**given), actions=actions, noise=noise, time=time)
        pictures = (batch.images.permute(0, 1, 4, 2, 3).float() / 127.5 - 1.0).unbind(dim=1)
        present = [torch.ones(2, dtype=torch.bool)] * len(pictures)
        for draw in range(3):
            theirs = core.forward(
                list(pictures), present, given["tokens"], given["mask"], actions, noise[:, draw], time[:, draw]
            )
            torch.testing.assert_close(ours[:, draw], theirs, rtol=1e-4, atol=1e-4)


def test_every_weight_that_the_actions_depend_on_learns(data):
    """The last language layer counts by its keys and values alone, here as in LeRobot's own training."""
    run = PretrainRun(data, OPTIONS)
    before = {name: parameter.detach().clone() for name, parameter in run.parameters.items()}
    run.advance()
    run.advance()
    still = {name for name, parameter in run.parameters.items() if torch.equal(parameter, before[name])}
    language = "model.paligemma_with_expert.paligemma.model.language_model"
    behind = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    dead = {f"{language}.layers.5.{name}.weight" for name in (*behind, "post_attention_layernorm")}
    assert still == {*dead, f"{language}.norm.weight"}


def test_a_cut_run_goes_on_bit_for_bit_and_its_model_loads(data, tmp_path):
    whole, cut = PretrainRun(data, OPTIONS), PretrainRun(data, OPTIONS)
    assert train(whole, tmp_path / "whole", eval_every=2, save_every=2)
    for _ in range(2):
        cut.advance()
    cut.save(tmp_path / "cut")
    resumed = PretrainRun(data, OPTIONS)
    resumed.restore(tmp_path / "cut")
    assert train(resumed, tmp_path / "cut", eval_every=4, save_every=2)
    for name, average in whole.average.items():
        assert torch.equal(average, resumed.average[name]), name
    resumed.export(tmp_path / "model", made_by="a test")
    loaded = load_base(tmp_path / "model")
    assert loaded.info.trained
    stored = dict(loaded.backbone.policy.named_parameters())
    for name, average in resumed.average.items():
        assert torch.equal(stored[name], average.to(torch.bfloat16).float()), name


def test_other_settings_cannot_go_on_with_a_state(data, tmp_path):
    run = PretrainRun(data, OPTIONS)
    run.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"other settings.*draws"):
        PretrainRun(data, replace(OPTIONS, draws=1)).restore(Path(tmp_path))


def test_a_run_may_begin_with_the_weights_of_another(data, tmp_path):
    first = PretrainRun(data, OPTIONS)
    first.normalisation = limit_normalisation(load_contract("so101"))
    first.advance()
    first.export(tmp_path / "model", made_by="a test")
    second = PretrainRun(data, replace(OPTIONS, seed=7, init_model=str(tmp_path / "model")))
    assert second.normalisation.as_dict() == first.normalisation.as_dict() != data.meta.statistics.as_dict()
    for name, average in first.average.items():
        expected = average.to(torch.bfloat16).float()
        assert torch.equal(second.parameters[name], expected), name
        assert torch.equal(second.average[name], expected), name
    second.advance()


def test_augmented_pictures_are_a_function_of_seed_and_step_and_leave_everything_else_alone(data):
    run = PretrainRun(data, OPTIONS)
    images = run.train.draw(2, seed=0, step=0).images
    once = augmented(images, strength=1.0, seed=3, step=5)
    state = torch.get_rng_state()
    assert torch.equal(augmented(images, strength=1.0, seed=3, step=5), once)
    assert torch.equal(torch.get_rng_state(), state)
    assert once.shape == images.shape
    assert once.dtype == torch.uint8
    assert not torch.equal(once, images)
    assert not torch.equal(augmented(images, strength=1.0, seed=3, step=6), once)
    assert not torch.equal(augmented(images, strength=1.0, seed=4, step=5), once)
    assert augmented(images, strength=0.0, seed=3, step=5) is images


def test_two_cameras_of_one_tick_are_moved_each_in_its_own_way(data):
    image = PretrainRun(data, OPTIONS).train.draw(1, seed=0, step=0).images[:, :1]
    both = augmented(torch.cat([image, image], dim=1), strength=1.0, seed=0, step=0)
    assert not torch.equal(both[:, 0], both[:, 1])
