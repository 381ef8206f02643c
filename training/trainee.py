# SPDX-License-Identifier: Apache-2.0
"""One training step's arithmetic: windows and memory in, losses per sample and the next memory out.

A module, so that Accelerate can wrap it for many GPUs; the robot's own `believe` and `correct` do the work.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sigma_ros.model.adapter import reference_tau
from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.telepathy import Belief, Percepts, Recurrence, mean_text

from .losses import action_losses, intent_loss, semantic_loss, tau_loss
from .streams import Windows


class Outcome(NamedTuple):
    """Losses by name, each [windows * batch] in the order of the windows, and the memory behind the last one."""

    terms: dict[str, Float[Tensor, " samples"]]
    memory: Float[Tensor, "batch memory_width"]
    factors: Float[Tensor, "batch factor_count factor_width"]


class SigmaTrainee(nn.Module):
    """Sigma's losses over consecutive windows of several episodes.

    Args:
        model: Trained in place; its base stays frozen.
        gradient_checkpointing: Compute each window's belief again in the backward pass instead of keeping it.
        hide_motion: Share of windows that see the joints as if they had stood still.
    """

    def __init__(
        self, model: SigmaTelepathyVLA, *, gradient_checkpointing: bool = False, hide_motion: float = 0.0
    ) -> None:
        super().__init__()
        self.model = model
        self.hide_motion = hide_motion
        self.gradient_checkpointing = gradient_checkpointing
        self.tau_target = reference_tau(model.config.factor_size)

    def forward(self, windows: Sequence[Windows], previous: Recurrence, texts: Sequence[str]) -> Outcome:
        """Unrolls the memory over the windows; `texts` are the different task texts of the whole batch."""
        candidates = mean_text(*self.model.read_text(list(texts)))
        steps: list[dict[str, Tensor]] = []
        for window in windows:
            belief = self._believe(window, previous)
            previous = _where(window.present, belief.recurrence, previous)
            terms = action_terms(self.model, belief, window)
            terms["sem"] = semantic_loss(belief, candidates)
            terms["int"] = intent_loss(belief)
            terms["tau"] = tau_loss(belief, tau_target=self.tau_target)
            steps.append(terms)
        return Outcome(
            terms={name: torch.cat([terms[name] for terms in steps]) for name in steps[0]},
            memory=previous.memory,
            factors=previous.factors,
        )

    def _believe(self, window: Windows, previous: Recurrence) -> Belief:
        percepts = percepts_of(self.model, window)
        if self.hide_motion > 0.0 and self.model.training:
            percepts = replace(percepts, states=without_motion(percepts, share=self.hide_motion))
        if self.gradient_checkpointing and torch.is_grad_enabled():
            belief: Belief = checkpoint(self.model.believe, percepts, previous, use_reentrant=False)
            return belief
        return self.model.believe(percepts, previous)


def action_terms(model: SigmaTelepathyVLA, belief: Belief, window: Windows) -> dict[str, Tensor]:
    """Errors of a fresh chunk that is executed late, and, where bases get old, of what is left of an old one."""
    state = window.states[:, -1]
    fresh = model.correct(belief, state, window.base)
    terms = action_losses(fresh, window.base, window.target, window.known, window.delay)
    if not window.age.any():
        return terms
    renewed = model.correct(belief, state, window.old_base, window.age)
    old = action_losses(renewed, window.old_base, window.target, window.known, torch.zeros_like(window.delay))
    return {name: (terms[name] + old[name]) / 2 for name in terms}


def percepts_of(model: SigmaTelepathyVLA, window: Windows) -> Percepts:
    """The telepathy path's view of a batch of windows."""
    text, text_mask = model.read_text(window.tasks)
    return Percepts(
        pooled=window.pooled,
        seen=window.seen,
        states=window.states,
        valid=window.valid,
        text=text,
        text_mask=text_mask,
    )


def without_motion(percepts: Percepts, *, share: float) -> Float[Tensor, "batch ticks dof"]:
    """States where a random share of the windows has the newest pose at all of its valid ticks."""
    states = percepts.states
    hidden = torch.rand(len(states), device=states.device) < share
    still = torch.where(percepts.valid[..., None], states[:, -1:], 0.0)
    return torch.where(hidden[:, None, None], still, states)


def _where(present: Tensor, new: Recurrence, old: Recurrence) -> Recurrence:
    """The new memory where there was a window, the old one elsewhere."""
    return Recurrence(
        memory=torch.where(present[:, None], new.memory, old.memory),
        factors=torch.where(present[:, None, None], new.factors, old.factors),
    )
