# SPDX-License-Identifier: Apache-2.0
"""Storey A's closed loop: many arms of one task side by side, one batch through the policy at each planning tick.

Schedule, window, memory and chunk are the robot's; the whole residual is added to the base, there is no latency and no
supervisor. What is decided here is what a part is worth, not whether the arm is safe.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32
from numpy import ndarray
from torch import Tensor

from sigma_ros.model.normalise import Normalisation
from sigma_ros.model.telepathy import Recurrence, TelepathyInput, TelepathyOutput
from sigma_ros.policy.schedule import Schedule
from sigma_ros.sim.demonstration import tick_s
from sigma_ros.sim.tasks.catalogue import chosen_option, draw, succeeded, told, twin
from sigma_ros.sim.tasks.task import Task, TaskEpisode
from sigma_ros.sim.tasks.world import TaskArm
from sigma_ros.values import WINDOW_TICKS

from ..losses import where_present
from .arms import Arm, Intervention
from .base import REPLAN_TICKS, BasePolicy
from .episodes import encode
from .model import BedSigma


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeOutcome:
    """One episode: the right option, the one chosen (None: nothing was placed or pressed), and success.

    `other` is the option that the intervention speaks for: the twin's goal, whose memory or text was put in.
    """

    seed: int
    goal: int
    other: int
    chosen: int | None
    success: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What acts: a frozen base, and a trained model or None for the base alone."""

    base: BasePolicy
    model: BedSigma | None
    normalisation: Normalisation


class Stage:
    """Simulated arms that are kept from one round of episodes to the next."""

    def __init__(self, count: int) -> None:
        self.arms = tuple(TaskArm() for _ in range(count))

    def play(
        self, policy: Policy, arm: Arm, task: Task, seeds: Sequence[int], *, intervention: Intervention = ""
    ) -> list[EpisodeOutcome]:
        """Runs an episode of each seed to its time limit."""
        outcomes: list[EpisodeOutcome] = []
        for first in range(0, len(seeds), len(self.arms)):
            some = [draw(task, seed, test=True) for seed in seeds[first : first + len(self.arms)]]
            outcomes += self._play(policy, arm, some, intervention)
        return outcomes

    def _play(
        self, policy: Policy, arm: Arm, episodes: list[TaskEpisode], intervention: Intervention
    ) -> list[EpisodeOutcome]:
        twins = [twin(episode) for episode in episodes]
        shown = [told(episode) for episode in episodes] if arm.told else episodes
        put_in: Recurrence | None = None
        if intervention == "swap":
            put_in = _Round(policy, self.arms, twins).until_choice()
        elif intervention == "reset":
            assert policy.model is not None
            put_in = Recurrence.start(policy.model.config, batch=len(episodes))
        elif intervention == "other text":
            shown = [replace(one, text=other.text) for one, other in zip(shown, twins, strict=True)]
        arms = _Round(policy, self.arms, shown, put_in=put_in).to_the_end()
        return [
            EpisodeOutcome(
                seed=episode.seed,
                goal=episode.goal,
                other=other.goal,
                chosen=chosen_option(episode.task, one.events),
                success=succeeded(episode, one.events),
            )
            for episode, other, one in zip(episodes, twins, arms, strict=True)
        ]


