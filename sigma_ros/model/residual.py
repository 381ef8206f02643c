# SPDX-License-Identifier: Apache-2.0
"""Residual actions on three time scales, in the base's normalised action space, and their sum.

r[h] = late[h] + trajectory[h] + [h < 8] chunk[h] + [h = 0] vector. Trajectory (16 steps) and late (by default the whole
chunk) hold their last step behind the steps they have: an arm that runs late is not handed to the base. The last layer
of each branch starts at zero, so an untrained Sigma equals its base.

With `smoothed_steps` above 1 the residual also takes the trembling out of the chunk: r = S(base + r') - base, where r'
is the sum above and S reads at each step the straight line through the steps around it, weighted by a Gaussian
(Cleveland 1979) that grows with the step, for later ones tremble more. A chunk lies ahead, so nothing is delayed; a
scale of 0 is still the base.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sigma_ros.model.settings import BRANCHES, SigmaConfig
from sigma_ros.model.telepathy import TelepathyOutput, TelepathyPath

_NEIGHBOURS = 2
_BASE_GAIN = 4.0
_WAVES = 10
_AGE_TICKS = 16.0
_GROWN_AT_STEP = 16
"""The late branch sees this many base steps to either side, times a gain; cosines of the step up to this number;
the base's age in units of this many ticks; from this step on the smoothing has its whole width."""

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
        """Correction of the card's trajectory; the adapter judges its size."""
        return self.composite[:, : self.config.trajectory_steps]


class Branch(nn.Module):
    """One scale: `steps` corrections from telepathy output, newest pictures, state and the base's actions.

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
        self,
        telepathy_output: TelepathyOutput,
        state: Float[Tensor, "batch dof"],
        base: Float[Tensor, "batch horizon dof"],
        age_ticks: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch steps dof"]:
        """Normalised corrections; the age of the base is not looked at."""
        del age_ticks
        factors = self.factors(telepathy_output.factors.flatten(1))
        actions = base[:, : self.steps]
        given = torch.cat([state, telepathy_output.glance, actions.flatten(1)], dim=1)
        corrections = self.output(self.hidden(torch.cat([factors, telepathy_output.intent, given], dim=1)))
        moves = actions[:, 1:] - actions[:, :-1]
        trembling = DIFFERENCE_GAIN * (moves[:, 1:] - moves[:, :-1]).flatten(1) if self.steps > 2 else given[:, :0]
        linear = self.direct(torch.cat([given, trembling], dim=1))
        return (corrections + linear).unflatten(1, (self.steps, -1))


class LateBranch(nn.Module):
    """All steps of the chunk by one head that is given the step's index and how many ticks old the base's chunk is.

    What is linear in pictures and state has a path of its own for each of a few slow waves over the steps, what is
    linear in the base's actions around a step another one (arXiv:2509.23224 feeds step and stale base alike).
    """

    waves: Float[Tensor, "steps waves"]

    def __init__(self, config: SigmaConfig, steps: int) -> None:
        super().__init__()
        self.steps = steps
        hidden, near = config.residual_hidden // 2, config.dof * (2 * _NEIGHBOURS + 1)
        given = config.dof + config.glance_size
        self.factors = nn.Linear(config.factor_size, config.intent_width)
        self.context = nn.Sequential(
            nn.Linear(2 * config.intent_width + given, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, hidden),
        )
        self.place = nn.Linear(_WAVES + 2, 2 * hidden)
        self.near = nn.Linear(near, hidden)
        self.mix = nn.Sequential(nn.GELU(), nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU())
        self.output = nn.Linear(hidden, config.dof)
        self.direct = nn.Linear(given, _WAVES * config.dof, bias=False)
        self.direct_near = nn.Linear(near, config.dof, bias=False)
        for parameter in (self.output.weight, self.output.bias, self.direct.weight, self.direct_near.weight):
            nn.init.zeros_(parameter)
        self.register_buffer("waves", waves(config.horizon)[:steps], persistent=False)

    def forward(
        self,
        telepathy_output: TelepathyOutput,
        state: Float[Tensor, "batch dof"],
        base: Float[Tensor, "batch horizon dof"],
        age_ticks: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch steps dof"]:
        """Normalised corrections of the steps from the newest tick on."""
        given = torch.cat([state, telepathy_output.glance], dim=1)
        factors = self.factors(telepathy_output.factors.flatten(1))
        context = self.context(torch.cat([factors, telepathy_output.intent, given], dim=1))[:, None]
        gain, shift = self.place(self._places(age_ticks)).chunk(2, dim=2)
        near = _BASE_GAIN * neighbours(base)[:, : self.steps]
        corrections = self.output(self.mix(context * (1.0 + gain) + shift + self.near(near)))
        slow = self.direct(given).unflatten(1, (_WAVES, -1))
        return corrections + self.waves @ slow + self.direct_near(near)

    def _places(self, age_ticks: Float[Tensor, " batch"]) -> Float[Tensor, "batch steps places"]:
        """Which step of what is left, and how old that is."""
        age = (age_ticks / _AGE_TICKS)[:, None, None].expand(-1, self.steps, 1)
        index = self.waves.expand(len(age_ticks), -1, -1)
        return torch.cat([index, age, age * index[..., 1:2]], dim=2)


def waves(horizon: int) -> Float[Tensor, "horizon waves"]:
    """Cosines over the horizon, slowest first."""
    step = torch.arange(horizon, dtype=torch.float32)[:, None] / horizon
    return torch.cos(math.pi * step * torch.arange(_WAVES))


def neighbours(base: Float[Tensor, "batch horizon dof"]) -> Float[Tensor, "batch horizon near"]:
    """Each step's actions with those of the steps around it; both ends are repeated."""
    ends = [base[:, :1].expand(-1, _NEIGHBOURS, -1), base, base[:, -1:].expand(-1, _NEIGHBOURS, -1)]
    return torch.cat(ends, dim=1).unfold(1, 2 * _NEIGHBOURS + 1, 1).flatten(2)


