# SPDX-License-Identifier: Apache-2.0
"""What a task of the test bed is, as frozen values: verbs for the expert, lamps that come and go, the choice asked for.

A *choice* is one of a task's options (which box, which button, how often). It is scored apart from success, so that a
missed grasp is not counted as a wrong decision.
"""

from dataclasses import dataclass
from typing import Literal

GO = "go"
"""The lamp that tells when the arm may start; it says nothing about the choice."""

PLACE = "place"
"""The name of what is no task of the bed: one brick, one box."""

EventKind = Literal["placed", "tapped"]


@dataclass(frozen=True, slots=True)
class Pick:
    """Grasp a brick and lift it over the boxes' rims."""

    brick: int


@dataclass(frozen=True, slots=True)
class PlaceIn:
    """Carry what is held over a box and let it go."""

    box: int


@dataclass(frozen=True, slots=True)
class Tap:
    """Press a button with closed fingers, straight from above."""

    button: int


@dataclass(frozen=True, slots=True)
class Home:
    """Back to where the episode began; `aside` from one side always, so that friction does not tell whence it came."""

    aside: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Stay until a time of the episode [s]; no time at all if it has passed."""

    until_s: float


Verb = Pick | PlaceIn | Tap | Home | Wait


@dataclass(frozen=True, slots=True)
class Flash:
    """A lamp is on during [start, end) seconds. Lamps are `GO` or the number of a button."""

    lamp: int | str
    start_s: float
    end_s: float = float("inf")


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """Something that counts: which brick came to rest in which box, which button was tapped, and when."""

    kind: EventKind
    subject: int
    place: int
    time_s: float


@dataclass(frozen=True, slots=True)
class BrickPlace:
    """Where a brick starts: x, y [m, base frame] and the direction of its long side."""

    x_m: float
    y_m: float
    yaw_rad: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A family of episodes.

    Attributes:
        options: Number of choices, all equally likely: chance is 1 / options.
        needs: What decides the choice: `memory`, `text` or nothing.
        limit_s: Longest episode.
        trained_on: Options that demonstrations show; the others are kept for the test. Empty: all.
        tested_on: Options that test episodes ask for. Empty: all.
    """

    name: str
    options: int
    needs: Literal["memory", "text", "nothing"]
    limit_s: float = 18.0
    trained_on: tuple[int, ...] = ()
    tested_on: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("trained_on", "tested_on"):
            object.__setattr__(self, name, getattr(self, name) or tuple(range(self.options)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEpisode:
    """One episode to be done.

    Attributes:
        goal: The right option.
        oracle: The same with the goal in words.
        bricks: Where the bricks start; None: out of the scene.
        choice_s: From here on nothing in scene, joints or window tells the goal, and it is not yet acted on.
    """

    task: Task
    seed: int
    goal: int
    text: str
    oracle: str
    bricks: tuple[BrickPlace | None, ...]
    flashes: tuple[Flash, ...]
    verbs: tuple[Verb, ...]
    choice_s: float
