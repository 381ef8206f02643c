# SPDX-License-Identifier: Apache-2.0
"""Sizes of a pi0.5, and LeRobot's own classes built with them.

LeRobot hard-codes the widths of SigLIP, PaliGemma and the action expert inside the constructors. While
`network_sizes` is open those constructors read ours instead; the network's code is LeRobot's, untouched.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from lerobot.policies.pi05 import modeling_pi05

from sigma_ros.errors import CheckpointError

_HEADS = 8  # LeRobot's joint attention reshapes to 8 heads
_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Every width of the network; the defaults are pi0.5's own.

    Language model and action expert have `depth` layers, 8 query heads of `head_dim` and one key-value head.
    """

    vocabulary: int = 257_152
    depth: int = 18
    head_dim: int = 256
    language_width: int = 2048
    language_mlp: int = 16_384
    expert_width: int = 1024
    expert_mlp: int = 4096
    vision_width: int = 1152
    vision_mlp: int = 4304
    vision_depth: int = 27
    vision_heads: int = 16
    patch_px: int = 14

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1 << 20:
                raise CheckpointError(
                    f"the network size {field.name} cannot be right", expected="an integer in 1..2**20", got=repr(value)
                )
        if self.head_dim % 2 or self.expert_width % 2 or self.vision_width % self.vision_heads:
            raise CheckpointError(
                "the network sizes do not fit together",
                expected="even head_dim and expert_width, vision_width divisible by vision_heads",
                got=asdict(self),
            )

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """Reads what `asdict` gave; unknown or missing names are refused."""
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            got = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise CheckpointError("the network sizes cannot be read", expected=sorted(names), got=got)
        return cls(**values)


FULL = Sizes()


@contextmanager
def network_sizes(sizes: Sizes) -> Iterator[None]:
    """While open, LeRobot's pi0.5 constructors build a network of these sizes; restored on exit."""
    names = (
        "get_gemma_config",
        "PaliGemmaForConditionalGenerationWithPiGemma",
        "PiGemmaForCausalLM",
    )
    with _LOCK:
        original = {name: getattr(modeling_pi05, name) for name in names}
        replaced = {
            "get_gemma_config": _gemma_config(sizes),
            "PaliGemmaForConditionalGenerationWithPiGemma": _paligemma(original[names[1]], sizes),
            "PiGemmaForCausalLM": _expert(original[names[2]], sizes),
        }
        try:
            for name in names:
                setattr(modeling_pi05, name, replaced[name])
            yield
        finally:
            for name in names:
                setattr(modeling_pi05, name, original[name])


def _gemma_config(sizes: Sizes) -> Callable[[str], object]:
    def config(variant: str) -> object:
        language = variant == "gemma_2b"
        return modeling_pi05.GemmaConfig(
            width=sizes.language_width if language else sizes.expert_width,
            depth=sizes.depth,
            mlp_dim=sizes.language_mlp if language else sizes.expert_mlp,
            num_heads=_HEADS,
            num_kv_heads=1,
            head_dim=sizes.head_dim,
        )

    return config


def _paligemma(build: Callable[..., Any], sizes: Sizes) -> Callable[..., Any]:
    def resized(config: Any) -> Any:
        config._vocab_size = config.image_token_index = config.text_config.vocab_size = sizes.vocabulary  # noqa: SLF001
        vision = config.vision_config
        vision.hidden_size = sizes.vision_width
        vision.intermediate_size = sizes.vision_mlp
        vision.num_hidden_layers = sizes.vision_depth
        vision.num_attention_heads = sizes.vision_heads
        vision.patch_size = sizes.patch_px
        vision.projection_dim = sizes.language_width
        return build(config)

    return resized


def _expert(build: Callable[..., Any], sizes: Sizes) -> Callable[..., Any]:
    def resized(config: Any) -> Any:
        config.vocab_size = sizes.vocabulary
        return build(config)

    return resized