class ResidualBranches(nn.Module):
    """The branches that are switched on, and the joints they may touch."""

    corrected: Bool[Tensor, " dof"]
    smoothing: Float[Tensor, "horizon horizon"]

    def __init__(self, config: SigmaConfig) -> None:
        super().__init__()
        self.config = config
        kinds = dict.fromkeys(BRANCHES, Branch) | {"late": LateBranch}
        self.branches = nn.ModuleDict({name: kinds[name](config, n) for name, n in config.branch_steps.items()})
        self.register_buffer("corrected", torch.tensor(config.corrected_joints), persistent=False)
        self.register_buffer("smoothing", smoothing(config.horizon, config.smoothed_steps), persistent=False)

    def forward(
        self,
        telepathy_output: TelepathyOutput,
        state: Float[Tensor, "batch dof"],
        base: Float[Tensor, "batch horizon dof"],
        age_ticks: Float[Tensor, " batch"] | None = None,
    ) -> Residual:
        """`state` is the newest, `base` the base's normalised actions from the newest tick on; no gradient goes there.

        `age_ticks`: how long ago the base's chunk was planned; None: just now.
        """
        age = base.new_zeros(len(base)) if age_ticks is None else age_ticks
        steps = self.config.all_branch_steps
        parts = {
            name: self._branch(name, (telepathy_output, state, base, age), steps=count) for name, count in steps.items()
        }
        composite = compose(**parts, horizon=self.config.horizon)
        if self.config.smoothed_steps > 1:
            smooth = self.smoothing @ (base + composite) - base
            composite = torch.where(self.corrected, smooth, composite)
        return Residual(composite=composite, config=self.config)

    def _branch(self, name: str, given: tuple[TelepathyOutput, Tensor, Tensor, Tensor], *, steps: int) -> Tensor:
        if name not in self.branches:
            base = given[2]
            return base.new_zeros(base.shape[0], steps, base.shape[2])
        return torch.where(self.corrected, self.branches[name](*given), 0.0)


def compose(
    *,
    vector: Float[Tensor, "batch 1 dof"],
    chunk: Float[Tensor, "batch chunk_steps dof"],
    trajectory: Float[Tensor, "batch trajectory_steps dof"],
    late: Float[Tensor, "batch residual_steps dof"],
    horizon: int,
) -> Float[Tensor, "batch horizon dof"]:
    """The sum of all parts over the horizon: trajectory and late hold their last step, vector and chunk just end."""
    whole = _held(trajectory, horizon) + _held(late, horizon)
    whole = whole + nn.functional.pad(chunk, (0, 0, 0, horizon - chunk.shape[1]))
    return whole + nn.functional.pad(vector, (0, 0, 0, horizon - 1))


def _held(steps: Float[Tensor, "batch steps dof"], horizon: int) -> Float[Tensor, "batch horizon dof"]:
    behind = horizon - steps.shape[1]
    return torch.cat([steps, steps[:, -1:].expand(-1, behind, -1)], dim=1) if behind else steps


def smoothing(horizon: int, steps: int) -> Float[Tensor, "horizon horizon"]:
    """S of the module's head: three standard deviations of its Gaussian are 0 at step 0 and `steps` in the end."""
    if steps == 1:
        return torch.eye(horizon)
    step = torch.arange(horizon, dtype=torch.float64)
    width = steps / 3 * (step / _GROWN_AT_STEP).clamp(1e-3, 1.0)
    away = step - step[:, None]
    weights = torch.exp(-0.5 * (away / width[:, None]).square())
    mean, spread = ((weights * away**power).sum(dim=1, keepdim=True) for power in (1, 2))
    line = weights * (spread - mean * away)
    alone = spread < 1e-6
    return torch.where(alone, torch.eye(horizon, dtype=torch.float64), line / line.sum(dim=1, keepdim=True)).float()


def head_parameters(config: SigmaConfig) -> int:
    """Trained numbers outside the adapters; counted without allocating them."""
    with torch.device("meta"):
        heads = [TelepathyPath(config), ResidualBranches(config)]
    return sum(parameter.numel() for head in heads for parameter in head.parameters())
