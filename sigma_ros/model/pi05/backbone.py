# SPDX-License-Identifier: Apache-2.0
"""A frozen pi0.5 opened at its seams: image tokens, language model, prefix cache and flow steps.

Every seam calls the policy's own modules, so `base_chunk` equals `PI05Policy.predict_action_chunk` on
the same inputs and noise bit for bit, while the telepathy path shares image tokens and language model.

Axis words: `batch`, `cameras` in the order of `camera_keys`, `patches` tokens of an image, `tokens` of a
text, `seq` any token sequence, `width` of the language model, `horizon`, `max_dof` (padded action size).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypedDict, Unpack, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.common.vla_utils import prepare_attention_masks_4d, resize_with_pad_torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from numpy import ndarray
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedTokenizerBase

from sigma_ros.errors import SigmaError
from sigma_ros.model.pi05.flow import FlowSteps, fill_cache
from sigma_ros.model.pi05.processors import PictureScaling

# The base policy's prompt: the task and the normalised state written as integers.
#
# Source: LeRobot's `Pi05PrepareStateTokenizerProcessorStep` (openpi's `PaligemmaTokenizer`).


STATE_BINS = 256
_EDGES = np.linspace(-1.0, 1.0, STATE_BINS + 1)[:-1]


def state_bins(state_normalised: Float[ndarray, " dof"]) -> Int[ndarray, " dof"]:
    """Bin of each normalised value: 0..255 inside [-1, 1], -1 below; above 1 stays 255."""
    return np.digitize(state_normalised, bins=_EDGES) - 1


def clean_task(task: str) -> str:
    """The task as the prompt carries it: stripped, underscores and line ends as blanks."""
    return task.strip().replace("_", " ").replace("\n", " ")


def base_prompt(task: str, state_normalised: Float[ndarray, " dof"]) -> str:
    """`Task: <task>, State: <integers>;` and `Action: ` on a new line."""
    state = " ".join(str(number) for number in state_bins(state_normalised))
    return f"Task: {clean_task(task)}, State: {state};\nAction: "


class RealTimeChunking(TypedDict, total=False):
    """Guidance by the unexecuted part of the previous chunk; as `PI05Policy.predict_action_chunk` takes it."""

    inference_delay: int | None
    prev_chunk_left_over: Tensor | None
    execution_horizon: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """What the flow steps read of images and prompt: keys and values of every layer, and their mask."""

    cache: DynamicCache
    mask: Bool[Tensor, "batch seq"]


class Engine(Protocol):
    """Runs a tensor function, faster than by calling it; `problem` says why it cannot. See `engine.engine_named`."""

    name: str
    problem: str

    def run(self, name: str, function: Callable[..., Any], *given: Tensor) -> Any:
        """What `function(*given)` gives."""


class Backbone(nn.Module):
    """The frozen base policy and its tokenizer; an `engine` may run it.

    Args:
        policy: A `PI05Policy`; its parameters are frozen here, its arithmetic is left as it is.
        tokenizer: PaliGemma's tokenizer, or the small model's.
        pictures: How the policy normalises pictures, where it does.
        fitted_from: See `PictureScaling.apply`, by the policy's keys.
    """

    def __init__(
        self,
        policy: PI05Policy,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pictures: PictureScaling | None = None,
        fitted_from: Mapping[str, tuple[int, int]] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.pictures = pictures
        self._fitted_from = dict(fitted_from)
        self.policy = policy.eval().requires_grad_(False)  # noqa: FBT003
        self.tokenizer = tokenizer
        self.flow_steps = FlowSteps(policy.model)
        self.engine: Engine | None = None
        config = policy.config
        paligemma = policy.model.paligemma_with_expert.paligemma
        vision = paligemma.config.vision_config
        self.width: int = paligemma.config.text_config.hidden_size
        self.patch_grid: int = vision.image_size // vision.patch_size
        self.image_size_px: int = config.image_resolution[0]
        self.camera_keys: tuple[str, ...] = tuple(config.image_features)
        self.horizon: int = config.chunk_size
        self.max_dof: int = config.max_action_dim
        self.max_tokens: int = config.tokenizer_max_length

    @property
    def language_layers(self) -> Any:
        """The shared language model (decoder layers, norm and embeddings); LoRA goes in here."""
        return self.policy.model.paligemma_with_expert.paligemma.model.language_model

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the language model's projections (LeRobot keeps vision and norms in float32)."""
        return self.policy.model.paligemma_with_expert.gemma_expert.model.layers[0].mlp.up_proj.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.policy.model.action_in_proj.weight.device

    def encode_images(
        self,
        images: UInt8[Tensor, "images h w 3"] | UInt8[Tensor, "images 3 h w"],
        *,
        per_call: int = 1,
        cameras: Int[Tensor, " images"] | None = None,
    ) -> Float[Tensor, "images patches width"]:
        """SigLIP and projector on RGB images; float32 tokens, as `embed_image` of the policy gives them.

        `per_call` images go through the vision tower together. The policy embeds one camera at a time,
        so `per_call` = its batch size reproduces its bits; larger groups differ by rounding only. `cameras` are their
        places in `camera_keys`, in turn unless given.
        """
        if not len(images):  # a robot without cameras
            return torch.zeros(0, self.patch_grid**2, self.width, device=self.device)
        embed = self.policy.model.paligemma_with_expert.embed_image
        pixels = self.unit_pixels(images, cameras).mul_(2.0).sub_(1.0)
        return torch.cat([self.run("vision", embed, group) for group in pixels.split(per_call)], dim=0)

    def run(self, name: str, function: Callable[..., Any], *given: Tensor) -> Any:
        """What a tensor function gives, by the engine if there is one."""
        return function(*given) if self.engine is None else self.engine.run(name, function, *given)

    def unit_pixels(self, images: Tensor, cameras: Tensor | None = None) -> Float[Tensor, "images 3 h w"]:
        """Pictures in the network's square as the policy's pre-processor leaves them, 0 to 1 unless it scales them."""
        if images.shape[-1] == 3 and images.shape[1] != 3:
            images = images.permute(0, 3, 1, 2)
        unit = torch.empty(images.shape, dtype=torch.float32, device=self.device)
        unit.copy_(images).div_(255.0)  # one pass for device, order and type; the same bits as apart
        size = self.policy.config.image_resolution
        fits = tuple(unit.shape[-2:]) == tuple(size)
        if self.pictures is not None:
            places = torch.arange(len(unit)) % len(self.camera_keys) if cameras is None else cameras
            unit = self.pictures.apply(unit, places, self._fitted_from if fits else {})
        if not fits:
            unit = resize_with_pad_torch(unit.permute(0, 2, 3, 1), *size).permute(0, 3, 1, 2).contiguous()
        return unit

    def tokenize(
        self, task: str, state_normalised: Float[ndarray, "batch dof"]
    ) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
        """The policy's prompt: task and the state in 256 bins, padded to `max_tokens`.

        Raises:
            SigmaError: the prompt is longer than the model was made for (LeRobot would cut off the state).
        """
        return self._encode([base_prompt(task, row) for row in np.atleast_2d(state_normalised)], pad_to=self.max_tokens)

    def tokenize_text(self, texts: list[str]) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
        """The texts alone (no state), padded to the longest of them."""
        return self._encode(texts, pad_to=None)

    def _encode(self, texts: list[str], *, pad_to: int | None) -> tuple[Tensor, Tensor]:
        encoded = self.tokenizer(texts, padding="longest", padding_side="right", return_tensors="pt")
        tokens, mask = encoded["input_ids"], encoded["attention_mask"].to(torch.bool)
        if tokens.shape[1] > self.max_tokens:
            raise SigmaError(
                "the task text is too long for the model",
                expected=f"at most {self.max_tokens} tokens with the state",
                got=f"{tokens.shape[1]} tokens",
                remedy="use a shorter task text",
            )
        if pad_to is not None:
            missing = (0, pad_to - tokens.shape[1])
            tokens = nn.functional.pad(tokens, missing, value=self.tokenizer.pad_token_id)
            mask = nn.functional.pad(mask, missing, value=False)
        return tokens.to(self.device), mask.to(self.device)

    def embed_text(self, tokens: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens width"]:
        """The language model's own (scaled) embeddings, in its number type."""
        return self.policy.model.paligemma_with_expert.embed_language_tokens(tokens)

    def prefix(
        self,
        image_tokens: Float[Tensor, "batch cameras patches width"],
        image_mask: Bool[Tensor, "batch cameras"],
        tokens: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"],
    ) -> Prefix:
        """Runs images and prompt through the language model once; missing cameras are masked.

        Present cameras come first, as in the policy, so a missing one changes no bit of the others.
        """
        batch, cameras, patches, width = image_tokens.shape
        places = torch.arange(cameras, device=image_mask.device)
        order = torch.argsort(places + cameras * (~image_mask), dim=1)
        seen = torch.gather(image_mask, 1, order)
        ordered = torch.gather(image_tokens, 1, order[:, :, None, None].expand(-1, -1, patches, width))
        embeds = torch.cat([ordered.reshape(batch, cameras * patches, width), self.embed_text(tokens)], dim=1)
        pad_mask = torch.cat([seen.repeat_interleave(patches, dim=1), mask], dim=1)
        self.language_layers.config._attn_implementation = "eager"  # noqa: SLF001
        positions = torch.cumsum(pad_mask.long(), dim=1) - 1
        cache = fill_cache(self.language_layers, embeds, _bidirectional(pad_mask), positions)
        return Prefix(cache=cache, mask=pad_mask)

    def flow(
        self,
        prefix: Prefix,
        noise: Float[Tensor, "batch horizon max_dof"],
        **rtc: Unpack[RealTimeChunking],
    ) -> Float[Tensor, "batch horizon max_dof"]:
        """Integrates the action expert from noise to normalised actions over the cached prefix.

        With `prev_chunk_left_over` the policy's own loop runs, which guides every step by a gradient.
        """
        core = self.policy.model
        noise = noise.to(self.device)
        watched = core.rtc_processor is not None and core.rtc_processor.is_debug_enabled()
        if rtc.get("prev_chunk_left_over") is None and not watched:
            return self.flow_steps.integrate(prefix.cache, prefix.mask, noise)
        return euler_integrate(
            lambda actions, time: core.denoise_step(prefix.mask, prefix.cache, actions, time),
            noise,
            core.config.num_inference_steps,
            rtc_processor=core.rtc_processor,
            rtc_enabled=core._rtc_enabled(),  # noqa: SLF001
            **rtc,
        )

    def flow_loss(
        self,
        prefix: Prefix,
        *,
        actions: Float[Tensor, "batch horizon max_dof"],
        noise: Float[Tensor, "batch draws horizon max_dof"],
        time: Float[Tensor, "batch draws"],
    ) -> Float[Tensor, "batch draws horizon max_dof"]:
        """Pi0.5's own training loss per entry, for several draws of noise and time over one prefix; differentiable.

        `time` is in (0, 1], 1 is pure noise. One draw gives what `PI05Policy.forward` gives; further draws cost a
        third of that, because images and prompt are read once.
        """
        draws = time.shape[1]
        cache = DynamicCache()
        for index, (keys, values, _) in enumerate(prefix.cache):
            cache.update(keys.repeat_interleave(draws, dim=0), values.repeat_interleave(draws, dim=0), index)
        clean = actions[:, None].expand_as(noise)
        share = time[..., None, None]
        noisy = (share * noise + (1.0 - share) * clean).flatten(0, 1)
        mask = prefix.mask.repeat_interleave(draws, dim=0)
        velocity = self.policy.model.denoise_step(mask, cache, noisy, time.flatten())
        return (velocity.unflatten(0, time.shape) - (noise - clean)).square()

    @torch.no_grad()
    def base_chunk(
        self,
        image_tokens: Float[Tensor, "batch cameras patches width"],
        image_mask: Bool[Tensor, "batch cameras"],
        tokens: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"],
        noise: Float[Tensor, "batch horizon max_dof"],
        **rtc: Unpack[RealTimeChunking],
    ) -> Float[Tensor, "batch horizon max_dof"]:
        """Normalised actions of the base policy: one prefix pass, then the flow steps."""

        def chunk(patches: Tensor, seen: Tensor, tokens: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
            return self.flow(self.prefix(patches, seen, tokens, mask), noise, **rtc)

        given = (image_tokens, image_mask, tokens, mask, noise.to(self.device))
        return chunk(*given) if rtc else cast("Tensor", self.run("chunk", chunk, *given))


def _bidirectional(mask: Bool[Tensor, "batch seq"]) -> Float[Tensor, "batch 1 seq seq"]:
    """Additive attention mask: every valid entry sees every valid one, as in the policy's prefix."""
    return prepare_attention_masks_4d(mask[:, None, :] & mask[:, :, None])
