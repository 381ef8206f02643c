# SPDX-License-Identifier: Apache-2.0
"""The laws of the base path: equal to LeRobot's policy bit for bit, and nothing masked matters."""

from typing import Any

import numpy as np
import pytest
import torch
from lerobot.policies.common.vla_utils import make_att_2d_masks, prepare_attention_masks_4d
from lerobot.policies.pi05 import processor_pi05
from lerobot.processor import tokenizer_processor
from tiny_base import (
    TASK,
    batch_noise,
    encode_batch,
    policy_batch,
    random_images,
    random_states,
    tiny_backbone,
)

from sigma_ros.contract import Contract
from sigma_ros.errors import SigmaError
from sigma_ros.model.lora import LanguageReader
from sigma_ros.model.pi05.backbone import Backbone
from sigma_ros.model.pi05.mini import limit_normalisation


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return tiny_backbone(request.param)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("missing", [(), (0,), (1,)])
def test_base_chunk_equals_predict_action_chunk_bit_for_bit(
    backbone: Backbone, batch: int, missing: tuple[int, ...]
) -> None:
    images, noise = random_images(backbone, batch), batch_noise(backbone, batch)
    tokens, mask = backbone.tokenize(TASK, random_states(batch))
    image_tokens, seen = encode_batch(backbone, images, missing)
    ours = backbone.base_chunk(image_tokens, seen, tokens, mask, noise)
    theirs = backbone.policy.predict_action_chunk(policy_batch(backbone, images, tokens, mask, missing), noise=noise)
    assert ours.shape == (batch, backbone.horizon, backbone.max_dof)
    assert torch.equal(ours[:, :, : theirs.shape[2]], theirs)
    assert float(theirs.std()) > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_real_time_chunking_is_guided_bit_for_bit_as_in_the_policy(dtype: str) -> None:
    backbone = tiny_backbone(dtype, rtc=True)
    images, noise = random_images(backbone, 1), batch_noise(backbone, 1)
    tokens, mask = backbone.tokenize(TASK, random_states(1))
    image_tokens, seen = encode_batch(backbone, images)
    left_over = torch.linspace(-1, 1, 30 * 6).reshape(1, 30, 6)
    guide: dict[str, Any] = {"prev_chunk_left_over": left_over, "inference_delay": 4, "execution_horizon": 12}
    free = backbone.base_chunk(image_tokens, seen, tokens, mask, noise)
    guided = backbone.base_chunk(image_tokens, seen, tokens, mask, noise, **guide)
    batch = policy_batch(backbone, images, tokens, mask)
    assert torch.equal(free[:, :, :6], backbone.policy.predict_action_chunk(batch, noise=noise))
    assert torch.equal(guided[:, :, :6], backbone.policy.predict_action_chunk(batch, noise=noise, **guide))
    before, after = (abs(chunk[:, :4, :6] - left_over[:, :4]).mean() for chunk in (free, guided))
    assert after < before


def test_image_tokens_are_those_of_the_policy_for_either_axis_order(backbone: Backbone) -> None:
    images = random_images(backbone, 1)[0]
    batch = {key: images[i : i + 1].to(torch.float32) / 255.0 for i, key in enumerate(backbone.camera_keys)}
    pixels, _ = backbone.policy._preprocess_images(batch)
    expected = torch.cat([backbone.policy.model.paligemma_with_expert.embed_image(p) for p in pixels])
    assert torch.equal(backbone.encode_images(images), expected)
    assert torch.equal(backbone.encode_images(images.permute(0, 2, 3, 1)), expected)
    assert expected.shape == (2, backbone.patch_grid**2, backbone.width)


def test_images_of_another_size_are_letterboxed_as_the_policy_does(tiny_fp32: Backbone) -> None:
    images = random_images(tiny_fp32, 1, size=(60, 80))[0]
    batch = {key: images[i : i + 1].to(torch.float32) / 255.0 for i, key in enumerate(tiny_fp32.camera_keys)}
    pixels, _ = tiny_fp32.policy._preprocess_images(batch)
    expected = torch.cat([tiny_fp32.policy.model.paligemma_with_expert.embed_image(p) for p in pixels])
    assert torch.allclose(tiny_fp32.encode_images(images), expected, atol=1e-6)


