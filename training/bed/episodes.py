# SPDX-License-Identifier: Apache-2.0
"""Demonstrations of a task as training reads them: made once, kept as one file, in the form of cached episodes."""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from numpy import ndarray
from safetensors.torch import load_file
from torch import Tensor

from sigma_ros.errors import SigmaError
from sigma_ros.model.normalise import Normalisation, Scaling
from sigma_ros.sim.tasks.catalogue import draw, told
from sigma_ros.sim.tasks.demonstration import Lead, Leader, TaskDemonstration, demonstrate_task
from sigma_ros.sim.tasks.task import Task
from sigma_ros.sim.tasks.world import PAN_AXIS_M, TaskArm

from ..data import write_tensors
from ..loop import counted_progress
from ..sources import TARGET_STEPS

DISTURBANCE_RAD = 0.05
"""How far demonstrations are pushed off their path at most, so that a policy learns to come back."""

NOISE = 0.02
"""Added to what base and arms see in training (2.5 mm, 1 % of a joint's range): without, they stop above the brick."""

LED_S = 5.7
"""How long after the moment of choice a leader acts at most [s]."""

_FIELDS = ("tokens", "positions_rad", "commands_rad", "led")
_LEAD_SEED = 6
_ENCODER_SEED = 18
_PAN_X, _NEAR_GAIN = (PAN_AXIS_M[0] - 0.2) * 8.0, 4.0

SEEN = 20
"""Numbers of one scene token as seen from the arm."""


def as_seen_from_the_arm(features: Float[Tensor, "*batch tokens features"]) -> Float[Tensor, "*batch tokens seen"]:
    """The same scene around the pan axis and from the hand: what an arm's movements depend on.

    There; kind (4); colour (3); held; distance from the pan axis, twice the azimuth, height (3); the same less the
    hand's (3), and once more four times as large and squashed (3); cosine and sine of twice the turn from the azimuth.
    """
    there, named, place, held = (features[..., columns] for columns in (_THERE, _NAMED, _PLACE, _HELD))
    x, y, z = place.unbind(dim=-1)
    azimuth = torch.atan2(y, x - _PAN_X)
    polar = torch.stack([torch.hypot(x - _PAN_X, y), 2.0 * azimuth, z], dim=-1)
    beside = polar - polar[..., -1:, :]
    turned = torch.polar(torch.ones_like(azimuth), -2.0 * azimuth) * torch.complex(features[..., 12], features[..., 13])
    rows = [there, named, held, polar, beside, torch.tanh(_NEAR_GAIN * beside), torch.view_as_real(turned)]
    return there * torch.cat(rows, dim=-1)


_THERE, _NAMED, _PLACE, _HELD = slice(0, 1), slice(1, 8), slice(8, 11), slice(11, 12)
"""Columns of `TaskArm.tokens`."""


@lru_cache
def encoder(width: int) -> Float[Tensor, "seen width"]:
    """The token encoder in the place of a vision tower: a fixed random map, never trained, the same in every run.

    Its rows are orthonormal where the width allows, times the square root of the width: a number of size 1 in a scene
    token becomes a token of unit root mean square.
    """
    generator = torch.Generator().manual_seed(_ENCODER_SEED)
    square = torch.randn(max(width, SEEN), max(width, SEEN), generator=generator)
    return torch.linalg.qr(square).Q[:SEEN, :width] * width**0.5


def encode(features: Float[Tensor, "*batch tokens features"], width: int) -> Float[Tensor, "*batch 1 tokens width"]:
    """Scene tokens as the pooled image tokens of one camera."""
    return (as_seen_from_the_arm(features) @ encoder(width)).unsqueeze(-3)


@dataclass(frozen=True)
class TaskRows:
    """One demonstration's numbers under the names that `training.streams.Assembler` reads.

    Where it is not `acted`, another policy led: seen and remembered, but no command to learn.
    """

    task: str
    episode: int
    states: Float32[ndarray, "ticks dof"]
    actions: Float32[ndarray, "ticks dof"]
    features: Float32[Tensor, "ticks tokens features"]
    acted: Bool[ndarray, " ticks"]

    @cached_property
    def valid(self) -> Bool[ndarray, " ticks"]:
        """Every tick is there."""
        return np.ones(len(self.states), dtype=bool)

    @property
    def corrected(self) -> Bool[ndarray, " ticks"]:
        """No operator acts in a demonstration."""
        return np.zeros(len(self.states), dtype=bool)


