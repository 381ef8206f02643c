# SPDX-License-Identifier: Apache-2.0
"""The scripted teacher for tasks: a list of verbs becomes a path through waypoints."""

import numpy as np

from sigma_ros.sim.arm import JOINTS
from sigma_ros.sim.expert import CLOSED_RAD, OPEN_RAD, Expert, Habits
from sigma_ros.sim.motion import JointPath, Waypoint, joint_path
from sigma_ros.sim.tasks.task import Home, Pick, PlaceIn, Tap, TaskEpisode, Verb, Wait
from sigma_ros.sim.tasks.world import TAP_M, TAP_OVER_M, TaskArm, button_place

_TAP_S = 0.05
_ASIDE_RAD, _ASIDE_S = 0.5, 0.3


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
