# SPDX-License-Identifier: Apache-2.0
"""Prefix and flow steps with LeRobot's modules and arithmetic, without what they compute for nothing.

The prefix stops at the last layer's keys and values: nobody reads what comes after. The flow steps share what
depends on the time step alone (the adaptive norms' modulations: a quarter of the expert's weights at full size)
between chunks, and what depends on the prefix alone (mask, rotations, repeated keys and values) between steps.
Every number that remains is made by the same operation on the same shapes, so the bits are the policy's.
No step waits for the device or allocates by data, so that the loop can be captured. What is exported to ONNX Runtime
multiplies all heads at once instead, which have the same keys and values: the bits differ, and a third of the time.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from lerobot.policies.common.vla_utils import prepare_attention_masks_4d
from lerobot.policies.pi05.modeling_pi05 import PI05Pytorch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.models.gemma.modeling_gemma import apply_rotary_pos_emb, repeat_kv

Modulation = tuple[Tensor, Tensor, Tensor]
"""1 + scale, shift (float32) and gate (activations' type) of an adaptive norm, each [batch, 1, width]."""


def fill_cache(
    language_model: Any,
    embeds: Float[Tensor, "batch seq width"],
    attention: Float[Tensor, "batch 1 seq seq"],
    positions: Int[Tensor, "batch seq"],
) -> DynamicCache:
    """Keys and values of every layer of the language model for one sequence; differentiable."""
    layers = list(language_model.layers)
    hidden = embeds.to(layers[0].self_attn.q_proj.weight.dtype)
    rotation = language_model.rotary_emb(hidden, positions)
    cache = DynamicCache()
    for layer in layers[:-1]:
        hidden = layer(
            hidden,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            position_embeddings=rotation,
        )
    normed, _ = layers[-1].input_layernorm(hidden)
    last = layers[-1].self_attn
    keys, values = _heads(last.k_proj(normed), last.head_dim), _heads(last.v_proj(normed), last.head_dim)
    _, keys = apply_rotary_pos_emb(keys, keys, *rotation)
    cache.update(keys, values, last.layer_idx)
    return cache


def _heads(projected: Float[Tensor, "batch seq all"], head_dim: int) -> Float[Tensor, "batch heads seq head_dim"]:
    return projected.view(*projected.shape[:-1], -1, head_dim).transpose(1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _StepTable:
    """Per flow step: the modulations of every norm, in the order layers' two norms, then the final one."""

    batch: int
    made_from: tuple[tuple[int, int], ...]
    modulations: tuple[tuple[Modulation, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    """Per chunk: what the steps read of the prefix. Keys and values have room for the suffix at their end."""

    attention: Float[Tensor, "batch 1 horizon total"]
    rotation: tuple[Tensor, Tensor]
    keys: tuple[Float[Tensor, "batch heads total head_dim"], ...]
    values: tuple[Float[Tensor, "batch heads total head_dim"], ...]


class FlowSteps:
    """The action expert's Euler steps from noise to actions over a cached prefix."""

    def __init__(self, core: PI05Pytorch) -> None:
        self._core = core
        self._expert: Any = core.paligemma_with_expert.gemma_expert.model
        self._table: _StepTable | None = None

    @torch.no_grad()
    def integrate(
        self, cache: DynamicCache, mask: Bool[Tensor, "batch seq"], noise: Float[Tensor, "batch horizon max_dof"]
    ) -> Float[Tensor, "batch horizon max_dof"]:
        """Normalised actions without gradient; the bits that `PI05Pytorch.sample_actions` gives without guidance."""
        return self.run(cache, mask, noise, self.modulations(noise.shape[0], noise.device))

    def run(
        self,
        cache: DynamicCache,
        mask: Bool[Tensor, "batch seq"],
        noise: Float[Tensor, "batch horizon max_dof"],
        steps: tuple[tuple[Modulation, ...], ...],
    ) -> Float[Tensor, "batch horizon max_dof"]:
        """The steps alone, with `modulations` made beforehand: one graph, whatever the numbers are."""
        step = -1.0 / self._core.config.num_inference_steps
        context = self._context(cache, mask)
        actions = noise
        for modulations in steps:
            actions = actions + step * self._velocity(actions, context, modulations)
        return actions

    def modulations(self, batch: int, device: torch.device) -> tuple[tuple[Modulation, ...], ...]:
        """Kept between chunks; made anew when a weight they come from was changed or moved."""
        core, norms = self._core, self._norms()
        sources = [*core.time_mlp_in.parameters(), *core.time_mlp_out.parameters()]
        sources += [p for norm in norms for p in norm.parameters()]
        made_from = tuple((p.data_ptr(), p._version) for p in sources)  # noqa: SLF001
        if self._table is None or (self._table.batch, self._table.made_from) != (batch, made_from):
            count = core.config.num_inference_steps
            steps = tuple(self._step_modulations(1.0 + i * (-1.0 / count), batch, device) for i in range(count))
            self._table = _StepTable(batch=batch, made_from=made_from, modulations=steps)
        return self._table.modulations

    def _norms(self) -> list[Any]:
        layers = [
            norm for layer in self._expert.layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)
        ]
        return [*layers, self._expert.norm]

    def _step_modulations(self, time: float, batch: int, device: torch.device) -> tuple[Modulation, ...]:
        core = self._core
        empty = torch.zeros(batch, core.config.chunk_size, core.config.max_action_dim, device=device)
        times = torch.tensor(time, dtype=torch.float32, device=device).expand(batch)
        _, _, _, condition = core.embed_suffix(empty, times)
        activations = self._expert.layers[0].self_attn.q_proj.weight.dtype
        made = []
        for norm in self._norms():
            scale, shift, gate = norm.dense(condition).unsqueeze(1).chunk(3, dim=-1)
            made.append((1 + scale.float(), shift.float(), gate.to(activations)))
        return tuple(made)

    def _context(self, cache: DynamicCache, mask: Bool[Tensor, "batch seq"]) -> _Context:
        batch, horizon, device = mask.shape[0], self._core.config.chunk_size, mask.device
        suffix = torch.ones(batch, horizon, horizon, dtype=torch.bool, device=device)
        seen = torch.cat([mask[:, None, :].expand(-1, horizon, -1), suffix], dim=2)
        positions = torch.sum(mask, dim=-1)[:, None] + torch.arange(horizon, device=device)
        attention = self._expert.layers[0].self_attn
        like = torch.empty(0, dtype=attention.q_proj.weight.dtype, device=device)
        exported, groups = torch.onnx.is_in_onnx_export(), attention.num_key_value_groups
        pairs = [
            tuple(part if exported else _with_room(part, groups, horizon) for part in (keys, values))
            for keys, values, _ in cache
        ]
        return _Context(
            attention=prepare_attention_masks_4d(seen),
            rotation=self._expert.rotary_emb(like, positions),
            keys=tuple(keys for keys, _ in pairs),
            values=tuple(values for _, values in pairs),
        )

    def _velocity(self, actions: Tensor, context: _Context, modulations: tuple[Modulation, ...]) -> Tensor:
        hidden = self._core.action_in_proj(actions)
        hidden = hidden.to(self._expert.layers[0].self_attn.q_proj.weight.dtype)
        for index, layer in enumerate(self._expert.layers):
            before, after = modulations[2 * index], modulations[2 * index + 1]
            attended = self._attend(layer, _modulated(layer.input_layernorm, hidden, before), context, index)
            hidden = hidden + attended * before[2]
            hidden = hidden + layer.mlp(_modulated(layer.post_attention_layernorm, hidden, after)) * after[2]
        hidden = _modulated(self._expert.norm, hidden, modulations[-1])
        return self._core.action_out_proj(hidden.to(torch.float32))

    def _attend(self, layer: Any, normed: Tensor, context: _Context, index: int) -> Tensor:
        attention, horizon = layer.self_attn, normed.shape[1]
        queries = _heads(attention.q_proj(normed), attention.head_dim)
        queries, fresh = apply_rotary_pos_emb(
            queries, _heads(attention.k_proj(normed), attention.head_dim), *context.rotation
        )
        keys, values = context.keys[index], context.values[index]
        fresh_values = _heads(attention.v_proj(normed), attention.head_dim)
        if torch.onnx.is_in_onnx_export():
            keys, values = torch.cat([keys, fresh], dim=2), torch.cat([values, fresh_values], dim=2)
            return attention.o_proj(_attended_at_once(queries * attention.scaling, keys, values, context.attention))
        keys[:, :, -horizon:] = fresh
        values[:, :, -horizon:] = fresh_values
        weights = torch.matmul(queries, keys.transpose(2, 3)) * attention.scaling + context.attention
        weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(queries.dtype)
        attended = torch.matmul(weights, values).transpose(1, 2).contiguous()
        return attention.o_proj(attended.reshape(*normed.shape[:2], -1))


def _with_room(part: Tensor, repeats: int, horizon: int) -> Float[Tensor, "batch heads total head_dim"]:
    return nn.functional.pad(repeat_kv(part, repeats), (0, 0, 0, horizon))


def _attended_at_once(
    queries: Float[Tensor, "batch heads horizon head_dim"],
    keys: Float[Tensor, "batch 1 total head_dim"],
    values: Float[Tensor, "batch 1 total head_dim"],
    attention: Float[Tensor, "batch 1 horizon total"],
) -> Float[Tensor, "batch horizon all"]:
    """What all heads see, with keys and values in common."""
    batch, heads, horizon, _ = queries.shape
    weights = torch.matmul(queries.flatten(1, 2), keys[:, 0].transpose(1, 2)).view(batch, heads, horizon, -1)
    weights = nn.functional.softmax(weights + attention, dim=-1).flatten(1, 2)
    return torch.matmul(weights, values[:, 0]).view(batch, heads, horizon, -1).transpose(1, 2).flatten(2)


def _modulated(norm: Any, hidden: Tensor, modulation: Modulation) -> Tensor:
    scale, shift, _ = modulation
    return (norm._norm(hidden) * scale + shift).to(hidden.dtype)  # noqa: SLF001


# Flow-matching noise as a pure function of (seed, epoch, tick).
#
# Philox 4x64 (a counter-based generator whose raw stream numpy guarantees) is keyed by (seed, epoch) and
# counted from the tick; Box-Muller in float64 turns it into normals, rounded to float32. Nothing depends
# on the device, on call order or on torch's generators. Between machines only a last-bit difference of
# `log`, `sin` or `cos` that falls onto a float32 rounding edge can show (below 1e-7 per number).


_UNIT = 2.0**-53


def flow_noise(*, seed: int, epoch: int, tick: int, horizon: int, max_dof: int) -> Float[Tensor, "1 horizon max_dof"]:
    """Standard normal float32 noise on the CPU; seed, epoch and tick in [0, 2**63)."""
    for name, value in (("seed", seed), ("epoch", epoch), ("tick", tick)):
        if not 0 <= value < 2**63:
            raise ValueError(f"{name} must be in [0, 2**63), got {value}")
    count = horizon * max_dof
    pairs = (count + 1) // 2
    stream = np.random.Philox(key=[seed, epoch], counter=[0, 0, tick, 0])
    bits = stream.random_raw(2 * pairs).reshape(2, pairs)
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * _UNIT
    radius = np.sqrt(-2.0 * np.log(uniform[0]))
    angle = 2.0 * np.pi * uniform[1]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
    return torch.from_numpy(normal.astype(np.float32)).reshape(1, horizon, max_dof)
