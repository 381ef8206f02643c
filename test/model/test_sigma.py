# SPDX-License-Identifier: Apache-2.0
"""The laws of the telepathy path, on a tiny real PI05Policy."""

from dataclasses import replace

import pytest
import torch
from tiny_sigma import (
    TASK,
    batch_of,
    noise_at,
    run,
    sights,
    stir,
    take,
    tiny_backbone,
    tiny_config,
    tiny_sigma,
    window_ticks,
)

from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.step import advance, initial_state, plan, remember, telepathy_input_of
from sigma_ros.model.tokens import PADDING

BELIEF = ("memory", "intent", "factors")


def policy_chunk(dtype, model, batch, noise):
    """LeRobot's own answer, from a policy that Sigma never touched."""
    untouched = tiny_backbone(dtype)
    state = batch["robot_state"][:, -1]
    tokens, mask = untouched.tokenize(batch["texts"][0], state.numpy())
    images = {
        key: batch["vis_obs"][:, -1, camera].to(torch.float32) / 255.0
        for camera, key in enumerate(untouched.camera_keys)
    }
    inputs = {**images, "observation.language.tokens": tokens, "observation.language.attention_mask": mask}
    return untouched.policy.predict_action_chunk(inputs, noise=noise)[:, :, : model.config.dof]


