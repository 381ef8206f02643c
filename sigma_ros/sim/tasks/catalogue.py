# SPDX-License-Identifier: Apache-2.0
"""The tasks by name, and how an episode of each is drawn from a seed.

P1 pick; L1, L2 which brick into which box by text; M1, M2 the box that was shown; M3 the button under which something
vanished; C1 press so many times; O1 press in the order shown; V1 press the one that was not pressed.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sigma_ros.errors import UsageError
from sigma_ros.sim.tasks.task import (
    GO,
    BrickPlace,
    Flash,
    Home,
    Pick,
    PlaceIn,
    Tap,
    Task,
    TaskEpisode,
    TaskEvent,
    Verb,
    Wait,
)
from sigma_ros.sim.tasks.world import BOX_NAMES, BRICK_NAMES, BUTTON_NAMES, PAN_AXIS_M
from sigma_ros.values import WINDOW_TICKS

CUE_S = 1.0
"""How long the cue is there."""

_WINDOW_S = WINDOW_TICKS / 30.0
"""Time after which the window has forgotten the cue."""

_ORDERS = tuple(itertools.permutations(range(len(BUTTON_NAMES)), 2))
_PAIRS = tuple(itertools.product(range(len(BRICK_NAMES)), range(len(BOX_NAMES))))
_MOST_TAPS = 3

TASKS = {
    task.name: task
    for task in (
        Task(name="P1", options=1, needs="nothing"),
        Task(name="L1", options=4, needs="text"),
        Task(name="L2", options=4, needs="text", trained_on=(0, 1, 2), tested_on=(3,)),
        Task(name="M1", options=2, needs="memory"),
        Task(name="M2", options=2, needs="memory", limit_s=20.0),
        Task(name="M3", options=3, needs="memory", limit_s=12.0),
        Task(name="C1", options=_MOST_TAPS, needs="memory", limit_s=10.0),
        Task(name="O1", options=len(_ORDERS), needs="memory"),
        Task(name="V1", options=2, needs="memory", limit_s=14.0),
    )
}
"""`docs/simulator.md` says what each is, and which tasks of RoboMME (arXiv:2603.04639) it resembles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What a task adds to the values every episode has."""

    text: str
    oracle: str
    flashes: tuple[Flash, ...]
    verbs: tuple[Verb, ...]
    choice_s: float


def task_named(name: str, *, beside: tuple[str, ...] = ()) -> Task:
    """The task of that name; `beside` are other names that would do.

    Raises:
        UsageError: there is none.
    """
    if name not in TASKS:
        raise UsageError("no such task", expected=", ".join((*beside, *TASKS)), got=name)
    return TASKS[name]


def draw(task: Task, seed: int, *, goal: int | None = None, test: bool = False) -> TaskEpisode:
    """The episode of a seed.

    Args:
        task: Its family.
        seed: Draws places, times and, unless given, the goal.
        goal: The right option; two episodes of one seed differ in nothing but what their goals ask.
        test: Draw the goal from what is tested instead of what is trained.
    """
    chosen = np.random.default_rng([seed, 7])
    options = task.tested_on if test else task.trained_on
    drawn = int(options[int(chosen.integers(len(options)))])
    goal = drawn if goal is None else goal
    rng = np.random.default_rng([seed, 8])
    bricks = _bricks(task, rng)
    plan = _PLANS[task.name](goal, rng)
    return TaskEpisode(
        task=task,
        seed=seed,
        goal=goal,
        text=plan.text,
        oracle=plan.oracle,
        bricks=bricks,
        flashes=plan.flashes,
        verbs=plan.verbs,
        choice_s=plan.choice_s,
    )


def twin(episode: TaskEpisode) -> TaskEpisode:
    """The same scene and times with another goal that is tested (the next one)."""
    options = episode.task.tested_on if len(episode.task.tested_on) > 1 else tuple(range(episode.task.options))
    place = options.index(episode.goal) if episode.goal in options else -1
    return draw(episode.task, episode.seed, goal=options[(place + 1) % len(options)])


def told(episode: TaskEpisode) -> TaskEpisode:
    """The same episode with the goal in the text: what a policy with a perfect memory would know."""
    return replace(episode, text=episode.oracle)


def chosen_option(task: Task, events: Sequence[TaskEvent]) -> int | None:
    """Which option the events amount to; None: no choice was made. May be no option at all (a fourth press)."""
    placed = [event for event in events if event.kind == "placed"]
    taps = [event.place for event in events if event.kind == "tapped"]
    if task.name in ("P1", "M1", "M2"):
        return placed[0].place if placed else None
    if task.name in ("L1", "L2"):
        return len(BOX_NAMES) * placed[0].subject + placed[0].place if placed else None
    if task.name == "M3":
        return taps[0] if taps else None
    if task.name == "C1":
        return len(taps) - 1 if taps else None
    if task.name == "O1":
        pair = (taps[0], taps[1]) if len(taps) > 1 else None
        return None if pair is None else _ORDERS.index(pair) if pair in _ORDERS else len(_ORDERS)
    return None if len(taps) < 2 else taps[0] // 2 if (taps[0], taps[1]) in _VISITS else task.options


def places(episode: TaskEpisode) -> bool:
    """Whether bricks are placed in it; else buttons are pressed."""
    return any(isinstance(verb, PlaceIn) for verb in episode.verbs)


def succeeded(episode: TaskEpisode, events: Sequence[TaskEvent]) -> bool:
    """Whether the right choice was made, with as many placements or taps as the task has and no more.

    Fingers that come near a button while they reach for a brick do not count.
    """
    kind = "placed" if places(episode) else "tapped"
    wanted = sum(isinstance(verb, PlaceIn | Tap) for verb in episode.verbs)
    done = sum(event.kind == kind for event in events)
    return done == wanted and chosen_option(episode.task, events) == episode.goal


def _bricks(task: Task, rng: np.random.Generator) -> tuple[BrickPlace | None, ...]:
    """One brick where the target set-up has it, or two well apart in either order; buttons need none."""
    if task.name in ("M3", "C1", "O1", "V1"):
        return (None, None)
    if task.name in ("L1", "L2"):
        places = [_lying(rng, azimuth) for azimuth in ((0.02, 0.16), (0.50, 0.64))]
        return (places[0], places[1]) if rng.integers(2) else (places[1], places[0])
    return (_lying(rng, (0.15, 0.60)), None)


def _lying(rng: np.random.Generator, azimuth_rad: tuple[float, float]) -> BrickPlace:
    radius, azimuth = rng.uniform(0.165, 0.210), rng.uniform(*azimuth_rad)
    yaw = azimuth + math.pi / 2 + rng.uniform(-0.35, 0.35)
    return BrickPlace(
        float(PAN_AXIS_M[0] + radius * math.cos(azimuth)), float(PAN_AXIS_M[1] + radius * math.sin(azimuth)), float(yaw)
    )


def _pick(_goal: int, _rng: np.random.Generator) -> _Plan:
    text = "put the brick into the box"
    verbs = (Wait(0.3), Pick(0), PlaceIn(0))
    return _Plan(text=text, oracle=text, flashes=(Flash(GO, 0.3),), verbs=verbs, choice_s=0.3)


def _named(goal: int, _rng: np.random.Generator) -> _Plan:
    brick, box = _PAIRS[goal]
    text = f"put the {BRICK_NAMES[brick]} brick into the {BOX_NAMES[box]} box"
    verbs = (Wait(0.3), Pick(brick), PlaceIn(box))
    return _Plan(text=text, oracle=text, flashes=(Flash(GO, 0.3),), verbs=verbs, choice_s=0.3)


def _shown(goal: int, go_s: float, choice_s: float) -> _Plan:
    """The lamp of the button with the box's number shows the box."""
    return _Plan(
        text="put the brick into the box",
        oracle=f"put the brick into the {BOX_NAMES[goal]} box",
        flashes=(Flash(goal, 0.0, CUE_S), Flash(GO, go_s)),
        verbs=(Wait(go_s), Pick(0), PlaceIn(goal)),
        choice_s=choice_s,
    )


