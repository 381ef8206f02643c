# SPDX-License-Identifier: Apache-2.0
"""Storey A's closed loop: many arms of one task side by side, one batch through the policy at each planning tick.

Schedule, window, memory and chunk are the robot's; the whole residual is added to the base, there is no latency and no
supervisor. What is decided here is what a part is worth, not whether the arm is safe.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from numpy import ndarray
from torch import Tensor

from sigma_ros.model.normalise import Normalisation
from sigma_ros.model.telepathy import Recurrence, TelepathyInput, TelepathyOutput
from sigma_ros.policy.schedule import Schedule
from sigma_ros.sim.demonstration import tick_s
from sigma_ros.sim.tasks.catalogue import chosen_option, draw, succeeded, told, twin
from sigma_ros.sim.tasks.demonstration import Leader, Led
from sigma_ros.sim.tasks.interventions import Intervention, choice_tick
from sigma_ros.sim.tasks.task import Task, TaskEpisode
from sigma_ros.sim.tasks.world import TaskArm
from sigma_ros.values import WINDOW_TICKS

from ..losses import where_present
from .arms import Arm
from .base import REPLAN_TICKS, BasePolicy
from .episodes import encode
from .model import BedSigma

_PUSH_SEED, _PUSHED_BY, _PUSH_CHANGES = 11, 0.3, 0.2
"""A push: at most so much of half the joint's range, another one or none in this share of the chunks."""


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
            other = self._actor(policy, twins)
            self._run(twins, other, max(other.choice_ticks) + 1)
            put_in = other.kept
        elif intervention == "reset":
            assert policy.model is not None
            put_in = Recurrence.start(policy.model.config, batch=len(episodes))
        elif intervention == "other text":
            shown = [replace(one, text=its.text) for one, its in zip(shown, twins, strict=True)]
        self._run(shown, self._actor(policy, shown, put_in), round(episodes[0].task.limit_s * self._fps))
        return [
            EpisodeOutcome(
                seed=episode.seed,
                goal=episode.goal,
                other=its.goal,
                chosen=chosen_option(episode.task, one.events),
                success=succeeded(episode, one.events),
            )
            for episode, its, one in zip(episodes, twins, self.arms, strict=False)
        ]

    @property
    def _fps(self) -> float:
        return self.arms[0].contract.fps

    def _actor(self, policy: Policy, episodes: Sequence[TaskEpisode], put_in: Recurrence | None = None) -> "Actor":
        return Actor(policy, episodes, fps=self._fps, put_in=put_in)

    def _run(self, episodes: Sequence[TaskEpisode], actor: "Actor", ticks: int) -> None:
        arms = self.arms[: len(episodes)]
        for arm, episode in zip(arms, episodes, strict=True):
            arm.begin(episode)
        for tick in range(ticks):
            for arm in arms:
                arm.look_around()
            commands = actor.act(np.stack([a.tokens() for a in arms]), np.stack([a.positions_rad() for a in arms]))
            for arm, command in zip(arms, commands, strict=True):
                arm.step(command, tick_s(arm.contract, tick))


class Actor:
    """A policy as it acts on arms of one task in step with each other: schedule, window, memory and chunk.

    `put_in` replaces the memory committed at each one's choice.
    """

    def __init__(
        self,
        policy: Policy,
        episodes: Sequence[TaskEpisode],
        *,
        fps: float,
        put_in: Recurrence | None = None,
        push: "SidePush | None" = None,
    ) -> None:
        self._policy, self._put_in, self._push = policy, put_in, push
        self._texts = [episode.text for episode in episodes]
        model = policy.model
        stride = WINDOW_TICKS if model is None else model.config.memory_stride
        self._schedule = Schedule(REPLAN_TICKS, stride)
        self.choice_ticks = [choice_tick(episode, self._schedule, fps=fps) for episode in episodes]
        self._memory = None if model is None else Recurrence.start(model.config, batch=len(episodes))
        self.kept = self._memory
        self._tick = 0
        self._tokens: list[Float32[ndarray, "batch tokens features"]] = []
        self._states: list[Float32[ndarray, "batch dof"]] = []
        self._chunk = torch.zeros(0)

    @torch.no_grad()
    def act(
        self, tokens: Float32[ndarray, "batch tokens features"], positions_rad: Float64[ndarray, "batch dof"]
    ) -> Float64[ndarray, "batch dof"]:
        """The commands of the next tick [rad]; called once a tick. `kept` has the memories of the choices so far."""
        normalisation = self._policy.normalisation
        state = normalisation.state.normalise(positions_rad.astype(np.float32))
        self._tokens = [*self._tokens, tokens][-WINDOW_TICKS:]
        self._states = [*self._states, state][-WINDOW_TICKS:]
        if self._schedule.plans(self._tick) or self._schedule.commits(self._tick):
            self._think(self._tick)
            if self._push is not None and self._schedule.plans(self._tick):
                self._chunk = self._chunk + self._push.next()
        command = self._chunk[:, self._tick % REPLAN_TICKS].numpy().astype(np.float64)
        self._tick += 1
        return normalisation.action.denormalise(command)

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
            self.kept = self._chosen(tick, telepathy_output.recurrence, self.kept)
            self._memory = telepathy_output.recurrence
            if self._put_in is not None:
                self._memory = self._chosen(tick, self._put_in, self._memory)

    def _chosen(self, tick: int, new: Recurrence, old: Recurrence | None) -> Recurrence:
        """The new memory for the episodes that come to their choice at this tick."""
        assert old is not None
        now = torch.tensor([choice == tick for choice in self.choice_ticks])
        return where_present(now, new, old)

    def _telepathy_input(self, model: BedSigma) -> TelepathyInput:
        text, text_mask = model.read_text(self._texts)
        held, batch = len(self._tokens), len(self._texts)
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


class SidePush:
    """Pushes one joint now and then, as a residual's choice does to a base, in the policy's normalised actions."""

    def __init__(self, seed: int, *, joint: int, dof: int) -> None:
        self._rng, self._joint = np.random.default_rng([seed, _PUSH_SEED]), joint
        self._push = torch.zeros(dof)

    def next(self) -> Float[Tensor, " dof"]:
        """The push of the next chunk: mostly that of the last one, else another one or none."""
        if self._rng.uniform() < _PUSH_CHANGES:
            self._push[self._joint] = self._rng.uniform(-1.0, 1.0) * _PUSHED_BY * self._rng.integers(2)
        return self._push


def leading(policy: Policy, *, fps: float, tells: bool = False, pushed: int | None = None) -> Leader:
    """The policy as one who leads the expert to where it comes itself.

    `tells`: the text names the goal. `pushed`: the joint that a `SidePush` pushes.
    """

    def begin(episode: TaskEpisode) -> Led:
        push = None if pushed is None else SidePush(episode.seed, joint=pushed, dof=policy.base.dof)
        actor = Actor(policy, [told(episode) if tells else episode], fps=fps, push=push)
        return lambda tokens, positions_rad: actor.act(tokens[None], positions_rad[None])[0]

    return begin


def _padded(values: Tensor, room: int) -> Tensor:
    """Zeros for the ticks before the episode began."""
    return torch.cat([values.new_zeros(len(values), room, *values.shape[2:]), values], dim=1)
