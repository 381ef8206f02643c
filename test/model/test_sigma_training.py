# SPDX-License-Identifier: Apache-2.0
"""What training may and may not touch, and what the switches switch."""

from dataclasses import fields, replace

import pytest
import torch
from lerobot.policies.common.vla_utils import make_att_2d_masks, prepare_attention_masks_4d
from tiny_sigma import TASK, batch_of, noise_at, run, sights, stir, tiny_backbone, tiny_sigma

from sigma_ros.model.lora import adapter_shapes, matching_rank
from sigma_ros.model.step import initial_state, telepathy_input_of
from sigma_ros.model.telepathy import Recurrence, TelepathyInput, TelepathyOutput
from training.options import TrainOptions


def losses(model, windows=2):
    """A loss that uses every trained part, over windows with memory between them; image tokens as from a cache."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    recurrence, total = Recurrence.start(config, batch=2), torch.zeros(())
    text, text_mask = model.read_text([TASK, "go home"])
    for _ in range(windows):
        pooled = torch.randn(2, 16, config.cameras, config.pooled_grid**2, config.width, generator=generator)
        telepathy_input = TelepathyInput(
            pooled=pooled,
            seen=torch.ones(2, 16, config.cameras, dtype=torch.bool),
            states=torch.rand(2, 16, config.dof, generator=generator) * 2 - 1,
            valid=torch.ones(2, 16, dtype=torch.bool),
            text=text,
            text_mask=text_mask,
        )
        telepathy_output = model.believe(telepathy_input, recurrence)
        residual = model.correct(
            telepathy_output, telepathy_input.states[:, -1], torch.rand(2, 50, config.dof, generator=generator)
        )
        recurrence = telepathy_output.recurrence
        total = (
            total
            + (residual.composite - 0.1).square().mean()
            - telepathy_output.sem_align.mean()
            - telepathy_output.alignment.mean()
        )
    return total


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.backbone.policy.state_dict().items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gradient_reaches_every_trained_tensor_and_no_frozen_one(dtype):
    model = tiny_sigma(dtype).train()
    losses(model).backward()
    for name, parameter in model.trained().items():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    trained = {id(parameter) for parameter in model.trained().values()}
    for name, parameter in model.named_parameters():
        if id(parameter) not in trained:
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name


def test_at_the_start_only_what_zero_outputs_hide_has_no_gradient_yet():
    model = tiny_sigma(stirred=False).train()
    losses(model).backward()
    without = {name for name, p in model.trained().items() if p.grad is None or p.grad.abs().max() == 0}
    hidden = ("lora_A", "tau_log_scale", ".branches.")
    assert all(any(part in name for part in hidden) for name in without), sorted(without)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_steps_leave_the_base_untouched(dtype):
    model = tiny_sigma(dtype, stirred=False).train()
    before, trained = snapshot(model), {name: p.detach().clone() for name, p in model.trained().items()}
    optimiser = torch.optim.AdamW(model.trained().values(), lr=1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        losses(model).backward()
        optimiser.step()
    after = snapshot(model)
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(not torch.equal(trained[name], parameter) for name, parameter in model.trained().items())


def test_training_lowers_the_loss():
    model = tiny_sigma(stirred=False).train()
    rate = next(field.default for field in fields(TrainOptions) if field.name == "learning_rate")
    optimiser = torch.optim.AdamW(model.trained().values(), lr=rate)
    values = []
    for _ in range(6):
        optimiser.zero_grad()
        loss = losses(model)
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert values == sorted(values, reverse=True)


def test_dropout_acts_in_training_only_and_never_in_the_base():
    model = tiny_sigma(lora_dropout=0.5)
    batch = batch_of(model, 1)
    calm = model(batch)
    model.train()
    one, two = model(batch), model(batch)
    assert torch.equal(one["base_actions"], calm["base_actions"])
    assert not torch.equal(one["intent"], two["intent"])
    model.eval()
    assert torch.equal(model(batch)["intent"], calm["intent"])


def policys_language_model(backbone, embeds, mask):
    """The language model on a bidirectional sequence, as the policy runs its prefix."""
    joint = backbone.policy.model.paligemma_with_expert
    joint.paligemma.model.language_model.config._attn_implementation = "eager"
    (hidden, _), _ = joint.forward(
        attention_mask=prepare_attention_masks_4d(make_att_2d_masks(mask, torch.zeros_like(mask))),
        position_ids=torch.cumsum(mask, dim=1) - 1,
        past_key_values=None,
        inputs_embeds=[embeds, None],
        use_cache=False,
    )
    return hidden


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.03)])
@pytest.mark.parametrize("read", [1, 4, 12])
def test_what_is_read_is_what_the_policys_own_language_model_puts_out(dtype, tolerance, read):
    model = tiny_sigma(dtype)
    backbone = model.backbone
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(2, 12, backbone.width, generator=generator).to(backbone.dtype)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, 3:7] = False
    ours = model.plain_reader(embeds, mask, read=read)
    theirs = policys_language_model(backbone, embeds, mask)[:, -read:].to(torch.float32)
    valid = mask[:, -read:]
    torch.testing.assert_close(ours[valid], theirs[valid], rtol=tolerance, atol=tolerance)


def test_adapters_share_the_bases_weights():
    model = tiny_sigma()
    own = {parameter.data_ptr() for parameter in model.backbone.policy.parameters()}
    extra = [p for p in model.reader.parameters() if p.data_ptr() not in own]
    assert {id(p) for p in extra} == {id(p) for p in model.adapters().values()}
    assert all(p.data_ptr() in own for p in model.plain_reader.parameters())


def test_adapters_change_the_belief_and_not_the_base():
    model = tiny_sigma()
    batch = batch_of(model, 1)
    before = model(batch)
    with torch.no_grad():
        for parameter in model.adapters().values():
            parameter.mul_(3.0)
    after = model(batch)
    assert torch.equal(before["base_actions"], after["base_actions"])
    assert not torch.allclose(before["intent"], after["intent"], atol=1e-4)


def test_without_telepathy_the_adapters_are_off_and_the_residual_is_zero():
    model = tiny_sigma()
    batch = batch_of(model, 1)
    baseline = model(batch, use_telepathy=False)
    assert not baseline["telepathy_residual"].any()
    with torch.no_grad():
        for parameter in model.adapters().values():
            parameter.zero_()
    torch.testing.assert_close(model(batch)["intent"], baseline["intent"])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_merged_adapters_give_the_same_belief_within_rounding(dtype, tolerance):
    model = tiny_sigma(dtype)
    batch = batch_of(model, 2)
    before, base = model(batch), snapshot(model)
    paid = model.merge_for_serving()
    assert paid == sum(
        shape[0] * other[1] * model.backbone.dtype.itemsize
        for shape, other in pairs(adapter_shapes(model.backbone.language_layers, rank=1))
    )
    after = model(batch)
    assert torch.equal(before["base_actions"], after["base_actions"])
    assert all(torch.equal(tensor, base[name]) for name, tensor in snapshot(model).items())
    for name in ("semantic_memory", "intent", "telepathy_residual"):
        torch.testing.assert_close(before[name], after[name], rtol=tolerance, atol=tolerance)


def pairs(shapes):
    return [(shapes[n.replace("lora_A", "lora_B")], shape) for n, shape in shapes.items() if "lora_A" in n]


def test_without_memory_the_past_does_not_count_beyond_the_factors():
    model = tiny_sigma(use_memory=False, use_film=False)
    recording = sights(model, 24)
    _, state = run(model, initial_state(model, epoch=0, task=TASK), recording, range(20))
    telepathy_input = telepathy_input_of(model, state)
    empty = Recurrence.start(model.config, batch=1, device="cpu")
    assert torch.equal(
        model.believe(telepathy_input, state.recurrence).memory, model.believe(telepathy_input, empty).memory
    )


def test_with_memory_and_film_the_past_counts():
    model = tiny_sigma()
    _, state = run(model, initial_state(model, epoch=0, task=TASK), sights(model, 24), range(20))
    telepathy_input, empty = telepathy_input_of(model, state), Recurrence.start(model.config, batch=1, device="cpu")
    without_memory = replace(state.recurrence, memory=empty.memory)
    without_factors = replace(state.recurrence, factors=empty.factors)
    ours = model.believe(telepathy_input, state.recurrence).intent
    assert not torch.equal(ours, model.believe(telepathy_input, without_memory).intent)
    assert not torch.equal(ours, model.believe(telepathy_input, without_factors).intent)


@pytest.mark.parametrize(
    "switch", ["use_memory", "use_glance", "use_film", "use_lora", "use_vector", "use_chunk", "use_trajectory"]
)
def test_every_switch_leaves_a_model_whose_every_trained_tensor_learns(switch):
    model = tiny_sigma(**{switch: False}).train()
    losses(model).backward()
    names = [n for n, p in model.trained().items() if p.grad is None or p.grad.abs().max() == 0]
    assert not names
    smaller = switch not in {"use_memory"}
    assert (len(model.trained()) < len(tiny_sigma().trained())) == smaller


def test_the_residual_sees_the_newest_pictures_past_the_language_model_and_none_that_was_not_seen():
    model = tiny_sigma()
    telepathy_input = telepathy_input_of(
        model, run(model, initial_state(model, epoch=0, task=TASK), sights(model, 24), range(20))[1]
    )
    empty = Recurrence.start(model.config, batch=1, device="cpu")
    other = telepathy_input.pooled.clone()
    other[:, -1, 0] += 1.0
    glance = model.believe(telepathy_input, empty).glance
    changed = model.believe(replace(telepathy_input, pooled=other), empty).glance
    half = model.config.glance_size // 2
    assert (glance[:, :half] != changed[:, :half]).any()
    assert torch.equal(glance[:, half:], changed[:, half:])
    seen = telepathy_input.seen.clone()
    seen[:, -1, 0] = False
    wild = torch.where(seen[..., None, None], telepathy_input.pooled, torch.nan)
    hidden = model.believe(replace(telepathy_input, pooled=wild, seen=seen), empty).glance
    assert not hidden[:, :half].any()
    assert torch.equal(hidden[:, half:], glance[:, half:])


def test_a_glance_begins_with_what_differs_from_the_usual_picture():
    glance = tiny_sigma().telepathy.glance
    generator = torch.Generator().manual_seed(0)
    pooled = 5.0 + torch.randn(40, *glance.usual.shape, generator=generator) * torch.linspace(
        0.5, 2.0, glance.usual.shape[2]
    )
    seen = torch.ones(40, glance.usual.shape[0], dtype=torch.bool)
    seen[::3, 1] = False
    given = torch.where(seen[:, :, None, None], pooled, torch.nan)
    glance.start_from((given[i : i + 7], seen[i : i + 7]) for i in range(0, 40, 7))
    apart = ((pooled - glance.usual) / glance.spread)[seen]
    torch.testing.assert_close(apart.mean(dim=0), torch.zeros_like(apart[0]), atol=0.2, rtol=0.0)
    torch.testing.assert_close(apart.square().mean(dim=(0, 1)).sqrt(), torch.ones(apart.shape[2]), atol=0.05, rtol=0.0)
    whole = tiny_sigma().telepathy.glance
    whole.start_from([(given, seen)])
    torch.testing.assert_close(whole.usual, glance.usual)
    torch.testing.assert_close(whole.spread, glance.spread)


def test_each_branch_acts_on_its_own_steps():
    steps = {"use_vector": 1, "use_chunk": 8, "use_trajectory": 50, "use_late": 50}
    for kept, count in steps.items():
        model = tiny_sigma(**{name: name == kept for name in steps})
        state, base = batch_of(model, 1)["robot_state"][:, -1], torch.zeros(1, 50, 6)
        residual = model.correct(TelepathyOutput.blank(model.config, batch=1), state, base).composite[0]
        assert residual[:count].abs().min() > 0
        assert not residual[count:].any()


def test_joints_that_must_not_be_corrected_keep_the_bases_actions():
    model = tiny_sigma(corrected_joints=(True, False, True, True, True, False))
    residual = model(batch_of(model, 2))["telepathy_residual"]
    assert not residual[..., [1, 5]].any()
    assert residual[:, :16, [0, 2, 3, 4]].abs().min() > 0


class TestPlainLora:
    """The comparison arm: adapters in the base's prefix, nothing else."""

    def test_it_starts_as_the_base(self):
        model = tiny_sigma(plain_lora=True, stirred=False)
        assert not model(batch_of(model, 1))["telepathy_residual"].any()

    def test_its_base_stays_the_base_and_its_residual_is_what_the_adapters_change(self):
        model = tiny_sigma(plain_lora=True, stirred=False)
        batch = batch_of(model, 1)
        before = model(batch)["base_actions"]
        stir(model)
        after = model(batch)
        assert torch.equal(before, after["base_actions"])
        assert after["telepathy_residual"].abs().max() > 1e-3

    def test_it_trains_as_many_parameters_as_sigma(self):
        counts = [
            sum(p.numel() for p in tiny_sigma(plain_lora=plain, stirred=False).trained().values())
            for plain in (False, True)
        ]
        assert counts[1] == pytest.approx(counts[0], rel=0.01)

    def test_its_rank_is_chosen_by_the_parameters_of_sigma(self):
        backbone = tiny_backbone()
        config = tiny_sigma(stirred=False).config
        rank = matching_rank(config, backbone.language_layers)
        assert matching_rank(replace(config, residual_hidden=64), backbone.language_layers) > rank

    def test_the_flow_loss_reaches_every_adapter_and_no_base_weight(self):
        model = tiny_sigma(plain_lora=True).train()
        plain, backbone = model.plain, model.backbone
        recording = sights(model, 1)
        patches = model.encode(recording[0]).patches[None]
        tokens, mask = backbone.tokenize(TASK, recording[0].state[None].numpy())
        loss = plain.adapted.flow_loss(
            plain.adapted.prefix(patches, torch.ones(1, 2, dtype=torch.bool), tokens, mask),
            actions=torch.zeros(1, backbone.horizon, backbone.max_dof),
            noise=noise_at(model, 0)[:, None],
            time=torch.tensor([[0.5]]),
        )
        loss.mean().backward()
        for name, parameter in model.trained().items():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        assert all(p.grad is None for p in backbone.policy.parameters())

    def test_its_scale_depends_on_the_residual_alone(self):
        model = tiny_sigma(plain_lora=True)
        plans, _ = run(model, initial_state(model, epoch=0, task=TASK), sights(model, 1), range(1))
        ratios = model.ratios(plans[0].action.telepathy_output, plans[0].action.residual)
        assert float(ratios[0]) > 0
        assert [float(ratio) for ratio in ratios[1:]] == [1.0, 1.0]