@dataclass(frozen=True)
class BedEpisode:
    """A demonstration as `training.cache.CachedEpisode`: frame tokens, and the frozen base's chunks of every tick."""

    episode: TaskRows
    tokens: Float32[Tensor, "ticks cameras pooled width"]
    chunks: Float32[Tensor, "ticks horizon dof"]

    @property
    def rows(self) -> tuple[int, ...]:
        """Ticks that may be windows: those with all their target actions."""
        return tuple(range(len(self.episode.states) - TARGET_STEPS + 1))

    @property
    def seen(self) -> Bool[Tensor, " cameras"]:
        """There is one camera."""
        return torch.ones(1, dtype=torch.bool)

    def pooled(self, start: int, stop: int) -> Float[Tensor, "ticks cameras pooled width"]:
        """Tokens of the ticks [start, stop)."""
        return self.tokens[start:stop]

    def base(self, row: int) -> Float[Tensor, "horizon dof"]:
        """The base's normalised chunk at a tick."""
        return self.chunks[row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstrations:
    """What one task is trained on."""

    rows: tuple[TaskRows, ...]
    oracle: tuple[str, ...]

    @classmethod
    def open(
        cls,
        folder: Path,
        task: Task,
        *,
        first_seed: int,
        count: int,
        leader: Leader | None = None,
        any_option: bool = False,
    ) -> Self:
        """Reads the task's demonstrations, making them first if they are not there.

        Args:
            folder: Where they are kept.
            task: Its episodes of consecutive seeds are demonstrated.
            first_seed: The first of them.
            count: How many seeds are tried; failed demonstrations are left out.
            leader: Acts for a random time before the expert; however few can then be made good, they are kept.
            any_option: As in `demonstrate_task`.
        """
        path = folder / f"{task.name}_{first_seed}_{count}.safetensors"
        if not path.is_file():
            write_tensors(path, _record(task, first_seed, count, leader, any_option=any_option))
        stored = load_file(path)
        rows, oracle = [], []
        for number, (seed, goal) in enumerate(zip(stored["seeds"].tolist(), stored["goals"].tolist(), strict=True)):
            episode = draw(task, seed, goal=goal)
            tokens, positions, commands, led = (stored[f"{name}.{seed}"] for name in _FIELDS)
            rows.append(TaskRows(episode.text, number, positions.numpy(), commands.numpy(), tokens, ~led.numpy()))
            oracle.append(told(episode).text)
        return cls(rows=tuple(rows), oracle=tuple(oracle))

    def and_those(self, others: "Demonstrations") -> "Demonstrations":
        """Both."""
        return replace(self, rows=self.rows + others.rows, oracle=self.oracle + others.oracle)

    def with_texts(self, texts: tuple[str, ...]) -> "Demonstrations":
        """The same with other texts, one per demonstration."""
        told_rows = tuple(replace(row, task=text) for row, text in zip(self.rows, texts, strict=True))
        return replace(self, rows=told_rows)

    @property
    def normalisation(self) -> Normalisation:
        """One map for states and commands, so that a command minus a state is a movement."""
        values = np.concatenate([row.actions for row in self.rows]).astype(np.float64)
        low, high = np.quantile(values, [0.01, 0.99], axis=0)
        span = Scaling.quantiles(low, np.maximum(high, low + 0.05))
        return Normalisation(state=span, action=span)


def _record(task: Task, first_seed: int, count: int, leader: Leader | None, *, any_option: bool) -> dict[str, Tensor]:
    arm, made = TaskArm(), {}
    with counted_progress() as progress:
        for seed in progress.track(range(first_seed, first_seed + count), description=f"demonstrations of {task.name}"):
            lead = None if leader is None else Lead(leader=leader, lasts_s=_lead_s(task, seed))
            demonstration = _one(arm, task, seed, lead, any_option=any_option)
            if demonstration is not None and demonstration.success:
                made[seed] = demonstration
    if leader is None and len(made) < count / 4:
        raise SigmaError(
            "the expert fails at its own task", where=task.name, expected=f"{count}", got=f"{len(made)} successes"
        )
    tensors = {f"{name}.{seed}": torch.tensor(getattr(one, name)) for seed, one in made.items() for name in _FIELDS}
    goals = torch.tensor([one.episode.goal for one in made.values()])
    return {**tensors, "seeds": torch.tensor(list(made)), "goals": goals}


def _lead_s(task: Task, seed: int) -> float:
    return float(np.random.default_rng([seed, _LEAD_SEED]).uniform(0.0, draw(task, seed).choice_s + LED_S))


def _one(arm: TaskArm, task: Task, seed: int, lead: Lead | None, *, any_option: bool) -> TaskDemonstration | None:
    try:
        return demonstrate_task(
            arm, draw(task, seed), disturbance_rad=DISTURBANCE_RAD, lead=lead, any_option=any_option
        )
    except SigmaError:
        return None