def test_cached_prefix_gives_the_velocity_of_the_joint_forward_pass(tiny_fp32: Backbone) -> None:
    """The training path of LeRobot runs prefix and suffix together; reuse of the cache must equal it."""
    core, noise = tiny_fp32.policy.model, batch_noise(tiny_fp32, 2)
    images = random_images(tiny_fp32, 2)
    tokens, mask = tiny_fp32.tokenize(TASK, random_states(2))
    image_tokens, seen = encode_batch(tiny_fp32, images, missing=(1,))
    prefix = tiny_fp32.prefix(image_tokens, seen, tokens, mask)
    time = torch.tensor([0.7, 0.3])
    cached = core.denoise_step(prefix.mask, prefix.cache, noise, time)

    embeds = torch.cat([image_tokens.flatten(1, 2), tiny_fp32.embed_text(tokens)], dim=1)
    suffix, suffix_pad, suffix_att, condition = core.embed_suffix(noise, time)
    pad = torch.cat([prefix.mask, suffix_pad], dim=1)
    blocks = torch.cat([torch.zeros_like(prefix.mask), suffix_att.to(torch.bool)], dim=1)
    (_, hidden), _ = core.paligemma_with_expert.forward(
        attention_mask=prepare_attention_masks_4d(make_att_2d_masks(pad, blocks)),
        position_ids=torch.cumsum(pad, dim=1) - 1,
        inputs_embeds=[embeds, suffix],
        use_cache=False,
        adarms_cond=[None, condition],
    )
    assert torch.allclose(cached, core.action_out_proj(hidden.to(torch.float32)), atol=1e-5)


def test_the_prefix_is_not_changed_by_the_flow(tiny_fp32: Backbone) -> None:
    image_tokens, seen = encode_batch(tiny_fp32, random_images(tiny_fp32, 1))
    tokens, mask = tiny_fp32.tokenize(TASK, random_states(1))
    prefix, noise = tiny_fp32.prefix(image_tokens, seen, tokens, mask), batch_noise(tiny_fp32, 1)
    assert torch.equal(tiny_fp32.flow(prefix, noise), tiny_fp32.flow(prefix, noise))


@pytest.mark.parametrize("way", ["in place", "new data", "load_state_dict"])
def test_weights_changed_between_chunks_count_at_once(way: str) -> None:
    """The flow keeps what depends on time and weights alone; it must notice other weights."""
    backbone, other = tiny_backbone(), tiny_backbone()
    for parameter in other.policy.parameters():
        parameter.mul_(1.1)
    images, noise = random_images(backbone, 1), batch_noise(backbone, 1)
    tokens, mask = backbone.tokenize(TASK, random_states(1))
    image_tokens, seen = encode_batch(backbone, images)
    before = backbone.base_chunk(image_tokens, seen, tokens, mask, noise)
    if way == "load_state_dict":
        backbone.policy.load_state_dict(other.policy.state_dict())
    else:
        for ours, theirs in zip(backbone.policy.parameters(), other.policy.parameters(), strict=True):
            if way == "in place":
                ours.copy_(theirs)
            else:
                ours.data = theirs.data.clone()
    image_tokens, _ = encode_batch(backbone, images)
    after = backbone.base_chunk(image_tokens, seen, tokens, mask, noise)
    assert not torch.equal(before, after)
    expected = backbone.policy.predict_action_chunk(policy_batch(backbone, images, tokens, mask), noise=noise)
    assert torch.equal(after[:, :, :6], expected)


def test_the_number_of_samples_may_change_between_chunks(tiny_fp32: Backbone) -> None:
    for batch in (2, 1, 2):
        images, noise = random_images(tiny_fp32, batch), batch_noise(tiny_fp32, batch)
        tokens, mask = tiny_fp32.tokenize(TASK, random_states(batch))
        image_tokens, seen = encode_batch(tiny_fp32, images)
        theirs = tiny_fp32.policy.predict_action_chunk(policy_batch(tiny_fp32, images, tokens, mask), noise=noise)
        assert torch.equal(tiny_fp32.base_chunk(image_tokens, seen, tokens, mask, noise)[:, :, :6], theirs)


def test_the_prefix_lets_gradients_through_as_lerobots_does(tiny_fp32: Backbone) -> None:
    image_tokens, seen = encode_batch(tiny_fp32, random_images(tiny_fp32, 1))
    tokens, mask = tiny_fp32.tokenize(TASK, random_states(1))
    image_tokens.requires_grad_()
    prefix = tiny_fp32.prefix(image_tokens, seen, tokens, mask)
    time = torch.tensor([0.5])
    tiny_fp32.policy.model.denoise_step(prefix.mask, prefix.cache, batch_noise(tiny_fp32, 1), time).sum().backward()
    assert image_tokens.grad is not None
    assert bool((image_tokens.grad != 0).any(dim=-1).all())


def test_pixels_of_a_masked_camera_do_not_matter(backbone: Backbone) -> None:
    image_tokens, seen = encode_batch(backbone, random_images(backbone, 1), missing=(0,))
    tokens, mask = backbone.tokenize(TASK, random_states(1))
    other = image_tokens.clone()
    other[:, 0] = torch.randn_like(other[:, 0]) * 30.0
    noise = batch_noise(backbone, 1)
    assert torch.equal(
        backbone.base_chunk(image_tokens, seen, tokens, mask, noise),
        backbone.base_chunk(other, seen, tokens, mask, noise),
    )


