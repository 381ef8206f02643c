# SPDX-License-Identifier: Apache-2.0
"""The arm of a task for whoever plays episodes by their seeds: the closed loop, and LeRobot's environment."""

from dataclasses import replace

from sigma_ros.contract import Contract
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.setups import TARGET, SceneConfig
from sigma_ros.sim.tasks.catalogue import chosen_option, draw, places, succeeded, task_named, twin
from sigma_ros.sim.tasks.task import PLACE, Task
from sigma_ros.sim.tasks.world import BRICK_NAMES, TaskArm

_LIMIT_S = 20.0


def robot_for(task: str, setup: SceneConfig, *, contract: Contract) -> SimArm:
    """The simulated arm of a task of the test bed, or of the one brick and box (`PLACE`).

    Raises:
        UsageError: there is no such task.
    """
    own = _task_of(task)
    return SimArm(setup, contract=contract) if own is None else TaskRobot(own, setup, contract=contract)


def limit_of(task: str) -> float:
    """When an episode has failed [s].

    Raises:
        UsageError: there is no such task.
    """
    own = _task_of(task)
    return _LIMIT_S if own is None else own.limit_s


def _task_of(name: str) -> Task | None:
    return None if name == PLACE else task_named(name, beside=(PLACE,))


class TaskRobot(TaskArm):
    """Draws the test episode of a seed.

    `plays_twin`: its twin instead. `other_text`: with the text that its twin has.
    """

    def __init__(self, task: Task, setup: SceneConfig = TARGET, *, contract: Contract | None = None) -> None:
        super().__init__(setup, contract=contract)
        self.task = task
        self.plays_twin = self.other_text = False
        self.episode = draw(task, 0, test=True)

    def start(self, seed: int) -> None:
        """Starts the test episode of a seed."""
        episode = draw(self.task, seed, test=True)
        if self.plays_twin:
            episode = twin(episode)
        self.episode = replace(episode, text=twin(episode).text) if self.other_text else episode
        self.begin(self.episode)

    @property
    def text(self) -> str:
        """What the episode's text says."""
        return self.episode.text

    @property
    def chosen(self) -> int | None:
        """The option that was chosen so far; None: none."""
        return chosen_option(self.task, self.events)

    def brick_held(self) -> bool:
        """Whether both fingers press on any brick."""
        return any(self.holds_brick(brick) for brick in range(len(BRICK_NAMES)))

    def succeeded(self) -> bool:
        """Whether the right choice was made, and no other."""
        return succeeded(self.episode, self.events)

    def finished(self) -> bool:
        """Whether a brick was placed. Where buttons count, one more press may come until the time is up."""
        return places(self.episode) and any(event.kind == "placed" for event in self.events)
