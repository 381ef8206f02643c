# SPDX-License-Identifier: Apache-2.0
"""One tick of Sigma as pure functions on its recurrent state: look, then plan.

`advance` only looks (a tick encodes its own frames); `plan` also proposes actions from the newest tick.
Robot, replay and evaluation all go through these two.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from sigma_ros.model.backbone import RealTimeChunking
from sigma_ros.model.sigma import Action, SigmaTelepathyVLA
from sigma_ros.model.state import RecurrentState
from sigma_ros.model.telepathy import Belief, Percepts, Recurrence
from sigma_ros.model.tokens import EncodedTick, Sight, TokenRing


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What came out of a tick, batch of one. `baseline` is the belief without adapters, if it was asked for.

    `committed` is False on a commit tick whose new memory was not finite: then the old one is kept.
    """

    action: Action
    baseline: Belief | None
    committed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What an offline run worked out ahead: ticks by their number, and the base's chunk of the newest one."""

    encoded: Mapping[int, EncodedTick]
    base: Float[Tensor, "1 horizon max_dof"] | None


def initial_state(model: SigmaTelepathyVLA, *, epoch: int, task: str) -> RecurrentState:
    """Nothing seen, nothing remembered."""
    config, device = model.config, model.backbone.device
    start = Recurrence.start(config, batch=1, device=device)
    ring = TokenRing.empty(
        cameras=config.cameras,
        patches=model.backbone.patch_grid**2,
        pooled=config.pooled_grid**2,
        width=config.width,
        dof=config.dof,
        device=device,
    )
    return RecurrentState(epoch=epoch, task=task, memory=start.memory[0], factors=start.factors[0], ring=ring)


def advance(
    model: SigmaTelepathyVLA, state: RecurrentState, ticks: Sequence[int], look: Callable[[int], Sight | EncodedTick]
) -> RecurrentState:
    """The state with its window at `ticks` (oldest first, `tokens.PADDING` for none).

    Args:
        model: Sigma.
        state: Before.
        ticks: Tick of each of the 16 slots.
        look: Gives the sight of a tick, encoded already or not; asked only for ticks that are not in the state yet.
    """
    fresh = {}
    for tick in state.ring.missing(ticks):
        seen = look(tick)
        fresh[tick] = seen if isinstance(seen, EncodedTick) else model.encode(seen)
    return replace(state, ring=state.ring.slide(ticks, fresh))


@torch.no_grad()
def plan(
    model: SigmaTelepathyVLA,
    state: RecurrentState,
    *,
    noise: Float[Tensor, "1 horizon max_dof"],
    commit: bool,
    baseline_diagnostics: bool = False,
    base: Float[Tensor, "1 horizon max_dof"] | None = None,
    **rtc: Unpack[RealTimeChunking],
) -> tuple[Plan, RecurrentState]:
    """Proposes actions for the newest tick of the window; `base` is its base chunk, if that is known already.

    The update of the memory is used at once, whatever `commit` says; only a commit keeps it for later.
    """
    percepts = percepts_of(model, state)
    previous = state.recurrence
    patches = state.ring.patches[None]
    action = model.act(percepts, previous, patches=patches, tasks=[state.task], noise=noise, base=base, **rtc)
    baseline = model.believe(percepts, previous, adapted=False) if baseline_diagnostics else None
    kept, after = _committed(state, action.belief) if commit else (False, state)
    return Plan(action=action, baseline=baseline, committed=kept), after


@torch.no_grad()
def remember(model: SigmaTelepathyVLA, state: RecurrentState) -> tuple[Belief, bool, RecurrentState]:
    """The commit of `plan` without its actions: belief, whether it was kept, and the same state bit for bit."""
    belief = model.believe(percepts_of(model, state), state.recurrence)
    return belief, *_committed(state, belief)


def _committed(state: RecurrentState, belief: Belief) -> tuple[bool, RecurrentState]:
    """The state with a belief's update, and True; the state itself, and False, where the update is not finite."""
    update = belief.recurrence
    if not bool(torch.isfinite(update.memory).all() & torch.isfinite(update.factors).all()):
        return False, state
    return True, state.committed(update)


@torch.no_grad()
def recorrect(model: SigmaTelepathyVLA, state: RecurrentState, base: Float[Tensor, "steps dof"]) -> Action:
    """What Sigma believes now, and its residual on what is left of a normalised base chunk from the newest tick on.

    The chunk had the whole horizon once: what is missing of it says how old it is.
    """
    belief = model.believe(percepts_of(model, state), state.recurrence)
    age = model.config.horizon - len(base)
    whole = torch.cat([base, base[-1:].expand(age, -1)])[None]
    residual = model.correct(belief, state.ring.states[-1:], whole, base.new_tensor([age]))
    kept = replace(residual, composite=residual.composite[:, : len(base)])
    return Action(base=base[None], residual=kept, belief=belief)


def percepts_of(model: SigmaTelepathyVLA, state: RecurrentState) -> Percepts:
    """The state's window and task as the telepathy path takes them, batch of one."""
    text, text_mask = model.read_text([state.task])
    ring = state.ring
    return Percepts(
        pooled=ring.pooled[None],
        seen=ring.seen[None],
        states=ring.states[None],
        valid=ring.valid[None],
        text=text,
        text_mask=text_mask,
    )