def test_padding_tokens_do_not_matter(backbone: Backbone) -> None:
    image_tokens, seen = encode_batch(backbone, random_images(backbone, 1))
    tokens, mask = backbone.tokenize(TASK, random_states(1))
    noise = batch_noise(backbone, 1)
    other = torch.where(mask, tokens, 9)
    assert not torch.equal(tokens, other)
    assert torch.equal(
        backbone.base_chunk(image_tokens, seen, tokens, mask, noise),
        backbone.base_chunk(image_tokens, seen, other, mask, noise),
    )


def test_a_batch_equals_its_samples(tiny_fp32: Backbone) -> None:
    images, states, noise = random_images(tiny_fp32, 3), random_states(3), batch_noise(tiny_fp32, 3)
    image_tokens, seen = encode_batch(tiny_fp32, images)
    tokens, mask = tiny_fp32.tokenize(TASK, states)
    together = tiny_fp32.base_chunk(image_tokens, seen, tokens, mask, noise)
    for i in range(3):
        alone = tiny_fp32.base_chunk(
            image_tokens[i : i + 1], seen[i : i + 1], tokens[i : i + 1], mask[i : i + 1], noise[i : i + 1]
        )
        assert torch.allclose(together[i : i + 1], alone, atol=1e-5)


def test_language_model_lets_gradients_through_to_inputs_only(tiny_fp32: Backbone) -> None:
    embeds = torch.randn(2, 9, tiny_fp32.width, requires_grad=True)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 5:] = False
    LanguageReader(tiny_fp32.language_layers, None)(embeds, mask, read=9)[:, :5].square().sum().backward()
    assert embeds.grad is not None
    assert bool((embeds.grad[0] != 0).any(dim=1).all())
    assert bool((embeds.grad[1, 5:] == 0).all())
    assert all(parameter.grad is None for parameter in tiny_fp32.parameters())
    assert not any(parameter.requires_grad for parameter in tiny_fp32.parameters())


def test_language_model_sees_valid_entries_wherever_padding_stands(tiny_fp32: Backbone) -> None:
    embeds = torch.randn(1, 4, tiny_fp32.width)
    reader = LanguageReader(tiny_fp32.language_layers, None)
    alone = reader(embeds, torch.ones(1, 4, dtype=torch.bool), read=4)
    padded = torch.cat([torch.randn(1, 2, tiny_fp32.width), embeds, torch.randn(1, 3, tiny_fp32.width)], dim=1)
    mask = torch.tensor([[False] * 2 + [True] * 4 + [False] * 3])
    assert torch.allclose(reader(padded, mask, read=9)[:, 2:6], alone, atol=1e-5)


def test_prompt_equals_lerobots_processor_chain_on_the_same_state(
    tiny_fp32: Backbone, so101: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        tokenizer_processor,
        "AutoTokenizer",
        type("Local", (), {"from_pretrained": staticmethod(lambda _: tiny_fp32.tokenizer)}),
    )
    statistics = limit_normalisation(so101)
    stats = {
        key: {name: torch.tensor(values, dtype=torch.float32) for name, values in quantiles.as_dict().items()}
        for key, quantiles in (("observation.state", statistics.state), ("action", statistics.action))
    }
    chain, _ = processor_pi05.make_pi05_pre_post_processors(tiny_fp32.policy.config, stats)
    generator = np.random.default_rng(0)
    for task in (TASK, "  two_words\nand a line ", ""):
        for _ in range(20):
            policy_units = generator.uniform(-130.0, 130.0, 6).astype(np.float32)
            done = chain({"observation.state": torch.from_numpy(policy_units), "task": task})
            tokens, mask = tiny_fp32.tokenize(task, statistics.state.normalise(policy_units))
            assert torch.equal(tokens, done["observation.language.tokens"])
            assert torch.equal(mask, done["observation.language.attention_mask"])


def test_a_prompt_that_would_lose_its_state_is_refused(tiny_fp32: Backbone) -> None:
    with pytest.raises(SigmaError, match="too long for the model; expected: at most 64 tokens with the state"):
        tiny_fp32.tokenize("stack the block " * 30, random_states(1))


def test_the_backbone_says_what_it_is(tiny_fp32: Backbone, tiny_bf16: Backbone) -> None:
    assert tiny_fp32.camera_keys == ("observation.images.up", "observation.images.side")
    assert (tiny_fp32.patch_grid, tiny_fp32.image_size_px, tiny_fp32.horizon, tiny_fp32.width) == (8, 112, 50, 64)
    assert (tiny_fp32.dtype, tiny_bf16.dtype) == (torch.float32, torch.bfloat16)
    assert tiny_fp32.device.type == "cpu"
