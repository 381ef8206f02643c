# SPDX-License-Identifier: Apache-2.0
"""Sigma's losses as pure functions of tensors; every term is per sample, so that weights and logs see it apart.

Names: paper and model card of Veltraxor/Sigma (TRAF, TSAC, the three action scales). Forms and constants are ours,
design section 5: the originals are unpublished.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize
from torch.utils.checkpoint import checkpoint

from sigma_ros.model.adapter import reference_tau
from sigma_ros.model.residual import Residual
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.telepathy import Recurrence, TelepathyInput, TelepathyOutput, WindowFeatures, mean_text
from sigma_ros.values import WINDOW_TICKS

from .streams import Windows

HARD_SHARE = 0.25
"""TRAF: this share of the samples, those with the largest error of the base, ..."""

HARD_WEIGHT = 2.0
"""... counts so much more than the others, before all weights are scaled to a mean of 1."""

CURRICULUM = (0.10, 0.60)
"""TSAC: the semantic weights rise on a cosine between these shares of the run."""

CONTRAST_TEMPERATURE = 0.1

FORESIGHT_TICKS = (4 * WINDOW_TICKS, 8 * WINDOW_TICKS, 16 * WINDOW_TICKS)
"""L_fore: so far ahead of a window, the episode's end at most, lie the poses that its factors have to tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """Largest weights of the terms beside the actions; `traf` and `tsac` switch the two schemes off for a study."""

    far: float = 0.5
    smooth: float = 0.5
    semantic: float = 0.1
    intent: float = 0.1
    tau: float = 0.05
    foresight: float = 0.0
    traf: bool = True
    tsac: bool = True


def action_losses(
    residual: Residual,
    base: Float[Tensor, "batch horizon dof"],
    target: Float[Tensor, "batch steps dof"],
    known: Bool[Tensor, "batch steps"],
    delay: Int64[Tensor, " batch"],
) -> dict[str, Float[Tensor, " batch"]]:
    """L_act_vec, L_act_chk, L_act_trj: mean squared error of the residual against what the base lacks (TRAF).

    L_act_trj is over the 16 steps that are executed when the chunk arrives `delay` ticks late, `act_far` over all steps
    that were recorded (both our additions: a late chunk is executed where the model card's 16 steps have ended).
    `act_smooth` is that of its second differences from step to step (our addition): a base's trembling is small beside
    its other errors, but it is what an arm's acceleration limit does not let through.
    `target` are normalised recorded actions, `base` the base's chunk for the same tick.
    """
    lacking = target - base[:, : target.shape[1]]
    error = torch.where(known[..., None], residual.composite[:, : target.shape[1]] - lacking, 0.0)
    squared = error.square().mean(dim=2)
    place = torch.arange(squared.shape[1], device=squared.device) - delay[:, None]
    executed = known & (place >= 0) & (place < residual.config.trajectory_steps)
    return {
        "act_vec": squared[:, 0],
        "act_chk": squared[:, : residual.config.chunk_steps].mean(dim=1),
        "act_trj": _mean_where(squared, executed),
        "act_far": _mean_where(squared, known),
        "act_smooth": _mean_where(error.diff(n=2, dim=1).square().mean(dim=2), known[:, 2:]),
    }


def _mean_where(values: Float[Tensor, "batch steps"], chosen: Bool[Tensor, "batch steps"]) -> Float[Tensor, " batch"]:
    return torch.where(chosen, values, 0.0).sum(dim=1) / chosen.sum(dim=1).clamp(min=1)


def traf_weights(
    error: Float[Tensor, " samples"], present: Bool[Tensor, " samples"], *, enabled: bool = True
) -> Float[Tensor, " samples"]:
    """Weights of the samples: 0 where absent, mean 1 over those present, the hardest quarter counts double.

    Args:
        error: Error of the base per sample.
        present: Which samples exist.
        enabled: Off: every present sample counts 1.
    """
    weights = present.to(error.dtype)
    count = int(present.sum())
    hard = round(HARD_SHARE * count)
    if enabled and hard:
        ranked = torch.where(present, error, -math.inf).topk(hard).indices
        weights[ranked] = HARD_WEIGHT
    return weights * count / weights.sum().clamp(min=1.0)


def with_corrections(
    weights: Float[Tensor, " samples"], corrected: Bool[Tensor, " samples"], *, factor: float
) -> Float[Tensor, " samples"]:
    """Weights of the samples where those that an operator corrected count `factor` times as much; the sum stays."""
    if not corrected.any():
        return weights
    raised = torch.where(corrected, factor * weights, weights)
    return raised * weights.sum() / raised.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def curriculum(progress: float, *, enabled: bool = True) -> float:
    """TSAC: share of the semantic weights' maximum at a share of the run in [0, 1]; 1 throughout when disabled."""
    if not enabled:
        return 1.0
    start, end = CURRICULUM
    passed = min(1.0, max(0.0, (progress - start) / (end - start)))
    return 0.5 * (1.0 - math.cos(math.pi * passed))


