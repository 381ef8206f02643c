# SPDX-License-Identifier: Apache-2.0
"""The bed's work in units of task x arm x training seed, each written down when it is done, so that a run can go on."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sigma_ros.border import write_text
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import UsageError
from sigma_ros.model.normalise import Normalisation
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.sim.tasks.catalogue import draw, task_named, twin
from sigma_ros.sim.tasks.demonstration import Leader
from sigma_ros.sim.tasks.interventions import Intervention
from sigma_ros.sim.tasks.task import Task

from ..data import write_tensors
from .arms import Arm
from .base import BasePolicy, trained_base
from .closed_loop import EpisodeOutcome, Policy, Stage, leading
from .episodes import BedEpisode, Demonstrations, encode
from .model import CHOOSES, BedSigma, build
from .protocol import ARM_LED_SEED, DEMONSTRATION_SEED, Protocol, page_hash
from .trainer import train_arm

_CONDITIONS = "conditions.json"
_SET_SEEDS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class BedUnit:
    """One task, one arm, one training seed."""

    task: str
    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """For files: `M1_sigma_seed0`."""
        return f"{self.task}_{self.arm.name.replace(' ', '_')}_seed{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitResult:
    """What a unit came to. `played` has the outcomes by intervention; "" is the untouched arm."""

    task: str
    arm: str
    seed: int
    loss: float
    parameters: int
    train_cpu_s: float
    play_cpu_s: float
    played: dict[str, tuple[EpisodeOutcome, ...]]


class Bed:
    """The folder of a run.

    Raises:
        UsageError: the folder holds a run under another protocol.
    """

    def __init__(self, folder: Path, protocol: Protocol) -> None:
        self._folder, self._protocol = folder, protocol
        self._contract = load_contract("so101")
        self._pan = self._contract.joint_names.index(CHOOSES)
        self.conditions = json.loads(json.dumps({"protocol": page_hash(), **asdict(protocol)}))
        told = folder / _CONDITIONS
        if told.is_file() and json.loads(told.read_text(encoding="utf-8")) != self.conditions:
            raise UsageError(
                "the folder holds a run under another protocol",
                where=told,
                remedy="give another --out; a protocol is not changed after its run has begun",
            )
        folder.mkdir(parents=True, exist_ok=True)
        _write(told, self.conditions)
        self.demonstrations = cache(self._demonstrations)
        self.base = cache(self._base)
        self.stage = cache(lambda: Stage(protocol.episodes))

    def done(self, unit: BedUnit) -> bool:
        """Whether the unit is written down."""
        return self._file(unit).is_file()

    def run(self, unit: BedUnit, *, on_step: Callable[[int, float], None] = lambda _step, _loss: None) -> UnitResult:
        """Trains and plays a unit, or reads what it came to; a trained model is not trained again."""
        if self.done(unit):
            return self.read(unit)
        started_s = time.process_time()
        model, loss = self._model(unit, on_step)
        trained_s = time.process_time()
        normalisation = self._shown(unit.task).normalisation
        policy = Policy(base=self.base(unit.task), model=model, normalisation=normalisation)
        kinds: tuple[Intervention, ...] = ("", *unit.arm.interventions)
        task, seeds = task_named(unit.task), self._protocol.episode_seeds
        played: dict[str, tuple[EpisodeOutcome, ...]] = {
            kind: tuple(self.stage().play(policy, unit.arm, task, seeds, intervention=kind))
            for kind in kinds
            if kind in _telling(task, seeds[0])
        }
        result = UnitResult(
            task=unit.task,
            arm=unit.arm.name,
            seed=unit.seed,
            loss=loss,
            parameters=0 if model is None else sum(p.numel() for p in model.trained().values()),
            train_cpu_s=trained_s - started_s,
            play_cpu_s=time.process_time() - trained_s,
            played=played,
        )
        _write(self._file(unit), asdict(result))
        return result

    def read(self, unit: BedUnit) -> UnitResult:
        """What a finished unit came to."""
        values = json.loads(self._file(unit).read_text(encoding="utf-8"))
        played = {kind: tuple(EpisodeOutcome(**one) for one in many) for kind, many in values.pop("played").items()}
        return UnitResult(**values, played=played)

    def _model(self, unit: BedUnit, on_step: Callable[[int, float], None]) -> tuple[BedSigma | None, float]:
        if unit.arm.kind == "base":
            return None, 0.0
        model, loss = build(unit.arm, self._contract, seed=unit.seed), 0.0
        demonstrations, done = self.demonstrations(unit.task), 0
        for number in range(self._protocol.arm_rounds + 1):
            if number:
                demonstrations = demonstrations.and_those(self._led_by(unit, model, number))
            loss = self._trained(unit, model, demonstrations, number, partial(_later, on_step, done))
            done += self._protocol.recipe.steps
        return model, loss

    def _trained(
        self,
        unit: BedUnit,
        model: BedSigma,
        demonstrations: Demonstrations,
        number: int,
        on_step: Callable[[int, float], None],
    ) -> float:
        """Trains in place, or reads what was trained; returns the loss."""
        weights = self._folder / "models" / f"{unit.name}_{number}.safetensors"
        trained = dict(model.trained())
        if weights.is_file():
            stored = load_file(weights)
            for name, parameter in trained.items():
                parameter.data.copy_(stored[name])
            model.eval()
            return float(stored["loss"])
        normalisation = self._shown(unit.task).normalisation
        if unit.arm.told:
            demonstrations = demonstrations.with_texts(demonstrations.oracle)
        episodes = bed_episodes(demonstrations, self.base(unit.task), normalisation, model.config)
        recipe = self._protocol.recipe
        loss = train_arm(model, episodes, normalisation, recipe, seed=unit.seed, goes_on=number > 0, on_step=on_step)
        write_tensors(weights, {**trained, "loss": torch.tensor(loss)})
        return loss

    def _led_by(self, unit: BedUnit, model: BedSigma, number: int) -> Demonstrations:
        """Episodes in which the arm itself led; the expert went on as the episode asks."""
        policy = Policy(base=self.base(unit.task), model=model, normalisation=self._shown(unit.task).normalisation)
        return Demonstrations.open(
            self._folder / "demonstrations" / unit.name,
            task_named(unit.task),
            first_seed=ARM_LED_SEED + number * _SET_SEEDS,
            count=self._protocol.demonstrations,
            leader=leading(policy, fps=self._contract.fps, tells=unit.arm.told),
        )

    def _demonstrations(self, task: str) -> Demonstrations:
        """What the arms are trained on: the expert's own, and as many that the base led."""
        return self._shown(task).and_those(self._shown(task, 1, leader=self.base(task)))

    def _base(self, task: str) -> BasePolicy:
        """Cloned from demonstrations, then anew with those that it led, in which the expert did the nearest option.

        Of several bricks it is shown the nearest at first, too; where all options begin alike, all of them.
        """
        nearest = task_named(task).needs == "text"
        shown = self._shown(task, 2, any_option=True) if nearest else self._shown(task)
        base = self._cloned(task, 0, shown)
        for number in range(1, self._protocol.base_rounds + 1):
            shown = shown.and_those(self._shown(task, number + 2, leader=base, any_option=True))
            base = self._cloned(task, number, shown)
        return base

    def _cloned(self, task: str, number: int, shown: Demonstrations) -> BasePolicy:
        path = self._folder / "models" / f"{task}_base_{number}.safetensors"
        return trained_base(path, shown.rows, self._shown(task).normalisation, steps=self._protocol.base_steps)

    def _shown(
        self, task: str, number: int = 0, *, leader: BasePolicy | None = None, any_option: bool = False
    ) -> Demonstrations:
        """The `number`-th set of demonstrations; no two of them share a seed."""
        return Demonstrations.open(
            self._folder / "demonstrations",
            task_named(task),
            first_seed=DEMONSTRATION_SEED + number * _SET_SEEDS,
            count=self._protocol.demonstrations,
            leader=None if leader is None else self._leading(task, leader),
            any_option=any_option,
        )

    def _leading(self, task: str, base: BasePolicy) -> Leader:
        policy = Policy(base=base, model=None, normalisation=self._shown(task).normalisation)
        return leading(policy, fps=self._contract.fps, pushed=self._pan)

    def _file(self, unit: BedUnit) -> Path:
        return self._folder / "units" / f"{unit.name}.json"


def _telling(task: Task, seed: int) -> tuple[Intervention, ...]:
    """What can change a choice: a memory where one is needed, another text where the twin has one."""
    episode = draw(task, seed, test=True)
    memory: tuple[Intervention, ...] = ("reset", "swap") if task.needs == "memory" else ()
    return ("", *memory, "other text") if twin(episode).text != episode.text else ("", *memory)


def _later(on_step: Callable[[int, float], None], done: int, step: int, loss: float) -> None:
    """Tells a step of a later round as one of the whole training."""
    on_step(done + step, loss)


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(values, indent=1))


def bed_episodes(
    demonstrations: Demonstrations, base: BasePolicy, normalisation: Normalisation, config: SigmaConfig
) -> list[BedEpisode]:
    """Every demonstration, encoded once."""
    return [
        BedEpisode(
            episode=row,
            tokens=encode(row.features, config.width),
            chunks=base.chunk(
                row.features, torch.from_numpy(normalisation.state.normalise(row.states)), config.horizon
            ),
        )
        for row in demonstrations.rows
    ]
