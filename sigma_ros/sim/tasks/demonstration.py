# SPDX-License-Identifier: Apache-2.0
"""Episodes of the scripted teacher on the tasks, as scene tokens and joints instead of pictures.

A list of verbs becomes a path through waypoints.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from sigma_ros.sim.arm import JOINTS
from sigma_ros.sim.demonstration import Push, tick_s
from sigma_ros.sim.expert import CLOSED_RAD, OPEN_RAD, Expert, Habits
from sigma_ros.sim.motion import JointPath, Waypoint, joint_path
from sigma_ros.sim.tasks.catalogue import succeeded
from sigma_ros.sim.tasks.task import Home, Pick, PlaceIn, Tap, TaskEpisode, TaskEvent, Verb, Wait
from sigma_ros.sim.tasks.world import TAP_M, TAP_OVER_M, TaskArm, button_place
from sigma_ros.values import NS_PER_S, frozen_array

_TAP_S = 0.05
_ASIDE_RAD, _ASIDE_S = 0.5, 0.3
_SETTLE_S = 0.6
"""How long the expert stays after its last movement: what was let go comes to rest, and a policy learns to stay."""


class VerbExpert:
    """Plans one episode, from the arm's state right after `TaskArm.begin`."""

    def __init__(self, arm: TaskArm) -> None:
        self._arm = arm
        self._hand = Expert(arm)
        self._pan = int(np.flatnonzero(arm.contract.joint_order(JOINTS) == JOINTS.index("shoulder_pan"))[0])

    def plan(self, episode: TaskEpisode) -> JointPath:
        """The commands of the whole episode as a path over time [rad, as commanded].

        Raises:
            SigmaError: a place is out of reach.
        """
        habits = Habits.drawn(self._arm.setup.teacher, np.random.default_rng([episode.seed, 1]))
        rest = self._arm.command_rad
        waypoints = [Waypoint(phase="rest", angles_rad=rest)]
        for verb in episode.verbs:
            waypoints += self._waypoints(verb, habits, rest, waypoints)
        return joint_path(waypoints, self._arm.contract, speed=habits.speed)

    def _waypoints(self, verb: Verb, habits: Habits, rest: np.ndarray, before: list[Waypoint]) -> list[Waypoint]:
        match verb:
            case Pick(brick):
                return self._pick(brick, habits)
            case PlaceIn(box):
                return self._place(box, habits)
            case Tap(button):
                over, down = self._hand.touch_poses(button_place(button), (TAP_OVER_M, TAP_M))
                pressed = Waypoint(phase="tap", angles_rad=down, pause_s=_TAP_S)
                return [Waypoint(phase="reach", angles_rad=over), pressed, Waypoint(phase="release", angles_rad=over)]
            case Home(aside):
                beside = rest.copy()
                beside[self._pan] += _ASIDE_RAD
                way = [Waypoint(phase="aside", angles_rad=beside, pause_s=_ASIDE_S)] if aside else []
                return [*way, Waypoint(phase="return", angles_rad=rest, pause_s=0.2)]
            case Wait(until_s):
                passed_s = joint_path(before, self._arm.contract, speed=habits.speed).duration_s
                return [Waypoint(phase="wait", angles_rad=before[-1].angles_rad, pause_s=max(0.0, until_s - passed_s))]

    def _pick(self, brick: int, habits: Habits) -> list[Waypoint]:
        position_m, yaw_rad = self._arm.brick_pose(brick)
        rim_m = self._arm.boxes[0].size_m[2]
        above, around, lifted = self._hand.grasp_poses(habits, position_m, yaw_rad, rim_m=rim_m)
        pressed = self._hand.with_gripper(around, CLOSED_RAD)
        return [
            Waypoint(phase="reach", angles_rad=above),
            Waypoint(phase="lower", angles_rad=around, pause_s=habits.pause_s),
            Waypoint(phase="grasp", angles_rad=pressed, pause_s=habits.pause_s),
            Waypoint(phase="lift", angles_rad=lifted),
        ]

    def _place(self, box: int, habits: Habits) -> list[Waypoint]:
        over, into = self._hand.drop_poses(habits, self._arm.boxes[box])
        return [
            Waypoint(phase="carry", angles_rad=over),
            Waypoint(phase="place", angles_rad=into, pause_s=habits.pause_s),
            Waypoint(phase="release", angles_rad=self._hand.with_gripper(into, OPEN_RAD), pause_s=0.4),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDemonstration:
    """One episode on the contract's ticks."""

    episode: TaskEpisode
    success: bool
    events: tuple[TaskEvent, ...]
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
