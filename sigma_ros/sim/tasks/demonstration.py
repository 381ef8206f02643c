# SPDX-License-Identifier: Apache-2.0
"""Episodes of the scripted teacher on the tasks, as scene tokens and joints instead of pictures.

A list of verbs becomes a path through waypoints. Another policy may lead first: the expert then goes on from where that
policy has brought the arm, so that who learns from it learns to come back from its own mistakes (as DAgger does,
arXiv:1011.0686, with whole paths instead of single commands).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64
from numpy import ndarray

from sigma_ros.errors import SigmaError
from sigma_ros.sim.arm import JOINTS
from sigma_ros.sim.demonstration import Push, tick_s
from sigma_ros.sim.expert import CLOSED_RAD, OPEN_RAD, Expert, Habits
from sigma_ros.sim.motion import JointPath, Waypoint, joint_path
from sigma_ros.sim.tasks.catalogue import draw, succeeded
from sigma_ros.sim.tasks.task import Home, Pick, PlaceIn, Tap, TaskEpisode, TaskEvent, Verb, Wait
from sigma_ros.sim.tasks.world import BRICK_NAMES, TAP_M, TAP_OVER_M, TaskArm, button_place
from sigma_ros.values import NS_PER_S, frozen_array

_TAP_S = 0.05
_ASIDE_RAD, _ASIDE_S = 0.5, 0.3
_SETTLE_S = 0.6
"""How long the expert stays after its last movement: what was let go comes to rest, and a policy learns to stay."""


Led = Callable[[Float32[ndarray, "tokens features"], Float64[ndarray, " dof"]], Float64[ndarray, " dof"]]
"""Who acts before the expert, tick after tick: scene tokens and joints [rad] to a command [rad]."""

Leader = Callable[[TaskEpisode], Led]
"""Begins an episode."""

_AT_M, _LOW_M, _OVER_RIM_M = 0.006, 0.05, 0.015
"""Fingers this near to a brick's middle, seen from above, are over it; below this height something may be in their way;
a held brick is lifted until the fingers are so far over the boxes' rims."""


class VerbExpert:
    """Plans from the arm as it stands; made right after `TaskArm.begin`, whose pose is where it comes home to."""

    def __init__(self, arm: TaskArm) -> None:
        self._arm = arm
        self._hand = Expert(arm)
        self._rest = arm.command_rad
        self._pan = int(np.flatnonzero(arm.contract.joint_order(JOINTS) == JOINTS.index("shoulder_pan"))[0])

    def plan(self, episode: TaskEpisode) -> JointPath:
        """The commands of what is left of an episode, as a path over time from now [rad, as commanded].

        Raises:
            SigmaError: a place is out of reach, or what has happened is not how this episode begins.
        """
        arm, verbs = self._arm, remaining(episode, self._arm)
        habits = Habits.drawn(arm.setup.teacher, np.random.default_rng([episode.seed, 1]))
        waypoints = [Waypoint(phase="rest", angles_rad=arm.command_rad)]
        if arm.time_ns and verbs:
            waypoints += self._cleared(verbs[0], habits)
        for verb in verbs:
            waypoints += self._waypoints(verb, habits, waypoints)
        return joint_path(waypoints, arm.contract, speed=habits.speed)

    def _cleared(self, first: Verb, habits: Habits) -> list[Waypoint]:
        """Straight up first, where a leader has left the fingers low: bricks and buttons are in the way there."""
        fingers_m = self._arm.fingers_m()
        match first:
            case PlaceIn():
                rim_m, brick = self._arm.boxes[0].size_m[2], _held(self._arm)
                if brick is None or fingers_m[2] > rim_m + _OVER_RIM_M:
                    return []
                lifted = self._hand.grasp_poses(habits, *self._arm.brick_pose(brick), rim_m=rim_m)[2]
                return [Waypoint(phase="lift", angles_rad=lifted)]
            case Pick(brick) | Tap(brick) if fingers_m[2] < _LOW_M:
                if isinstance(first, Pick) and math.dist(fingers_m[:2], self._arm.brick_pose(brick)[0][:2]) < _AT_M:
                    return []
                (up,) = self._hand.touch_poses((fingers_m[0], fingers_m[1]), (TAP_OVER_M,))
                return [Waypoint(phase="rise", angles_rad=up)]
        return []

    def _waypoints(self, verb: Verb, habits: Habits, before: list[Waypoint]) -> list[Waypoint]:
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
                beside = self._rest.copy()
                beside[self._pan] += _ASIDE_RAD
                way = [Waypoint(phase="aside", angles_rad=beside, pause_s=_ASIDE_S)] if aside else []
                return [*way, Waypoint(phase="return", angles_rad=self._rest, pause_s=0.2)]
            case Wait(until_s):
                now_s = self._arm.time_ns / NS_PER_S
                passed_s = now_s + joint_path(before, self._arm.contract, speed=habits.speed).duration_s
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


def remaining(episode: TaskEpisode, arm: TaskArm) -> tuple[Verb, ...]:
    """Those of an episode's verbs that are still to be done, told by what has happened and what is held.

    Raises:
        SigmaError: something else was placed, tapped or grasped than the episode asks for so far.
    """
    verbs = episode.verbs
    picked = next((place for place, verb in enumerate(verbs) if isinstance(verb, Pick)), None)
    asked = [place for place, verb in enumerate(verbs) if isinstance(verb, PlaceIn if picked is not None else Tap)]
    kind = "tapped" if picked is None else "placed"
    done = [(event.subject, event.place) for event in arm.events if event.kind == kind]
    fits = done == [_outcome(verbs, place) for place in asked[: len(done)]]
    held = _held(arm)
    if not fits or (held is not None and (picked is None or verbs[picked] != Pick(held))):
        raise SigmaError("an episode cannot be gone on with", where=episode.text, got=f"{done} done, brick {held} held")
    begin = asked[len(done) - 1] + 1 if done else 0
    return verbs[begin if done or held is None or picked is None else picked + 1 :]