def _shown_shortly(goal: int, rng: np.random.Generator) -> _Plan:
    return _shown(goal, float(rng.uniform(1.1, 1.3)), CUE_S + _WINDOW_S)


def _shown_long_before(goal: int, rng: np.random.Generator) -> _Plan:
    go_s = float(rng.uniform(3.0, 4.0))
    return _shown(goal, go_s, go_s)


def _vanished(goal: int, rng: np.random.Generator) -> _Plan:
    go_s = float(rng.uniform(1.7, 2.2))
    return _Plan(
        text="press the button of the object",
        oracle=f"press the {BUTTON_NAMES[goal]} button",
        flashes=(Flash(goal, 0.0, CUE_S), Flash(GO, go_s)),
        verbs=(Wait(go_s), Tap(goal), Home()),
        choice_s=go_s,
    )


def _counted(goal: int, _rng: np.random.Generator) -> _Plan:
    text = f"press the button {goal + 1}"
    verbs: tuple[Verb, ...] = (Wait(0.3), *(Tap(1) for _ in range(goal + 1)), Home(), Wait(_WINDOW_S))
    return _Plan(text=text, oracle=text, flashes=(Flash(GO, 0.3),), verbs=verbs, choice_s=0.3)


def _ordered(goal: int, rng: np.random.Generator) -> _Plan:
    first, second = _ORDERS[goal]
    go_s = float(rng.uniform(1.7, 2.2))
    return _Plan(
        text="press both button",
        oracle=f"press the {BUTTON_NAMES[first]} then the {BUTTON_NAMES[second]} button",
        flashes=(Flash(first, 0.0, CUE_S / 2), Flash(second, CUE_S / 2, CUE_S), Flash(GO, go_s)),
        verbs=(Wait(go_s), Tap(first), Tap(second), Home()),
        choice_s=go_s,
    )


_VISITS = ((0, 2), (2, 0))


def _visited(goal: int, rng: np.random.Generator) -> _Plan:
    first, second = _VISITS[goal]
    go_s = float(rng.uniform(7.0, 7.4))
    return _Plan(
        text="press the button then press the second button",
        oracle=f"press the {BUTTON_NAMES[first]} then the {BUTTON_NAMES[second]} button",
        flashes=(Flash(first, 0.0, CUE_S), Flash(GO, go_s)),
        verbs=(Wait(0.3), Tap(first), Home(aside=True), Wait(go_s), Tap(second), Home()),
        choice_s=go_s,
    )


_PLANS: dict[str, Callable[[int, np.random.Generator], _Plan]] = {
    "P1": _pick,
    "L1": _named,
    "L2": _named,
    "M1": _shown_shortly,
    "M2": _shown_long_before,
    "M3": _vanished,
    "C1": _counted,
    "O1": _ordered,
    "V1": _visited,
}
