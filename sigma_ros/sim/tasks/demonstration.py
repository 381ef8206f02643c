# SPDX-License-Identifier: Apache-2.0
"""Episodes of the expert on the tasks, as scene tokens and joints instead of pictures."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from sigma_ros.sim.demonstration import Push, tick_s
from sigma_ros.sim.tasks.catalogue import succeeded
from sigma_ros.sim.tasks.expert import VerbExpert
from sigma_ros.sim.tasks.task import Event, TaskEpisode
from sigma_ros.sim.tasks.world import TaskArm
from sigma_ros.values import NS_PER_S, frozen_array

_SETTLE_S = 0.6
"""How long the expert stays after its last movement: what was let go comes to rest, and a policy learns to stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDemonstration:
    """One episode on the contract's ticks."""

    episode: TaskEpisode
    success: bool
    events: tuple[Event, ...]
    tokens: Float32[ndarray, "ticks tokens features"]
    positions_rad: Float32[ndarray, "ticks dof"]
    commands_rad: Float32[ndarray, "ticks dof"]

    @property
    def ticks(self) -> int:
        """Number of ticks."""
        return len(self.tokens)


def demonstrate_task(arm: TaskArm, episode: TaskEpisode, *, disturbance_rad: float = 0.0) -> TaskDemonstration:
    """Lets the expert do one episode; `disturbance_rad` as in `demonstration.demonstrate`.

    Raises:
        SigmaError: a place is out of reach.
    """
    arm.begin(episode)
    path = VerbExpert(arm).plan(episode)
    push = Push(path, episode.seed, disturbance_rad, gripper=arm.contract.joint_names.index("gripper"))
    rows: list[tuple[ndarray, ndarray, ndarray]] = []
    while (now_ns := arm.contract.tick_offset_ns(len(rows))) <= (path.duration_s + _SETTLE_S) * NS_PER_S:
        time_s = now_ns / NS_PER_S
        arm.look_around()
        rows.append((arm.tokens(), arm.positions_rad(), path.at(time_s)))
        arm.step(path.at(time_s) + push.at(time_s), tick_s(arm.contract, len(rows) - 1))
    tokens, positions, commands = (np.array(column, dtype=np.float32) for column in zip(*rows, strict=True))
    return TaskDemonstration(
        episode=episode,
        success=succeeded(episode, arm.events),
        events=arm.events,
        tokens=frozen_array(tokens),
        positions_rad=frozen_array(positions),
        commands_rad=frozen_array(commands),
    )