class _Round:
    """Episodes of one task in step with each other; `put_in` replaces the memory committed at each one's choice."""

    def __init__(
        self,
        policy: Policy,
        arms: Sequence[TaskArm],
        episodes: Sequence[TaskEpisode],
        *,
        put_in: Recurrence | None = None,
    ) -> None:
        self._policy, self._episodes, self._put_in = policy, episodes, put_in
        self._arms = tuple(arms[: len(episodes)])
        self._contract = self._arms[0].contract
        model = policy.model
        stride = WINDOW_TICKS if model is None else model.config.memory_stride
        self._schedule = Schedule(REPLAN_TICKS, stride)
        self._choice_ticks = [self._commit_after(episode.choice_s) for episode in episodes]
        self._memory = None if model is None else Recurrence.start(model.config, batch=len(episodes))
        self._kept = self._memory
        self._tokens: list[Float32[ndarray, "batch tokens features"]] = []
        self._states: list[Float32[ndarray, "batch dof"]] = []
        self._chunk = torch.zeros(0)

    def to_the_end(self) -> tuple[TaskArm, ...]:
        """Runs to the task's time limit; returns the arms with what happened."""
        self._run(round(self._episodes[0].task.limit_s * self._contract.fps))
        return self._arms

    def until_choice(self) -> Recurrence | None:
        """Runs until every episode has come to its choice; returns the memories of these moments."""
        self._run(max(self._choice_ticks) + 1)
        return self._kept

    def _commit_after(self, time_s: float) -> int:
        tick = int(np.ceil(time_s * self._contract.fps))
        return next(t for t in range(tick, tick + self._schedule.memory_stride) if self._schedule.commits(t))

    @torch.no_grad()
    def _run(self, ticks: int) -> None:
        for arm, episode in zip(self._arms, self._episodes, strict=True):
            arm.begin(episode)
        for tick in range(ticks):
            self._look()
            if self._schedule.plans(tick) or self._schedule.commits(tick):
                self._think(tick)
            commands = self._policy.normalisation.action.denormalise(
                self._chunk[:, tick % REPLAN_TICKS].numpy().astype(np.float64)
            )
            for arm, command in zip(self._arms, commands, strict=True):
                arm.step(command, tick_s(self._contract, tick))

    def _look(self) -> None:
        for arm in self._arms:
            arm.look_around()
        self._tokens = [*self._tokens, np.stack([arm.tokens() for arm in self._arms])][-WINDOW_TICKS:]
        readings = np.stack([arm.positions_rad() for arm in self._arms]).astype(np.float32)
        self._states = [*self._states, self._policy.normalisation.state.normalise(readings)][-WINDOW_TICKS:]

    def _think(self, tick: int) -> None:
        features, state = torch.from_numpy(self._tokens[-1]), torch.from_numpy(self._states[-1])
        model, before = self._policy.model, self._memory
        if model is None or before is None:
            self._chunk = self._policy.base.chunk(features, state, REPLAN_TICKS * 2)
            return
        base = self._policy.base.chunk(features, state, model.config.horizon)
        telepathy_output: TelepathyOutput = model.believe(self._telepathy_input(model), before)
        self._chunk = base + model.correct(telepathy_output, state, base).composite
        if self._schedule.commits(tick):
            self._kept = self._chosen(tick, telepathy_output.recurrence, self._kept)
            self._memory = telepathy_output.recurrence
            if self._put_in is not None:
                self._memory = self._chosen(tick, self._put_in, self._memory)

    def _chosen(self, tick: int, new: Recurrence, old: Recurrence | None) -> Recurrence:
        """The new memory for the episodes that come to their choice at this tick."""
        assert old is not None
        now = torch.tensor([choice == tick for choice in self._choice_ticks])
        return where_present(now, new, old)

    def _telepathy_input(self, model: BedSigma) -> TelepathyInput:
        text, text_mask = model.read_text([episode.text for episode in self._episodes])
        held, batch = len(self._tokens), len(self._arms)
        room = WINDOW_TICKS - held
        pooled = encode(torch.from_numpy(np.stack(self._tokens, axis=1)), model.config.width)
        states = torch.from_numpy(np.stack(self._states, axis=1))
        valid = torch.arange(WINDOW_TICKS).expand(batch, -1) >= room
        return TelepathyInput(
            pooled=_padded(pooled, room),
            seen=valid[..., None],
            states=_padded(states, room),
            valid=valid,
            text=text,
            text_mask=text_mask,
        )


def _padded(values: Tensor, room: int) -> Tensor:
    """Zeros for the ticks before the episode began."""
    return torch.cat([values.new_zeros(len(values), room, *values.shape[2:]), values], dim=1)
