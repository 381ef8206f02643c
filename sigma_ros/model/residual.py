# SPDX-License-Identifier: Apache-2.0
"""Residual actions on three time scales, in the base's normalised action space, and their sum.

r[h] = trajectory[h] + [h < 8] chunk[h] + [h = 0] vector, faded to zero behind the trajectory. The last
layer of each branch starts at zero, so an untrained Sigma equals its base.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.telepathy import Belief, TelepathyPath

DIFFERENCE_GAIN = 4.0
"""Brings the second differences of a trembling chunk (about 1/20 in normalised actions) nearer to its actions' size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """What is added to the base's normalised actions, over its whole horizon.

    `vector`, `chunk` and `trajectory` are the first 1, 8 and 16 steps of it: what belongs to the card's
    actions of these names.
    """

    composite: Float[Tensor, "batch horizon dof"]
    config: SigmaConfig

    @property
    def vector(self) -> Float[Tensor, "batch dof"]:
        """Correction of the first step."""
        return self.composite[:, 0]

    @property
    def chunk(self) -> Float[Tensor, "batch chunk_steps dof"]:
        """Correction of the short horizon."""
        return self.composite[:, : self.config.chunk_steps]

    @property
    def trajectory(self) -> Float[Tensor, "batch trajectory_steps dof"]:
        """Correction of the full trained horizon; the adapter judges its size."""
        return self.composite[:, : self.config.trajectory_steps]


class Branch(nn.Module):
    """One scale: `steps` corrections from belief, newest pictures and state, and the base's actions of that scale.

    What is linear in pictures, state and actions has a path of its own: where things lie, offsets and gains, and
    trembling from step to step, for which it also reads the actions' second differences.
    """

    def __init__(self, config: SigmaConfig, steps: int) -> None:
        super().__init__()
        self.steps = steps
        hidden = config.residual_hidden
        self.factors = nn.Linear(config.factor_size, config.intent_width)
        given = config.dof * (1 + steps) + config.glance_size
        inputs = 2 * config.intent_width + given
        self.hidden = nn.Sequential(
            nn.Linear(inputs, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU()
        )
        self.output = nn.Linear(hidden, steps * config.dof)
        differences = config.dof * max(0, steps - 2)
        self.direct = nn.Linear(given + differences, steps * config.dof, bias=False)
        for parameter in (self.output.weight, self.output.bias, self.direct.weight):
            nn.init.zeros_(parameter)

    def forward(
        self, belief: Belief, state: Float[Tensor, "batch dof"], base: Float[Tensor, "batch horizon dof"]
    ) -> Float[Tensor, "batch steps dof"]:
        """Normalised corrections."""
        factors = self.factors(belief.factors.flatten(1))
        actions = base[:, : self.steps]
        given = torch.cat([state, belief.glance, actions.flatten(1)], dim=1)
        corrections = self.output(self.hidden(torch.cat([factors, belief.intent, given], dim=1)))
        trembling = DIFFERENCE_GAIN * actions.diff(n=2, dim=1).flatten(1) if self.steps > 2 else given[:, :0]
        linear = self.direct(torch.cat([given, trembling], dim=1))
        return (corrections + linear).unflatten(1, (self.steps, -1))


class ResidualBranches(nn.Module):
    """The branches that are switched on, and the joints they may touch."""

    corrected: Bool[Tensor, " dof"]

    def __init__(self, config: SigmaConfig) -> None:
        super().__init__()
        self.config = config
        self.branches = nn.ModuleDict({name: Branch(config, steps) for name, steps in config.branch_steps.items()})
        self.register_buffer("corrected", torch.tensor(config.corrected_joints), persistent=False)

    def forward(
        self, belief: Belief, state: Float[Tensor, "batch dof"], base: Float[Tensor, "batch horizon dof"]
    ) -> Residual:
        """`state` is the newest, `base` the base's normalised actions; neither gets a gradient of its own."""
        steps = {"vector": 1, "chunk": self.config.chunk_steps, "trajectory": self.config.trajectory_steps}
        parts = {name: self._branch(name, count, belief, state, base) for name, count in steps.items()}
        composite = compose(**parts, horizon=self.config.horizon, fade_steps=self.config.fade_steps)
        return Residual(composite=composite, config=self.config)

    def _branch(self, name: str, steps: int, belief: Belief, state: Tensor, base: Tensor) -> Tensor:
        if name not in self.branches:
            return base.new_zeros(base.shape[0], steps, base.shape[2])
        return torch.where(self.corrected, self.branches[name](belief, state, base), 0.0)


def compose(
    *,
    vector: Float[Tensor, "batch 1 dof"],
    chunk: Float[Tensor, "batch chunk_steps dof"],
    trajectory: Float[Tensor, "batch trajectory_steps dof"],
    horizon: int,
    fade_steps: int,
) -> Float[Tensor, "batch horizon dof"]:
    """The sum of the three scales over the horizon; behind the trajectory its last step fades out linearly."""
    batch, steps, dof = trajectory.shape
    fade = torch.arange(fade_steps, 0, -1, device=trajectory.device, dtype=trajectory.dtype) / (fade_steps + 1)
    tail = trajectory[:, -1:] * fade[None, :, None]
    rest = trajectory.new_zeros(batch, max(0, horizon - steps - fade_steps), dof)
    whole = torch.cat([trajectory, tail, rest], dim=1)[:, :horizon]
    whole = whole + nn.functional.pad(chunk, (0, 0, 0, horizon - chunk.shape[1]))
    return whole + nn.functional.pad(vector, (0, 0, 0, horizon - 1))


def head_parameters(config: SigmaConfig) -> int:
    """Trained numbers outside the adapters; counted without allocating them."""
    with torch.device("meta"):
        heads = [TelepathyPath(config), ResidualBranches(config)]
    return sum(parameter.numel() for head in heads for parameter in head.parameters())