def close(one, two, tolerance=1e-5):
    torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_with_adapters_loaded_the_base_is_the_untouched_policy_bit_for_bit(dtype):
    model = tiny_sigma(dtype)
    batch = {**batch_of(model, 1), "noise": noise_at(model, 5)}
    outputs = model(batch)
    assert torch.equal(outputs["base_actions"], policy_chunk(dtype, model, batch, batch["noise"]))
    assert outputs["telepathy_residual"].abs().max() > 0.01


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scale_zero_is_the_policy_bit_for_bit(dtype):
    model = tiny_sigma(dtype)
    batch = {**batch_of(model, 1), "noise": noise_at(model, 5)}
    outputs = model(batch)
    blended = model.adapter(max_scale=0.0)(
        base_action_vector=outputs["base_actions"],
        telepathy_residual=outputs["telepathy_residual"],
        telepathy_factors=outputs["telepathy_factors"],
        alignment=outputs["alignment"],
    )
    assert torch.equal(blended, policy_chunk(dtype, model, batch, batch["noise"]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_untrained_sigma_is_the_policy_bit_for_bit_at_full_scale(dtype):
    model = tiny_sigma(dtype, stirred=False)
    batch = {**batch_of(model, 1), "noise": noise_at(model, 5)}
    outputs = model(batch)
    blended = model.adapter(min_scale=1.0)(
        base_action_vector=outputs["base_actions"],
        telepathy_residual=outputs["telepathy_residual"],
        telepathy_factors=outputs["telepathy_factors"],
    )
    assert torch.equal(blended, policy_chunk(dtype, model, batch, batch["noise"]))


def test_live_step_and_model_card_call_give_the_same_actions():
    model = tiny_sigma()
    recording = sights(model, 17)
    plans, _ = run(model, initial_state(model, epoch=0, task=TASK), recording, range(16), plan_every=15)
    window = recording[:16]
    outputs = model(
        {
            "vis_obs": torch.stack([sight.images.permute(0, 3, 1, 2) for sight in window])[None],
            "robot_state": torch.stack([sight.state for sight in window])[None],
            "texts": [TASK],
            "noise": noise_at(model, 15),
            "semantic_memory": plans[0].action.telepathy_output.memory,
            "telepathy_factors": plans[0].action.telepathy_output.factors,
        }
    )
    assert torch.equal(outputs["base_actions"], plans[15].action.base)
    close(outputs["telepathy_residual"], plans[15].action.residual.composite)
    close(outputs["semantic_memory"], plans[15].action.telepathy_output.memory)


def test_nothing_after_a_tick_changes_what_was_said_at_it():
    model = tiny_sigma()
    recording = sights(model, 24)
    other = recording[:17] + sights(model, 24, seed=9)[17:]
    start = initial_state(model, epoch=0, task=TASK)
    ours, _ = run(model, start, recording, range(24))
    theirs, _ = run(model, start, other, range(24))
    for tick in (0, 4, 8, 12, 16):
        assert torch.equal(ours[tick].action.residual.composite, theirs[tick].action.residual.composite)
        assert torch.equal(ours[tick].action.base, theirs[tick].action.base)
    assert not torch.equal(ours[20].action.base, theirs[20].action.base)


def test_a_later_task_text_leaves_what_was_said_before():
    model = tiny_sigma()
    recording = sights(model, 8)
    plans, state = run(model, initial_state(model, epoch=0, task=TASK), recording, range(8))
    again, _ = plan(model, state, noise=noise_at(model, 7), commit=False)
    renamed, _ = plan(model, replace(state, task="open the gripper"), noise=noise_at(model, 7), commit=False)
    assert not torch.equal(again.action.telepathy_output.intent, renamed.action.telepathy_output.intent)
    assert torch.equal(
        plans[4].action.telepathy_output.memory,
        run(model, initial_state(model, epoch=0, task=TASK), recording, range(5))[0][4].action.telepathy_output.memory,
    )


def test_frames_older_than_the_window_reach_the_present_through_memory_alone():
    model = tiny_sigma()
    recording = sights(model, 24)
    other = sights(model, 24, seed=9)[:4] + recording[4:]
    start = initial_state(model, epoch=0, task=TASK)
    _, ours = run(model, start, recording, range(21), plan_every=16)
    _, theirs = run(model, start, other, range(21), plan_every=16)
    assert not torch.equal(ours.memory, theirs.memory)
    assert torch.equal(ours.ring.pooled, theirs.ring.pooled)
    assert torch.equal(ours.ring.states, theirs.ring.states)
    same_memory = replace(theirs, memory=ours.memory, factors=ours.factors)
    one, _ = plan(model, ours, noise=noise_at(model, 20), commit=False)
    two, _ = plan(model, same_memory, noise=noise_at(model, 20), commit=False)
    assert torch.equal(one.action.residual.composite, two.action.residual.composite)
    assert torch.equal(one.action.base, two.action.base)


def test_ring_buffer_gives_what_encoding_the_whole_window_gives():
    model = tiny_sigma()
    recording = sights(model, 40)
    plans, state = run(model, initial_state(model, epoch=0, task=TASK), recording, range(38), plan_every=37)
    fresh = advance(model, initial_state(model, epoch=0, task=TASK), window_ticks(37), lambda t: recording[t])
    scratch, _ = plan(
        model,
        replace(fresh, memory=state.memory, factors=state.factors),
        noise=noise_at(model, 37),
        commit=False,
    )
    close(plans[37].action.residual.composite, scratch.action.residual.composite)
    close(plans[37].action.telepathy_output.memory, scratch.action.telepathy_output.memory)


def test_memory_kept_over_ticks_is_the_memory_of_the_committed_windows_alone():
    model = tiny_sigma()
    recording = sights(model, 36)
    _, live = run(model, initial_state(model, epoch=0, task=TASK), recording, range(36), plan_every=1)
    _, lazy = run(model, initial_state(model, epoch=0, task=TASK), recording, range(36), plan_every=16)
    assert live.commits == lazy.commits == 3
    assert torch.equal(live.memory, lazy.memory)
    assert torch.equal(live.factors, lazy.factors)


@pytest.mark.parametrize("telepathy", [True, False])
def test_a_batch_gives_what_its_windows_give_alone(telepathy):
    model = tiny_sigma()
    batch = batch_of(model, 3)
    together = model(batch, use_telepathy=telepathy)
    for index in range(3):
        alone = model(take(batch, index), use_telepathy=telepathy)
        for name, value in alone.items():
            close(together[name][index : index + 1], value)


def test_permuting_cameras_with_all_that_is_a_cameras_own_changes_no_belief():
    model = tiny_sigma()
    batch = batch_of(model, 2)
    batch["camera_mask"] = torch.ones(2, 16, 2, dtype=torch.bool)
    batch["camera_mask"][0, 5:9, 1] = False
    ours = model(batch)
    with torch.no_grad():
        path = model.telepathy
        path.resampler.camera.copy_(path.resampler.camera.flip(0))
        path.glance.usual.copy_(path.glance.usual.flip(0))
        weight = path.glance_to_semantic.weight
        weight.copy_(weight.unflatten(1, (2, -1)).flip(1).flatten(1))
    swapped = model({**batch, "vis_obs": batch["vis_obs"].flip(2), "camera_mask": batch["camera_mask"].flip(2)})
    for name in ("semantic_memory", "intent", "telepathy_factors"):
        close(ours[name], swapped[name])


def test_camera_embeddings_tell_cameras_apart():
    model = tiny_sigma()
    batch = batch_of(model, 1)
    ours, swapped = model(batch), model({**batch, "vis_obs": batch["vis_obs"].flip(2)})
    assert not torch.allclose(ours["intent"], swapped["intent"], atol=1e-4)


def test_padding_of_the_text_does_not_count():
    model = tiny_sigma()
    _, state = run(model, initial_state(model, epoch=0, task=TASK), sights(model, 4), range(4))
    telepathy_input = telepathy_input_of(model, state)
    garbage = 50.0 * torch.randn(1, 9, model.config.width)
    longer = replace(
        telepathy_input,
        text=torch.cat([telepathy_input.text, garbage], dim=1),
        text_mask=torch.cat([telepathy_input.text_mask, torch.zeros(1, 9, dtype=torch.bool)], dim=1),
    )
    ours, theirs = (model.believe(p, state.recurrence) for p in (telepathy_input, longer))
    for name in BELIEF:
        close(getattr(ours, name), getattr(theirs, name))


def test_pixels_of_a_missing_camera_do_not_matter_at_all():
    model = tiny_sigma()
    batch = {**batch_of(model, 2), "camera_mask": torch.ones(2, 16, 2, dtype=torch.bool)}
    batch["camera_mask"][:, :, 1] = False
    other = {**batch, "vis_obs": batch["vis_obs"].clone()}
    other["vis_obs"][:, :, 1] = 255 - other["vis_obs"][:, :, 1]
    ours, theirs = model(batch), model(other)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_padding_and_holes_of_a_window_do_not_matter_at_all():
    model = tiny_sigma()
    batch = {**batch_of(model, 2), "tick_mask": torch.ones(2, 16, dtype=torch.bool)}
    batch["tick_mask"][0, :11] = False
    batch["tick_mask"][1, 6:8] = False
    other = {**batch, "vis_obs": batch["vis_obs"].clone(), "robot_state": batch["robot_state"].clone()}
    for sample, slots in ((0, slice(0, 11)), (1, slice(6, 8))):
        other["vis_obs"][sample, slots] = 0
        other["robot_state"][sample, slots] = 1e6
    ours, theirs = model(batch), model(other)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_one_camera_without_its_axis_is_the_first_camera_with_the_others_missing():
    model = tiny_sigma()
    batch = batch_of(model, 1)
    mask = torch.tensor([True, False]).expand(1, 16, 2)
    one = model({**batch, "vis_obs": batch["vis_obs"][:, :, 0]})
    two = model({**batch, "camera_mask": mask})
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


def test_the_present_state_matters_for_the_correction():
    model = tiny_sigma()
    batch = batch_of(model, 1)
    other = {**batch, "robot_state": batch["robot_state"].clone()}
    other["robot_state"][:, -1] += 0.2
    assert not torch.equal(model(batch)["telepathy_residual"], model(other)["telepathy_residual"])


def test_a_memory_that_is_not_finite_is_never_kept():
    model = tiny_sigma()
    recording = sights(model, 18)
    _, state = run(model, initial_state(model, epoch=0, task=TASK), recording, range(3))
    with torch.no_grad():
        model.telepathy.memory.candidate.bias[0] = float("nan")
    proposal, after = plan(model, state, noise=noise_at(model, 2), commit=True)
    assert not proposal.committed
    assert after is state
    ratios = model.ratios(proposal.action.telepathy_output, proposal.action.residual)
    assert not all(bool(torch.isfinite(ratio)) for ratio in ratios)
    _, kept, after = remember(model, state)
    assert not kept, "a commit without a chunk has the same guard"
    assert after is state


def test_an_empty_slot_has_no_tick():
    model = tiny_sigma()
    state = initial_state(model, epoch=0, task=TASK)
    assert set(state.ring.ticks) == {PADDING}
    assert not state.ring.valid.any()


def test_settings_of_another_base_are_refused():
    backbone = tiny_backbone()
    with pytest.raises(Exception, match=r"do not fit the base policy.*width"):
        SigmaTelepathyVLA(backbone, SigmaConfig.small(width=backbone.width + 8))


def test_seed_fixes_the_start_of_the_heads():
    backbone = tiny_backbone()
    one, two, other = (SigmaTelepathyVLA(backbone, tiny_config(backbone), seed=seed) for seed in (1, 1, 2))
    stir(one, seed=3, std=0.0)
    for name, parameter in one.trained().items():
        assert torch.equal(parameter, two.trained()[name])
    assert not torch.equal(one.telepathy.readouts, other.telepathy.readouts)
