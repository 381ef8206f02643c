# SPDX-License-Identifier: Apache-2.0
"""From the window's image tokens to a few vision tokens, modulated by the previous telepathy factors.

Source: reviews of arXiv:2512.00783 name a perceiver resampler with learned queries, and FiLM from
telepathy factors scaled by a learned `tau_log_scale`; sizes and the order inside are ours.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention

from sigma_ros.model.settings import SigmaConfig
from sigma_ros.values import WINDOW_TICKS


class CrossAttention(nn.Module):
    """Queries look at tokens and at themselves, so there is always something valid to look at.

    Keys and values are linear in the tokens, of which there are many more than queries: so the key's matrix is applied
    to the queries and the value's to what they found, which halves the products. A bias of the keys would change all
    scores of a query alike, which is no change.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_norm = nn.LayerNorm(width)
        self.token_norm = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, width)
        self.to_key_value = nn.Linear(width, 2 * width)
        self.to_output = nn.Linear(width, width)

    def forward(
        self,
        queries: Float[Tensor, "batch queries inner"],
        tokens: Float[Tensor, "batch seq inner"],
        mask: Bool[Tensor, "batch seq"],
    ) -> Float[Tensor, "batch queries inner"]:
        """Masked tokens have weight exactly 0."""
        own = self.query_norm(queries)
        context = torch.cat([self.token_norm(tokens), own], dim=1)[:, None]
        visible = torch.cat([mask, mask.new_ones(own.shape[:2])], dim=1)[:, None, None, :]
        to_key, to_value = self.to_key_value.weight.view(2, self.heads, -1, context.shape[-1])
        query = self.to_query(own).unflatten(2, (self.heads, -1))
        asked = torch.einsum("bqhd,hdw->bhqw", query, to_key).flatten(1, 2)[:, None]
        found = scaled_dot_product_attention(asked, context, context, attn_mask=visible, scale=query.shape[-1] ** -0.5)
        mixed = torch.einsum("bhqw,hdw->bqhd", found[:, 0].unflatten(1, (self.heads, -1)), to_value)
        return self.to_output(mixed.flatten(2) + self.to_key_value.bias.chunk(2)[1])


class ResamplerLayer(nn.Module):
    """One look at the window and one feed-forward step, both residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = CrossAttention(width, heads)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """New queries, same shape."""
        queries = queries + self.attention(queries, tokens, mask)
        return queries + self.feed_forward(queries)


class Film(nn.Module):
    """Channel-wise (1 + gamma) * x + beta from the direction of the previous factors; starts as identity."""

    def __init__(self, factor_size: int, width: int) -> None:
        super().__init__()
        self.tau_log_scale = nn.Parameter(torch.tensor(0.5 * math.log(factor_size)))  # unit rms at the start
        self.to_gamma_beta = nn.Linear(factor_size, 2 * width)
        nn.init.zeros_(self.to_gamma_beta.weight)
        nn.init.zeros_(self.to_gamma_beta.bias)

    def forward(
        self, tokens: Float[Tensor, "batch queries inner"], factors: Float[Tensor, "batch factor_count factor_width"]
    ) -> Float[Tensor, "batch queries inner"]:
        """All-zero factors (before the first commit) leave only the learned bias."""
        flat = factors.flatten(1)
        direction = flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-6)
        gamma, beta = self.to_gamma_beta(self.tau_log_scale.exp() * direction)[:, None].chunk(2, dim=-1)
        return (1.0 + gamma) * tokens + beta


class Resampler(nn.Module):
    """Learned queries read the pooled image tokens of every tick and camera of the window."""

    def __init__(self, config: SigmaConfig) -> None:
        super().__init__()
        inner = config.resampler_width
        self.token_norm = nn.LayerNorm(config.width)
        self.to_inner = nn.Linear(config.width, inner)
        self.time = nn.Parameter(0.02 * torch.randn(WINDOW_TICKS, inner))
        self.camera = nn.Parameter(0.02 * torch.randn(config.cameras, inner))
        self.place = nn.Parameter(0.02 * torch.randn(config.pooled_grid**2, inner))
        self.queries = nn.Parameter(0.02 * torch.randn(config.resampler_queries, inner))
        self.layers = nn.ModuleList(
            ResamplerLayer(inner, config.resampler_heads) for _ in range(config.resampler_layers)
        )
        self.film = Film(config.factor_size, inner) if config.use_film else None
        self.to_width = nn.Sequential(nn.LayerNorm(inner), nn.Linear(inner, config.width), nn.RMSNorm(config.width))

    def features_of(
        self, pooled: Float[Tensor, "batch ticks cameras pooled width"], seen: Bool[Tensor, "batch ticks cameras"]
    ) -> Float[Tensor, "batch queries inner"]:
        """What the queries found; image tokens that were not seen do not count at all, whatever they hold."""
        pooled = torch.where(seen[..., None, None], pooled, 0.0)
        gain, shift, project = self.token_norm.weight, self.token_norm.bias, self.to_inner
        even = layer_norm(pooled, gain.shape)  # gain and shift go into the projection: no gradient goes to the tokens
        tokens = linear(even, project.weight * gain, project.bias + project.weight @ shift)
        tokens = tokens + (self.time[:, None, None] + self.camera[:, None] + self.place)
        mask = seen[..., None].expand(*seen.shape, pooled.shape[3]).flatten(1)
        queries = self.queries.expand(pooled.shape[0], -1, -1)
        for layer in self.layers:
            queries = layer(queries, tokens.flatten(1, 3), mask)
        return queries

    def forward(
        self,
        queries: Float[Tensor, "batch queries inner"],
        factors: Float[Tensor, "batch factor_count factor_width"],
    ) -> Float[Tensor, "batch queries width"]:
        """Vision tokens of what `features_of` found, in the light of the previous factors."""
        if self.film is not None:
            queries = self.film(queries, factors)
        return self.to_width(queries)
