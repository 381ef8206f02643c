# SPDX-License-Identifier: Apache-2.0
"""The comparison arm without telepathy: adapters in the base's own prefix, as many trained parameters.

The residual of this arm is what the adapters change: chunk with adapters minus chunk without, from the
same noise. So base, blend, supervisor and scores treat it exactly like Sigma.
"""

from typing import Unpack

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sigma_ros.model.backbone import Backbone, RealTimeChunking
from sigma_ros.model.lora import adapter_shapes, add_lora, peft_config, shared_view
from sigma_ros.model.residual import head_parameters
from sigma_ros.model.settings import LORA_PROJECTIONS, SigmaConfig


def plain_lora_layers(depth: int) -> list[str]:
    """Projections that can matter to the action expert, which reads keys and values of the prefix only.

    The last layer's queries and output come after its keys and values, so they are left out.
    """
    every = [f"layers.{layer}.self_attn.{name}" for layer in range(depth) for name in LORA_PROJECTIONS]
    return [
        name for name in every if not name.startswith(f"layers.{depth - 1}.") or name.endswith(("k_proj", "v_proj"))
    ]


def matching_rank(config: SigmaConfig, language_model: nn.Module) -> int:
    """Rank at which this arm trains as many parameters as Sigma with the same settings (to half a rank)."""
    trained = head_parameters(config)
    sizes = {name: shape[0] * shape[1] for name, shape in adapter_shapes(language_model, rank=1).items()}
    trained += config.lora_rank * sum(sizes.values())
    chosen = tuple(f"{name}." for name in plain_lora_layers(_depth(language_model)))
    return max(1, round(trained / sum(size for name, size in sizes.items() if name.startswith(chosen))))


class PlainLora(nn.Module):
    """The base policy with adapters in its language model, over the base's own weights."""

    def __init__(self, backbone: Backbone, config: SigmaConfig) -> None:
        super().__init__()
        self.rank = matching_rank(config, backbone.language_layers)
        self.adapted = Backbone(shared_view(backbone.policy), backbone.tokenizer)
        layers = plain_lora_layers(_depth(backbone.language_layers))
        add_lora(self.adapted.language_layers, peft_config(config, target_modules=layers, rank=self.rank))

    def chunk(
        self,
        image_tokens: Float[Tensor, "batch cameras patches width"],
        image_mask: Bool[Tensor, "batch cameras"],
        tokens: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"],
        noise: Float[Tensor, "batch horizon max_dof"],
        **rtc: Unpack[RealTimeChunking],
    ) -> Float[Tensor, "batch horizon max_dof"]:
        """Normalised actions with the adapters; no gradient."""
        return self.adapted.base_chunk(image_tokens, image_mask, tokens, mask, noise, **rtc)

    def flow_loss(
        self,
        image_tokens: Float[Tensor, "batch cameras patches width"],
        image_mask: Bool[Tensor, "batch cameras"],
        tokens: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"],
        *,
        actions: Float[Tensor, "batch horizon max_dof"],
        noise: Float[Tensor, "batch horizon max_dof"],
        time: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch horizon max_dof"]:
        """pi0.5's own training loss per entry; `time` in (0, 1], 1 is pure noise."""
        prefix = self.adapted.prefix(image_tokens, image_mask, tokens, mask)
        return self.adapted.flow_loss(prefix, actions=actions, noise=noise[:, None], time=time[:, None])[:, 0]


def _depth(language_model: nn.Module) -> int:
    return len(language_model.get_submodule("layers")._modules)  # noqa: SLF001
