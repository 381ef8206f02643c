# SPDX-License-Identifier: Apache-2.0
"""The frozen base of storey A: a small policy that sees the newest scene and joints, and neither text nor history.

It learns to pick, place and press from the task's demonstrations. Whatever must be remembered or read is not in what
it sees, so every choice that is better than chance is the residual's.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from sigma_ros.model.normalise import Normalisation
from sigma_ros.sim.tasks.world import TOKENS

from ..data import write_tensors
from ..sources import TARGET_STEPS
from .episodes import NOISE, SEEN, TaskRows, as_seen_from_the_arm

_WIDTH, _BATCH, _RATE = 256, 256, 1e-3
_BRICKS, _BOXES, _KIND_AND_COLOUR = slice(0, 2), slice(2, 4), slice(1, 8)
_BESIDE = slice(12, 15)
"""Rows, and columns of `as_seen_from_the_arm`."""

REPLAN_TICKS = 8
"""How much of a chunk is executed."""


def without_names(rows: Float[Tensor, "batch tokens seen"]) -> Float[Tensor, "batch tokens unnamed"]:
    """The nearer brick and the nearer box first, no kinds and colours: the base cannot know which one is meant."""
    unnamed = torch.cat([rows[..., : _KIND_AND_COLOUR.start], rows[..., _KIND_AND_COLOUR.stop :]], dim=-1)
    far = rows[..., _BESIDE].norm(dim=-1)
    pairs = [
        torch.take_along_dim(unnamed[:, pair], far[:, pair].argsort(dim=1)[..., None], dim=1)
        for pair in (_BRICKS, _BOXES)
    ]
    return torch.cat([*pairs, unnamed[:, _BOXES.stop :]], dim=1)


class BasePolicy(nn.Module):
    """Scene tokens and joints of one tick to a chunk of commands, all normalised."""

    def __init__(self, dof: int) -> None:
        super().__init__()
        self.dof = dof
        self.layers = nn.Sequential(
            nn.Linear(TOKENS * (SEEN - 7) + dof, _WIDTH),
            nn.GELU(),
            nn.LayerNorm(_WIDTH),
            nn.Linear(_WIDTH, _WIDTH),
            nn.GELU(),
            nn.Linear(_WIDTH, TARGET_STEPS * dof),
        )

    def forward(
        self, features: Float[Tensor, "batch tokens features"], state: Float[Tensor, "batch dof"]
    ) -> Float[Tensor, "batch steps dof"]:
        """The commands of the next `TARGET_STEPS` ticks."""
        moves = self.layers(torch.cat([without_names(as_seen_from_the_arm(features)).flatten(1), state], dim=1))
        return state[:, None] + moves.unflatten(1, (TARGET_STEPS, -1))

    @torch.no_grad()
    def chunk(
        self, features: Float[Tensor, "batch tokens features"], state: Float[Tensor, "batch dof"], horizon: int
    ) -> Float[Tensor, "batch horizon dof"]:
        """The same over a longer horizon; its end repeats the last step."""
        steps = self(features, state)
        return torch.cat([steps, steps[:, -1:].expand(-1, horizon - steps.shape[1], -1)], dim=1)


def trained_base(
    path: Path, rows: Sequence[TaskRows], normalisation: Normalisation, *, steps: int, seed: int = 0
) -> BasePolicy:
    """The base of a task, from its file or trained now by behaviour cloning."""
    policy = BasePolicy(rows[0].states.shape[1])
    if path.is_file():
        policy.load_state_dict(load_file(path))
        return policy.eval().requires_grad_(requires_grad=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = BasePolicy(rows[0].states.shape[1])
        _clone(policy, *_samples(rows, normalisation), steps=steps)
    write_tensors(path, policy.state_dict())
    return policy.eval().requires_grad_(requires_grad=False)


def _samples(rows: Sequence[TaskRows], normalisation: Normalisation) -> tuple[Tensor, Tensor, Tensor]:
    features, states, targets = [], [], []
    for row in rows:
        actions = torch.from_numpy(normalisation.action.normalise(row.actions))
        known = torch.from_numpy(row.acted).unfold(0, TARGET_STEPS, 1).all(dim=1)
        features.append(row.features[: len(known)][known])
        states.append(torch.from_numpy(normalisation.state.normalise(row.states))[: len(known)][known])
        targets.append(actions.unfold(0, TARGET_STEPS, 1).transpose(1, 2)[known])
    return torch.cat(features), torch.cat(states), torch.cat(targets)


def _clone(policy: BasePolicy, features: Tensor, states: Tensor, targets: Tensor, *, steps: int) -> None:
    optimizer = torch.optim.AdamW(policy.parameters(), _RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(states), (_BATCH,))
        seen = features[chosen] + NOISE * torch.randn_like(features[chosen]) * (features[chosen] != 0.0)
        state = states[chosen]
        moves = targets[chosen] - state[:, None]
        known = state + NOISE * torch.randn_like(state)
        loss = (policy(seen, known) - known[:, None] - moves).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