def _outcome(verbs: tuple[Verb, ...], place: int) -> tuple[int, int]:
    """Subject and place of the event that a verb comes to."""
    match verbs[place - 1], verbs[place]:
        case Pick(brick), PlaceIn(box):
            return brick, box
        case _, Tap(button):
            return button, button
    raise AssertionError(verbs)


def nearest_option(episode: TaskEpisode, arm: TaskArm) -> TaskEpisode:
    """The scene's episode with that option which the arm has begun and to whose next place its fingers are nearest.

    Of several with the same next place one is drawn by the episode's seed.

    Raises:
        SigmaError: what has happened fits no option.
    """
    found = []
    for goal in np.random.default_rng([episode.seed, 9]).permutation(episode.task.trained_on).tolist():
        option = draw(episode.task, episode.seed, goal=goal)
        try:
            verbs = remaining(option, arm)
        except SigmaError:
            continue
        places = [_target_m(verb, arm) for verb in verbs if isinstance(verb, Pick | PlaceIn | Tap)]
        found.append((math.dist(places[0], arm.fingers_m()[:2]) if places else 0.0, option))
    if not found:
        raise SigmaError("what has happened fits no option", where=episode.task.name, got=f"{arm.events}")
    return min(found, key=lambda one: one[0])[1]


def _target_m(verb: Pick | PlaceIn | Tap, arm: TaskArm) -> tuple[float, float]:
    match verb:
        case Pick(brick):
            x, y, _ = arm.brick_pose(brick)[0]
            return float(x), float(y)
        case PlaceIn(box):
            return arm.boxes[box].centre_m[0], arm.boxes[box].centre_m[1]
        case Tap(button):
            return button_place(button)


def _held(arm: TaskArm) -> int | None:
    return next((brick for brick in range(len(BRICK_NAMES)) if arm.holds_brick(brick)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDemonstration:
    """One episode on the contract's ticks. Where `led`, another policy acted and the command is not the expert's.

    `states` are MuJoCo's positions of each tick, from which it can be drawn.
    """

    episode: TaskEpisode
    success: bool
    events: tuple[TaskEvent, ...]
    states: Float64[ndarray, "ticks nq"]
    tokens: Float32[ndarray, "ticks tokens features"]
    positions_rad: Float32[ndarray, "ticks dof"]
    commands_rad: Float32[ndarray, "ticks dof"]
    led: Bool[ndarray, " ticks"]

    @property
    def ticks(self) -> int:
        """Number of ticks."""
        return len(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """A policy that acts for some seconds before the expert does."""

    leader: Leader
    lasts_s: float


def demonstrate_task(
    arm: TaskArm,
    episode: TaskEpisode,
    *,
    disturbance_rad: float = 0.0,
    lead: Lead | None = None,
    any_option: bool = False,
) -> TaskDemonstration:
    """Lets the expert do one episode, from where `lead` has brought it; `disturbance_rad` as in `demonstrate`.

    `any_option`: it does not do what the episode asks for but the option that is nearest: what a policy can learn that
    is not told which one is right.

    Raises:
        SigmaError: a place is out of reach, or the leader has done what cannot be made good.
    """
    arm.begin(episode)
    expert, rows = VerbExpert(arm), _Ticks(arm)
    if lead is not None:
        rows.led(lead.leader(episode), lead.lasts_s)
    if any_option:
        episode = nearest_option(episode, arm)
    path = expert.plan(episode)
    rows.play(path, Push(path, episode.seed, disturbance_rad, gripper=arm.contract.joint_names.index("gripper")))
    states, tokens, positions, commands, led = (np.array(column) for column in zip(*rows.kept, strict=True))
    return TaskDemonstration(
        episode=episode,
        success=succeeded(episode, arm.events),
        events=arm.events,
        states=frozen_array(states),
        tokens=frozen_array(tokens.astype(np.float32)),
        positions_rad=frozen_array(positions.astype(np.float32)),
        commands_rad=frozen_array(commands.astype(np.float32)),
        led=frozen_array(led),
    )


class _Ticks:
    """Ticks as they are played: state, scene, joints, command, and whether a leader gave it."""

    def __init__(self, arm: TaskArm) -> None:
        self._arm = arm
        self.kept: list[tuple[ndarray, ndarray, ndarray, ndarray, bool]] = []

    def led(self, leader: Led, lasts_s: float) -> None:
        """The leader's part."""
        while self._now_s() < lasts_s:
            self._arm.look_around()
            self._step(leader(self._arm.tokens(), self._arm.positions_rad()), 0.0, led=True)

    def play(self, path: JointPath, push: Push) -> None:
        """The expert's part, to its end and a moment longer."""
        start_s = self._now_s()
        while (time_s := self._now_s() - start_s) <= path.duration_s + _SETTLE_S:
            self._step(path.at(time_s), push.at(time_s), led=False)

    def _now_s(self) -> float:
        return self._arm.contract.tick_offset_ns(len(self.kept)) / NS_PER_S

    def _step(self, command: ndarray, push: ndarray | float, *, led: bool) -> None:
        self._arm.look_around()
        arm = self._arm
        self.kept.append((arm.snapshot(), arm.tokens(), arm.positions_rad(), command, led))
        arm.step(command + push, tick_s(arm.contract, len(self.kept) - 1))