def semantic_loss(telepathy_output: TelepathyOutput, texts: Float[Tensor, "texts width"]) -> Float[Tensor, " batch"]:
    """L_sem: 1 - cos(P m_t, mean text embedding), plus a contrast against the different texts of the batch.

    `texts` are text embeddings of the whole batch, repeated ones allowed. With one text the contrast is exactly 0.
    """
    distance = 1.0 - telepathy_output.sem_align
    logits = normalize(telepathy_output.memory_as_text, dim=1) @ normalize(texts, dim=1).T / CONTRAST_TEMPERATURE
    same = (telepathy_output.text[:, None] == texts[None]).all(dim=2)
    own = torch.where(same, logits, -math.inf).logsumexp(dim=1)
    return distance + (logits.logsumexp(dim=1) - own)


def intent_loss(telepathy_output: TelepathyOutput) -> Float[Tensor, " batch"]:
    """L_int: 1 - cos(P z_intent, P' tau), the alignment that the adapter's risk reads."""
    return 1.0 - cosine_similarity(telepathy_output.intent_aligned, telepathy_output.factors_aligned, dim=1)


def tau_loss(telepathy_output: TelepathyOutput, *, tau_target: float) -> Float[Tensor, " batch"]:
    """L_tau: how far the norm of the factors is from its target, as a squared ratio; `tau_target` is that norm."""
    return (telepathy_output.tau_l2 / tau_target - 1.0).square()


