# SPDX-License-Identifier: Apache-2.0
"""The telepathy path: window, task and memory in; new memory, intent and telepathy factors out.

[vision | text | state | readouts] go through the shared language model once, the newest pictures also past it.
Causal: the window ends at the tick whose actions are corrected. Everything here is float32 except the language model.
Source of the names: model card of Veltraxor/Sigma and arXiv:2512.00783; sizes and gates are ours.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from sigma_ros.model.resampler import Resampler
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.values import WINDOW_TICKS

FACTOR_RMS = 1.14
"""Root mean square of a factor's entries: the model card's tau_l2 of 51.6 over 8 x 256 numbers."""


class Reader(Protocol):
    """The language model on embeddings and their mask: see `lora.LanguageReader`."""

    def __call__(self, embeds: Tensor, mask: Tensor, *, read: int) -> Tensor:
        """Hidden states of the last `read` entries."""


class AsTensors:
    """Of a dataclass whose fields are tensors: they travel as a tuple into what runs a graph of functions."""

    __slots__ = ()

    @classmethod
    def of(cls, tensors: Iterable[Tensor]) -> Self:
        """From what `tensors` gives."""
        names: tuple[str, ...] = cls.__slots__  # `fields` of a class breaks the graph
        return cls(**dict(zip(names, tensors, strict=True)))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of it, in order."""
        names: tuple[str, ...] = self.__slots__
        return tuple(getattr(self, name) for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class TelepathyInput(AsTensors):
    """What the telepathy path sees of a batch of windows, all of it at or before the window's last tick."""

    pooled: Float[Tensor, "batch ticks cameras pooled width"]
    seen: Bool[Tensor, "batch ticks cameras"]
    states: Float[Tensor, "batch ticks dof"]
    valid: Bool[Tensor, "batch ticks"]
    text: Float[Tensor, "batch tokens width"]
    text_mask: Bool[Tensor, "batch tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """What one committed update hands to the next; zeros at the start of an epoch."""

    memory: Float[Tensor, "batch memory_width"]
    factors: Float[Tensor, "batch factor_count factor_width"]

    @classmethod
    def start(cls, config: SigmaConfig, *, batch: int, device: torch.device | str = "cpu") -> "Recurrence":
        """The empty memory."""
        return cls(
            memory=torch.zeros(batch, config.memory_width, device=device),
            factors=torch.zeros(batch, config.factor_count, config.factor_width, device=device),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TelepathyOutput(AsTensors):
    """The telepathy path's output at a tick, with the projections that its losses and its risk compare."""

    semantic: Float[Tensor, "batch memory_width"]
    memory: Float[Tensor, "batch memory_width"]
    intent: Float[Tensor, "batch intent_width"]
    glance: Float[Tensor, "batch glance_size"]
    factors: Float[Tensor, "batch factor_count factor_width"]
    text: Float[Tensor, "batch width"]
    memory_as_text: Float[Tensor, "batch width"]
    intent_aligned: Float[Tensor, "batch align_width"]
    factors_aligned: Float[Tensor, "batch align_width"]

    @classmethod
    def blank(cls, config: SigmaConfig, *, batch: int, device: torch.device | str = "cpu") -> "TelepathyOutput":
        """All zeros: the output of the comparison arm without telepathy."""
        sizes = {"semantic": config.memory_width, "memory": config.memory_width, "intent": config.intent_width}
        sizes |= {"text": config.width, "memory_as_text": config.width, "glance": config.glance_size}
        sizes |= {"intent_aligned": config.align_width, "factors_aligned": config.align_width}
        fields = {name: torch.zeros(batch, size, device=device) for name, size in sizes.items()}
        factors = torch.zeros(batch, config.factor_count, config.factor_width, device=device)
        return cls(factors=factors, **fields)

    @property
    def recurrence(self) -> Recurrence:
        """What the next update starts from, if this one is committed."""
        return Recurrence(memory=self.memory, factors=self.factors)

    @property
    def tau_l2(self) -> Float[Tensor, " batch"]:
        """Norm of all factors together."""
        return self.factors.flatten(1).norm(dim=1)

    @property
    def sem_align(self) -> Float[Tensor, " batch"]:
        """Cosine of the memory, seen as text, and the task text."""
        return cosine_similarity(self.memory_as_text, self.text, dim=1)

    @property
    def alignment(self) -> Float[Tensor, " batch"]:
        """Cosine of intent and factors in their common space."""
        return cosine_similarity(self.intent_aligned, self.factors_aligned, dim=1)


class WindowFeatures(NamedTuple):
    """What of a window needs no memory: computed for many windows in one batch."""

    vision: Float[Tensor, "batch queries inner"]
    states: Float[Tensor, "batch state_tokens width"]
    glance: Float[Tensor, "batch glance_size"]
    text: Float[Tensor, "batch width"]
    asked: Float[Tensor, "batch memory_width"]


class StateEncoder(nn.Module):
    """The window's joint states as a few tokens; ticks that are not valid count as absent."""

    def __init__(self, config: SigmaConfig) -> None:
        super().__init__()
        self.tokens = config.state_tokens
        self.layers = nn.Sequential(
            nn.Linear(WINDOW_TICKS * (config.dof + 1), config.state_hidden),
            nn.GELU(),
            nn.Linear(config.state_hidden, config.state_tokens * config.width),
        )
        self.norm = nn.RMSNorm(config.width)

    def forward(
        self, states: Float[Tensor, "batch ticks dof"], valid: Bool[Tensor, "batch ticks"]
    ) -> Float[Tensor, "batch state_tokens width"]:
        """Tokens of unit rms before the learned gain."""
        flag = valid[..., None]
        known = torch.cat([torch.where(flag, states, 0.0), flag.to(states.dtype)], dim=-1)
        return self.norm(self.layers(known.flatten(1)).unflatten(1, (self.tokens, -1)))


class Glance(nn.Module):
    """What the newest pictures show, place by place: a few numbers of each pooled token, past the language model.

    Where something lies is linear in the tokens of a vision tower that learned to locate; through resampler, language
    model, memory and factors hardly anything of it arrives (our addition, docs/results.md).
    """

    def __init__(self, config: SigmaConfig) -> None:
        super().__init__()
        self.usual = nn.Parameter(torch.zeros(config.cameras, config.pooled_grid**2, config.width))
        self.spread = nn.Parameter(torch.ones(config.width))
        self.to_few = nn.Linear(config.width, config.glance_width)

    def forward(
        self, pooled: Float[Tensor, "batch cameras pooled width"], seen: Bool[Tensor, "batch cameras"]
    ) -> Float[Tensor, "batch glance_size"]:
        """Zeros for cameras that were not seen."""
        flag = seen[:, :, None, None]
        few = self.to_few((torch.where(flag, pooled, 0.0) - self.usual) / self.spread)
        return torch.where(flag, few, 0.0).flatten(1)

    @torch.no_grad()
    def start_from(
        self, parts: Iterable[tuple[Float[Tensor, "ticks cameras pooled width"], Bool[Tensor, "ticks cameras"]]]
    ) -> None:
        """Takes the mean of the data's pictures as its zero, so as to see what differs; one part in memory at a time.

        Table and arm are most of a token, a brick is a small part of it.
        """
        total, squares = (torch.zeros(self.usual.shape, dtype=torch.float64) for _ in range(2))
        count = torch.zeros(len(self.usual), 1, 1, dtype=torch.float64)
        for pooled, seen in parts:
            flag = seen[:, :, None, None]
            values = torch.where(flag, pooled, 0.0).double()
            total += values.sum(dim=0)
            squares += values.square().sum(dim=0)
            count += flag.sum(dim=0)
        usual = total / count.clamp(min=1.0)
        apart = (squares - total * usual).clamp(min=0.0).sum(dim=(0, 1))
        share = count.sum().clamp(min=1.0) * self.usual.shape[1]
        self.usual.copy_(usual)
        self.spread.copy_((apart / share).sqrt().clamp(min=1e-3))


class SemanticMemory(nn.Module):
    """Gated update m_t = (1 - g) * m + g * u, with g and u from [m, s_t]; |m_t| < 1 in every entry.

    `gate_bias` is where the gate starts: at -2 a commit keeps 88 % of what was there, at 0 half of it is lost.
    """

    def __init__(self, width: int, *, gate_bias: float = 0.0) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * width, width)
        self.candidate = nn.Linear(2 * width, width)
        nn.init.constant_(self.gate.bias, gate_bias)

    def forward(
        self, memory: Float[Tensor, "batch memory_width"], semantic: Float[Tensor, "batch memory_width"]
    ) -> Float[Tensor, "batch memory_width"]:
        """The memory after seeing `semantic`."""
        both = torch.cat([memory, semantic], dim=1)
        gate = torch.sigmoid(self.gate(both))
        return (1.0 - gate) * memory + gate * torch.tanh(self.candidate(both))


class TelepathyPath(nn.Module):
    """All trained parts of the telepathy path but the adapters, which are in the reader."""

    def __init__(self, config: SigmaConfig) -> None:
        super().__init__()
        self.use_memory = config.use_memory
        memory, intent = config.memory_width, config.intent_width
        self.factor_shape = (config.factor_count, config.factor_width)
        self.resampler = Resampler(config)
        self.glance = Glance(config) if config.use_glance else None
        self.glance_to_semantic = nn.Linear(config.glance_size, memory, bias=False) if config.use_glance else None
        self.state_encoder = StateEncoder(config)
        self.readouts = nn.Parameter(torch.randn(config.readouts, config.width))
        self.to_semantic = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, memory))
        self.memory = SemanticMemory(memory, gate_bias=config.memory_gate_bias)
        self.text_to_intent = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, memory))
        self.intent = _head(3 * memory, config.head_hidden, intent)
        self.factors = _head(memory + intent, config.head_hidden, config.factor_size)
        nn.init.normal_(self.factors.get_parameter("3.weight"), std=FACTOR_RMS / config.head_hidden**0.5)
        self.memory_to_text = nn.Linear(memory, config.width)
        self.align_intent = nn.Linear(intent, config.align_width)
        self.align_factors = nn.Linear(config.factor_size, config.align_width)

    def features_of(self, telepathy_input: TelepathyInput) -> WindowFeatures:
        """All that comes before the memory."""
        text = mean_text(telepathy_input.text, telepathy_input.text_mask)
        seen = telepathy_input.seen & telepathy_input.valid[..., None]
        return WindowFeatures(
            vision=self.resampler.features_of(telepathy_input.pooled, seen),
            states=self.state_encoder(telepathy_input.states, telepathy_input.valid),
            glance=self.glance_of(telepathy_input),
            text=text,
            asked=self.text_to_intent(text),
        )

    def forward(
        self,
        telepathy_input: TelepathyInput,
        previous: Recurrence,
        reader: Reader,
        features: WindowFeatures | None = None,
    ) -> TelepathyOutput:
        """One update from the previous committed memory and factors; nothing is kept. `features` if they are known."""
        features = features or self.features_of(telepathy_input)
        semantic = self._read(telepathy_input, features, previous, reader)
        if self.glance_to_semantic is not None:
            semantic = semantic + self.glance_to_semantic(features.glance)
        memory = self.memory(previous.memory if self.use_memory else torch.zeros_like(previous.memory), semantic)
        intent = self.intent(torch.cat([memory, semantic, features.asked], dim=1))
        flat = self.factors(torch.cat([memory, intent], dim=1))
        return TelepathyOutput(
            semantic=semantic,
            memory=memory,
            intent=intent,
            glance=features.glance,
            factors=flat.unflatten(1, self.factor_shape),
            text=features.text,
            memory_as_text=self.memory_to_text(memory),
            intent_aligned=self.align_intent(intent),
            factors_aligned=self.align_factors(flat),
        )

    def _read(
        self, telepathy_input: TelepathyInput, features: WindowFeatures, previous: Recurrence, reader: Reader
    ) -> Float[Tensor, "batch memory_width"]:
        vision = self.resampler(features.vision, previous.factors)
        readouts = self.readouts.expand(vision.shape[0], -1, -1)
        kind = telepathy_input.text.dtype
        embeds = torch.cat([vision.to(kind), telepathy_input.text, features.states.to(kind), readouts.to(kind)], dim=1)
        mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        mask[:, vision.shape[1] : vision.shape[1] + telepathy_input.text.shape[1]] = telepathy_input.text_mask
        return self.to_semantic(reader(embeds, mask, read=readouts.shape[1]).mean(dim=1))

    def glance_of(self, telepathy_input: TelepathyInput) -> Float[Tensor, "batch glance_size"]:
        """What the newest pictures show; empty where the glance is off."""
        newest = telepathy_input.pooled[:, -1]
        if self.glance is None:
            return newest.new_zeros(len(newest), 0)
        return self.glance(newest, telepathy_input.seen[:, -1] & telepathy_input.valid[:, -1, None])


def mean_text(
    text: Float[Tensor, "batch tokens width"], mask: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch width"]:
    """Mean embedding of the tokens that are there, float32: what the memory is aligned with."""
    total = torch.where(mask[..., None], text.to(torch.float32), 0.0).sum(dim=1)
    return total / mask[..., None].sum(dim=1).clamp(min=1)


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Linear(hidden, outputs))
