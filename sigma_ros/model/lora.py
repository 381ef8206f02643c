# SPDX-License-Identifier: Apache-2.0
"""The shared language model with adapters that only the telepathy path sees.

A *view* is a second tree of modules over the same parameters. PEFT puts its LoRA layers into the view,
so the base's own modules are never touched: the base path is the unchanged policy, bit for bit, and
there is no on/off switch that could be left in the wrong position. The view costs no weights; merging
for serving gives it its own four projections per layer (5 % of the weights at full size).
"""

import copy
from typing import Any, Unpack, cast

import torch
from jaxtyping import Bool, Float, Int
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.gemma.modeling_gemma import apply_rotary_pos_emb, repeat_kv

from sigma_ros.model.pi05.backbone import Backbone, RealTimeChunking
from sigma_ros.model.residual import head_parameters
from sigma_ros.model.settings import LORA_PROJECTIONS, SigmaConfig

_ADAPTER = "default"
_MASKED = -2.3819763e38  # openpi's value for "never": the softmax of it is exactly 0


def shared_view[M: nn.Module](module: M) -> M:
    """A copy of the module tree that shares every parameter and buffer with `module`."""
    shared = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
    return copy.deepcopy(module, shared)


def add_lora(module: nn.Module, config: LoraConfig) -> None:
    """Injects adapters in place (call it on a view); they are kept in float32 and B starts at zero."""
    inject_adapter_in_model(config, module, adapter_name=_ADAPTER)
    for name, parameter in module.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(torch.float32)


def peft_config(config: SigmaConfig, *, target_modules: str | list[str], rank: int | None = None) -> LoraConfig:
    """PEFT's own description of the adapters; alpha / rank stays the same for every rank."""
    chosen = config.lora_rank if rank is None else rank
    return LoraConfig(
        r=chosen,
        lora_alpha=config.lora_alpha * chosen / config.lora_rank,  # type: ignore[arg-type]
        lora_dropout=config.lora_dropout,
        target_modules=target_modules,
        bias="none",
    )


def adapter_tensors(module: nn.Module) -> dict[str, nn.Parameter]:
    """The adapters by PEFT's file names: `<layer path>.lora_A.weight` and so on."""
    return {
        name.replace(f".{_ADAPTER}.", "."): parameter
        for name, parameter in module.named_parameters()
        if ".lora_" in name
    }


def adapter_shapes(module: nn.Module, *, rank: int) -> dict[str, tuple[int, ...]]:
    """Shapes that adapters of `rank` on q, k, v, o of `module` would have, by PEFT's file names."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and name.rsplit(".", 1)[-1] in LORA_PROJECTIONS:
            shapes[f"{name}.lora_A.weight"] = (rank, layer.in_features)
            shapes[f"{name}.lora_B.weight"] = (layer.out_features, rank)
    return shapes


@torch.no_grad()
def merge_lora(module: nn.Module) -> int:
    """Folds the adapters of a view into projections of its own; returns the bytes that costs.

    Equal to the unmerged view within the rounding of the weights' number type. The shared weights
    are not written to. Not for training: the adapters are gone from the view afterwards.
    """
    merged_bytes = 0
    for name, layer in [(n, m) for n, m in module.named_modules() if isinstance(m, LoraLinear)]:
        base = cast(nn.Linear, layer.get_base_layer())
        delta = layer.get_delta_weight(_ADAPTER)
        weight = (base.weight.to(torch.float32) + delta.to(torch.float32)).to(base.weight.dtype)
        plain = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        plain.weight = nn.Parameter(weight, requires_grad=False)
        plain.bias = base.bias
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, plain)
        merged_bytes += weight.nbytes
    return merged_bytes


class LanguageReader(nn.Module):
    """Runs a view of the language model on one bidirectional sequence; scaled-dot-product attention.

    Args:
        language_model: The policy's own; it is shared, not copied.
        lora: Adapters for this reader alone, or None to read with the model as it is.
    """

    def __init__(self, language_model: nn.Module, lora: LoraConfig | None) -> None:
        super().__init__()
        view: Any = shared_view(language_model)
        view.config._attn_implementation = "sdpa"  # noqa: SLF001  the base keeps its own setting
        if lora is not None:
            add_lora(view, lora)
        self.view = view

    def forward(
        self, embeds: Float[Tensor, "batch seq width"], mask: Bool[Tensor, "batch seq"], *, read: int
    ) -> Float[Tensor, "batch read width"]:
        """Hidden states of the last `read` entries in float32.

        Masked entries are seen by nobody; positions count valid entries. The last layer is computed for what
        is read alone: its other outputs would go nowhere.
        """
        attention = torch.zeros(mask.shape, dtype=self._kind, device=mask.device)
        attention = attention.masked_fill(~mask, _MASKED)[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
        positions = (torch.cumsum(mask.long(), dim=1) - 1).clamp(min=0)
        hidden = embeds.to(self._kind)
        rotation = self.view.rotary_emb(hidden, positions)
        for layer in self.view.layers[:-1]:
            hidden = _layer(layer, hidden, attention, rotation, read=mask.shape[1])
        last = _layer(self.view.layers[-1], hidden, attention, rotation, read=read)
        return self.view.norm(last)[0].to(torch.float32)

    @property
    def _kind(self) -> torch.dtype:
        return self.view.layers[0].self_attn.q_proj.weight.dtype


def _layer(
    layer: Any,
    hidden: Float[Tensor, "batch seq width"],
    attention: Float[Tensor, "batch 1 seq seq"],
    rotation: tuple[Tensor, Tensor],
    *,
    read: int,
) -> Float[Tensor, "batch read width"]:
    """A decoder layer's output for the last `read` entries; all of them give keys and values."""
    block, normed = layer.self_attn, layer.input_layernorm(hidden)[0]
    cos, sin = rotation
    queries = _heads(block.q_proj(normed[:, -read:]), block.head_dim)
    keys, values = (_heads(part(normed), block.head_dim) for part in (block.k_proj, block.v_proj))
    queries, _ = apply_rotary_pos_emb(queries, queries, cos[:, -read:], sin[:, -read:])
    _, keys = apply_rotary_pos_emb(keys, keys, cos, sin)
    keys, values = (repeat_kv(part, block.num_key_value_groups) for part in (keys, values))
    mixed = scaled_dot_product_attention(queries, keys, values, attn_mask=attention[:, :, -read:], scale=block.scaling)
    reached = hidden[:, -read:] + block.o_proj(mixed.transpose(1, 2).flatten(2))
    return reached + layer.mlp(layer.post_attention_layernorm(reached)[0])


def _heads(projected: Float[Tensor, "batch seq all"], head_dim: int) -> Float[Tensor, "batch heads seq head_dim"]:
    return projected.unflatten(-1, (-1, head_dim)).transpose(1, 2)


# The comparison arm without telepathy: adapters in the base's own prefix, as many trained parameters.
#
# The residual of this arm is what the adapters change: chunk with adapters minus chunk without, from the
# same noise. So base, blend, supervisor and scores treat it exactly like Sigma.


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