def total(
    terms: dict[str, Float[Tensor, " samples"]],
    action_weights: Float[Tensor, " samples"],
    present: Bool[Tensor, " samples"],
    weights: LossWeights,
    *,
    progress: float,
    count: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its parts, each a sum over samples divided by `count` (the samples of all processes' batches).

    `terms` holds `act_vec`, `act_chk`, `act_trj`, `act_far`, `act_smooth`, `sem`, `int`, `tau` and, where it counts,
    `fore`.
    """
    rise = curriculum(progress, enabled=weights.tsac)
    factors = {
        "act_far": weights.far,
        "act_smooth": weights.smooth,
        "sem": rise * weights.semantic,
        "int": rise * weights.intent,
        "tau": weights.tau,
        "fore": weights.foresight,
    }
    parts = {}
    for name, values in terms.items():
        counted = action_weights if name.startswith("act_") else present.to(values.dtype)
        parts[name] = torch.where(present, values * counted, 0.0).sum() / count
    loss = torch.stack([factors.get(name, 1.0) * value for name, value in parts.items()]).sum()
    return loss, {name: value.detach() for name, value in parts.items()}


# One training step's arithmetic: windows and memory in, losses per sample and the next memory out.
#
# A module, so that Accelerate can wrap it for many GPUs; the robot's own `believe` and `correct` do the work.


class Foresight(nn.Module):
    """L_fore: where the demonstration is seconds later, read off the factors and the pose by one linear map.

    What decides late (a cue, a word) shows in a chunk's error only at the few windows where the ways part, and a memory
    learns it slowly from there; told ahead, every window says it. The map serves training alone and is not kept (our
    addition; auxiliary prediction of the future as in arXiv:1807.03748; docs/results.md).
    """

    def __init__(self, config: SigmaConfig) -> None:
        super().__init__()
        self.to_later = nn.Linear(config.factor_size + config.dof, len(FORESIGHT_TICKS) * config.dof)
        for parameter in self.to_later.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        factors: Float[Tensor, "samples factor_count factor_width"],
        state: Float[Tensor, "samples dof"],
        later: Float[Tensor, "samples spans dof"],
    ) -> Float[Tensor, " samples"]:
        """Mean squared error of the poses that are told, normalised actions."""
        told = self.to_later(torch.cat([factors.flatten(1), state], dim=1)).unflatten(1, later.shape[1:])
        return (told - later).square().mean(dim=(1, 2))


class UnrolledLosses(NamedTuple):
    """Losses by name, each [windows * batch] in the order of the windows, and the memory behind the last one."""

    terms: dict[str, Float[Tensor, " samples"]]
    memory: Float[Tensor, "batch memory_width"]
    factors: Float[Tensor, "batch factor_count factor_width"]


class SigmaLossModule(nn.Module):
    """Sigma's losses over consecutive windows of several episodes.

    Args:
        model: Trained in place; its base stays frozen.
        gradient_checkpointing: Compute each window's belief again in the backward pass instead of keeping it.
        hide_motion: Share of windows that see the joints as if they had stood still.
        foresight: What L_fore is read off with, if it counts.
    """

    def __init__(
        self,
        model: SigmaTelepathyVLA,
        *,
        gradient_checkpointing: bool = False,
        hide_motion: float = 0.0,
        foresight: Foresight | None = None,
    ) -> None:
        super().__init__()
        self.model, self.foresight = model, foresight
        self.hide_motion = hide_motion
        self.gradient_checkpointing = gradient_checkpointing
        self.tau_target = reference_tau(model.config.factor_size)

    def forward(
        self,
        windows: Sequence[Windows],
        previous: Recurrence,
        texts: Sequence[str],
        later: Float[Tensor, "samples spans dof"] | None = None,
    ) -> UnrolledLosses:
        """Unrolls the memory over the windows.

        `texts` are the different task texts of the whole batch, `later` the poses for L_fore.
        """
        candidates = mean_text(*self.model.read_text(list(texts)))
        together = Windows.joined(windows)
        found: list[TelepathyOutput] = []
        for window, believe in zip(windows, self._believers(together, len(windows[0].present)), strict=True):
            found.append(believe(previous))
            previous = where_present(window.present, found[-1].recurrence, previous)
        belief = TelepathyOutput.of(torch.cat(parts) for parts in zip(*(one.tensors for one in found), strict=True))
        terms = action_terms(self.model, belief, together) | {
            "sem": semantic_loss(belief, candidates),
            "int": intent_loss(belief),
            "tau": tau_loss(belief, tau_target=self.tau_target),
        }
        if self.foresight is not None and later is not None:
            terms["fore"] = self.foresight(belief.factors, together.states[:, -1], later)
        return UnrolledLosses(terms=terms, memory=previous.memory, factors=previous.factors)

    def _believers(self, windows: Windows, batch: int) -> Iterator[Callable[[Recurrence], TelepathyOutput]]:
        """For each step of the unrolling what comes of its memory; what needs none is looked at all at once."""
        seen = telepathy_input_of(self.model, windows)
        if self.hide_motion > 0.0 and self.model.training:
            seen = replace(seen, states=without_motion(seen, share=self.hide_motion))
        inputs = [TelepathyInput.of(parts) for parts in _split(seen.tensors, batch)]
        believe: Callable[..., TelepathyOutput] = self.model.believe
        features = None
        if torch.is_grad_enabled():
            if self.gradient_checkpointing:
                return (partial(checkpoint, believe, given, use_reentrant=False) for given in inputs)
            features = self.model.features_of(seen)
        if features is None:
            return (partial(believe, given) for given in inputs)
        looked = (WindowFeatures(*parts) for parts in _split(features, batch))
        return (partial(believe, given, features=one) for given, one in zip(inputs, looked, strict=True))


def _split(tensors: Iterable[Tensor], rows: int) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def action_terms(model: SigmaTelepathyVLA, telepathy_output: TelepathyOutput, window: Windows) -> dict[str, Tensor]:
    """Errors of a fresh chunk that is executed late; of a window with an old base the mean with those of its rest."""
    state = window.states[:, -1]
    fresh = model.correct(telepathy_output, state, window.base)
    terms = action_losses(fresh, window.base, window.target, window.known, window.delay)
    aged = window.age > 0
    if not aged.any():
        return terms
    renewed = model.correct(telepathy_output, state, window.old_base, window.age)
    old = action_losses(renewed, window.old_base, window.target, window.known, torch.zeros_like(window.delay))
    return {name: torch.where(aged, (terms[name] + old[name]) / 2, terms[name]) for name in terms}


def telepathy_input_of(model: SigmaTelepathyVLA, window: Windows) -> TelepathyInput:
    """The telepathy path's view of a batch of windows; each task is read once, padded to the longest."""
    tasks = sorted(set(window.tasks))
    text, text_mask = model.read_text(tasks, padded=False)
    rows = torch.tensor([tasks.index(task) for task in window.tasks], device=text.device)
    return TelepathyInput(
        pooled=window.pooled,
        seen=window.seen,
        states=window.states,
        valid=window.valid,
        text=text[rows],
        text_mask=text_mask[rows],
    )


def without_motion(telepathy_input: TelepathyInput, *, share: float) -> Float[Tensor, "batch ticks dof"]:
    """States where a random share of the windows has the newest pose at all of its valid ticks."""
    states = telepathy_input.states
    hidden = torch.rand(len(states), device=states.device) < share
    still = torch.where(telepathy_input.valid[..., None], states[:, -1:], 0.0)
    return torch.where(hidden[:, None, None], still, states)


def carried(memory: Recurrence, fresh: Sequence[bool]) -> Recurrence:
    """The memory that the next pieces of streams go on with: empty where they are `fresh`."""
    kept = ~torch.tensor(fresh, device=memory.memory.device)
    return Recurrence(memory=memory.memory * kept[:, None], factors=memory.factors * kept[:, None, None])


def where_present(present: Tensor, new: Recurrence, old: Recurrence) -> Recurrence:
    """The new memory where there was a window, the old one elsewhere."""
    return Recurrence(
        memory=torch.where(present[:, None], new.memory, old.memory),
        factors=torch.where(present[:, None, None], new.factors, old.factors),
    )
