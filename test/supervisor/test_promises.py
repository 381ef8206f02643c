# SPDX-License-Identifier: Apache-2.0
"""All sequences of operator calls and faults up to a depth, on the real supervisor, against the list of promises.

The arm is one that people stand next to: an enabling device must be held, and who engages must know the token.
Sequences that lead to the same situation are followed once: a situation is the state, its reason, what is promised or
pending, and which faults are there. Times are not part of it but for those that decide (leave aged, stop published).
"""

import copy
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from supervision import CONTRACT, Bench

from sigma_ros.nodes.supervisor.pairing import GUESS_PAUSE_NS, Pairing
from sigma_ros.supervisor.identity import Source
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Answer, Decision, Reason, State

PAGE = Path(__file__).resolve().parents[2] / "docs" / "safety.md"
SLOW = 0.25
"""`tighten` leaves this part of the speed limit."""

STATION, DEVICE = Source(publisher="a", name="/station"), Source(publisher="b", name="/device")
SAG_RAD = 0.005
"""What is taken for an arm's sag of what it is pressed by in these few moments."""

TICKS = {"wall": 30, "wait": 130}
"""A letter lasts for 12: longer than a stop takes; a contact must show, and a leave to move must age in HOLD."""


@dataclass
class World:
    """The bench with the faults that are there, and what promises need to know of the past."""

    bench: Bench = field(default_factory=lambda: Bench(limits=SupervisorLimits(require_enabling=True)))
    faults: frozenset[str] = frozenset()
    engaged_s: float = 1e9
    tightened: bool = False
    let_go: bool = False
    lost: bool = False
    """Joint states were lost for so long that the arm was stopped, and nobody has reset that."""
    shown: list[str] = field(default_factory=list)
    plan: tuple[float, np.ndarray] | None = None
    """Where and when the policy of a blocked arm began to push."""

    def __post_init__(self) -> None:
        self.pairing = Pairing(self.shown.append)
        self.guessed_ns = -GUESS_PAUSE_NS

    def paired(self, order: Callable[[], Answer], token: str | None = None) -> Answer:
        """An order with the token that was shown, or another."""
        if token is not None:
            self.guessed_ns = self.bench.now_ns
        return self.pairing.take(token or self.shown[0].split()[-1], self.bench.now_ns, order)

    @property
    def may_guess(self) -> bool:
        """Whether the last wrong token is long enough ago for a right one to be looked at."""
        return self.bench.now_ns - self.guessed_ns >= GUESS_PAUSE_NS

    def proposal(self) -> np.ndarray:
        """The policy sways from where the arm is; against a wall it goes on to push."""
        bench = self.bench
        if "wall" not in self.faults:
            return bench.sway(size=0.5, period_s=2.0)
        if self.plan is None or not bench.supervisor.state.may_move:
            self.plan = bench.now_ns * 1e-9, bench.pose
        begun_s, pose = self.plan
        t = bench.now_ns * 1e-9 - begun_s + np.arange(50) / CONTRACT.fps
        return pose + 0.5 * np.maximum(0.0, t - 0.1)[:, None]

    def tick(self, count: int) -> list[Decision]:
        bench, supervisor = self.bench, self.bench.supervisor
        bench.heartbeat, bench.joints = "policy" not in self.faults, "joints" not in self.faults
        first = len(bench.decisions)
        for number in range(count):
            supervisor.on_estop("button" in self.faults, bench.now_ns, source=STATION)
            supervisor.on_enabling("device" not in self.faults, bench.now_ns, source=DEVICE)
            supervisor.on_graph(foreign=("/other",) * ("foreign" in self.faults), estop_publishers=("a",))
            if bench.heartbeat and number % 5 == 0:
                bench.offer(self.proposal())
            stuck = bench.pose
            bench.tick()
            if "wall" in self.faults:
                bench.pose = stuck
        return bench.decisions[first:]

    @property
    def situation(self) -> tuple[object, ...]:
        machine = self.bench.supervisor._machine
        return (
            machine.state,
            machine.why.reason,
            machine.pending is not None,
            machine.limits.velocity_scale,
            machine._is_released,
            machine.is_following,
            machine.loop.track is not None,
            machine.loop.is_resting,
            machine.stop_is_published,
            machine._authority.ended(machine.limits) is not None,
            machine.monitor.policy.binding is not None,
            self.faults,
            self.may_guess,
            self.let_go,
            self.lost,
        )


FAULTS = ("policy", "joints", "button", "foreign", "wall", "device")
OPERATIONS: dict[str, Callable[[World], Answer]] = {
    "engage": lambda world: world.paired(world.bench.engage),
    "guess": lambda world: world.paired(world.bench.engage, token="00000000"),
    "release": lambda world: world.bench.supervisor.release(),
    "reset_stop": lambda world: world.paired(lambda: world.bench.supervisor.reset_stop(world.bench.now_ns)),
    "estop": lambda world: world.bench.supervisor.estop(),
    "tighten": lambda world: world.bench.supervisor.tighten(velocity_scale=SLOW),
}
LETTERS = (*OPERATIONS, *FAULTS, "heal", "wait")


@dataclass(frozen=True, kw_only=True)
class Passage:
    """One letter: what was there before and after it, what was answered, and every tick of it."""

    letter: str
    answer: Answer | None
    faults: frozenset[str]
    before: State
    after: State
    """Right after the order, before any tick."""
    last_command: np.ndarray | None
    ticks: list[Decision]
    engaged_s: float
    tightened: bool
    let_go: bool
    lost: bool
    was_resting: bool
    may_guess: bool
    pose: np.ndarray

    @property
    def commands(self) -> np.ndarray:
        given = [self.last_command] if self.last_command is not None else []
        return np.array([*given, *(tick.command_rad for tick in self.ticks if tick.command_rad is not None)])

    @property
    def presses_rad(self) -> float:
        """How far the last command is ahead of the joints that are judged."""
        ahead = np.abs(self.commands[-1] - self.pose) if len(self.commands) else np.zeros(1)
        return float(ahead[:-1].max(initial=0.0))

    @property
    def moves(self) -> bool:
        return len(self.commands) > 1 and bool((np.diff(self.commands, axis=0) != 0.0).any())

    @property
    def states(self) -> list[State]:
        return [self.before, *(tick.state for tick in self.ticks)]


def _settles(passage: Passage, ticks: int = 8) -> bool:
    late = np.array([t.command_rad for t in passage.ticks[ticks:] if t.command_rad is not None])
    return len(late) < 2 or bool((late == late[0]).all())


def _leaves(passage: Passage, state: State) -> list[State]:
    return [b for a, b in zip(passage.states, passage.states[1:], strict=False) if a is state and b is not state]


PROMISES: dict[str, Callable[[Passage], bool]] = {
    "no command breaks a limit": lambda p: p.ticks[-1].counters.violations == 0,
    "motion begins only within 13 s of an engage or of motion": lambda p: (
        not (p.moves and p.was_resting) or p.engaged_s <= 13.0
    ),
    "no motion begins from DISENGAGED, STOPPED or ESTOP without engage": lambda p: (
        p.letter == "engage"
        or p.before not in (State.DISENGAGED, State.STOPPED, State.ESTOP)
        or not p.was_resting
        or not p.moves
    ),
    "no motion begins with a fault present": lambda p: (
        not (p.faults - {"wall"}) or not p.was_resting or not p.moves or p.letter in FAULTS
    ),
    "a latched stop ends by reset_stop alone": lambda p: (
        p.letter == "reset_stop"
        or not (_leaves(p, State.STOPPED) or _leaves(p, State.ESTOP))
        or _leaves(p, State.STOPPED) == [State.ESTOP]
    ),
    "reset_stop never engages": lambda p: (
        p.letter != "reset_stop"
        or not p.before.is_latched
        or p.ticks[-1].command_rad is None
        or p.ticks[-1].state.is_latched
    ),
    "reset_stop is refused with its cause present": lambda p: (
        p.letter != "reset_stop"
        or not p.before.is_latched
        or not (p.faults & ({"button", "foreign", "joints"} if p.lost else {"button", "foreign"}))
        or (p.answer is not None and not p.answer.success)
    ),
    "engage is refused with a fault present": lambda p: (
        p.letter != "engage"
        or not (p.faults - {"wall"})
        or p.before.may_move
        or (p.answer is not None and not p.answer.success)
    ),
    "engage is refused while a stop is latched": lambda p: (
        p.letter != "engage" or not p.before.is_latched or (p.answer is not None and not p.answer.success)
    ),
    "release ends the commands, or leaves a latched stop at rest": lambda p: (
        p.letter != "release" or p.ticks[-1].command_rad is None or (p.ticks[-1].state.is_latched and _settles(p))
    ),
    "the emergency stop is ESTOP at the next tick and at rest 0.16 s later": lambda p: (
        p.letter not in ("estop", "button") or (p.ticks[0].state is State.ESTOP and _settles(p))
    ),
    "ESTOP is never left for STOPPED": lambda p: State.STOPPED not in _leaves(p, State.ESTOP),
    "a fault while the arm moves ends the motion within 0.4 s, or latches": lambda p: (
        p.letter not in ("policy", "joints", "foreign") or _settles(p, 11)
    ),
    "a blocked joint is held within 0.3 s, the command at rest at most 0.08 rad and its sag ahead": lambda p: (
        p.letter != "wall" or (_settles(p, 26) and (not p.moves or p.presses_rad <= 0.08 + SAG_RAD))
    ),
    "an enabling device that is let go ends the motion within 0.2 s, and only engage begins another": lambda p: (
        (p.letter != "device" or _settles(p, 9)) and not (p.let_go and p.was_resting and p.moves)
    ),
    "without the token nobody engages or resets, and after a wrong one nobody for a second": lambda p: (
        p.letter not in ("guess", "engage", "reset_stop")
        or (p.letter != "guess" and p.may_guess)
        or (p.answer is not None and p.answer.reason is Reason.NOT_PAIRED and p.after is p.before)
    ),
    "a tightened limit holds from the next rest on": lambda p: (
        not p.tightened
        or p.letter == "tighten"
        or len(p.commands) < 2
        or not p.was_resting
        or float((np.abs(np.diff(p.commands, axis=0)) / 0.02 / CONTRACT.max_velocity_radps).max()) <= SLOW + 1e-6
    ),
}


def passages(world: World, letter: str) -> tuple[World, Passage]:
    """Follows one letter from a world, which stays as it is."""
    world = copy.deepcopy(world)
    bench = world.bench
    last = bench.decisions[-1].command_rad if bench.decisions else None
    bench.decisions.clear()
    before, was_resting, may_guess = bench.supervisor.state, bench.supervisor.is_resting, world.may_guess
    answer = OPERATIONS[letter](world) if letter in OPERATIONS else None
    after = bench.supervisor.state
    if letter == "heal":
        world.faults = frozenset()
    elif letter in FAULTS:
        world.faults |= {letter}
    if letter == "engage" and answer is not None and answer.success:
        world.engaged_s, world.let_go = 0.0, False
    let_go, lost = world.let_go, world.lost
    world.let_go |= "device" in world.faults
    if letter == "tighten" and answer is not None and answer.success:
        world.tightened = True
    engaged_s = world.engaged_s
    ticks = world.tick(TICKS.get(letter, 12))
    passage = Passage(
        letter=letter,
        answer=answer,
        faults=world.faults,
        before=before,
        after=after,
        last_command=last,
        ticks=ticks,
        engaged_s=engaged_s,
        tightened=world.tightened,
        let_go=let_go,
        lost=lost,
        was_resting=was_resting,
        may_guess=may_guess,
        pose=bench.pose,
    )
    stopped = lost or any(tick.reason is Reason.JOINTS_LOST for tick in ticks)
    world.lost = stopped and bench.last.state.is_latched
    world.engaged_s = 0.0 if passage.moves else engaged_s + len(ticks) * 0.02
    return world, passage


def explore(depth: int) -> Iterator[tuple[tuple[str, ...], Passage]]:
    """Every letter in every situation that `depth` letters can lead to, with a word that leads there."""
    start = World()
    start.tick(5)
    frontier: list[tuple[tuple[str, ...], World]] = [((), start)]
    seen = {start.situation}
    for _ in range(depth):
        following: list[tuple[tuple[str, ...], World]] = []
        for word, world in frontier:
            for letter in LETTERS:
                after, passage = passages(world, letter)
                yield (*word, letter), passage
                if after.situation not in seen:
                    seen.add(after.situation)
                    following.append(((*word, letter), after))
        frontier = following


def broken(depth: int) -> tuple[int, list[str]]:
    count, found = 0, []
    for word, passage in explore(depth):
        count += 1
        found += [f"{' '.join(word)}: {promise}" for promise, holds in PROMISES.items() if not holds(passage)]
    return count, found


@pytest.mark.slow
def test_every_promise_holds_after_every_sequence_of_calls_and_faults() -> None:
    """To depth 4; `SIGMA_PROMISE_DEPTH=6` (make safety) goes to depth 6."""
    count, found = broken(int(os.environ.get("SIGMA_PROMISE_DEPTH", "4")))
    assert not found, f"{len(found)} of {count}; " + " | ".join(found[:10])
    assert count > 1000


def test_the_safety_page_lists_every_promise() -> None:
    section = PAGE.read_text(encoding="utf-8").split("<!-- promises -->")[1]
    assert re.findall(r"^- (.*)$", section, flags=re.MULTILINE) == list(PROMISES)


def test_every_law_that_the_safety_page_names_exists() -> None:
    """Each guarantee has one at least, or a measured row."""
    text = PAGE.read_text(encoding="utf-8")
    laws = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    tests = Path(__file__).resolve().parents[1]
    missing = [
        f"{file}::{law}"
        for file, law in laws
        if not any(f"def {law}(" in path.read_text(encoding="utf-8") for path in tests.rglob(file))
    ]
    assert missing == []
    guarantees = re.findall(r"^\| (G\d+) \|.*\|([^|]*)\|$", text, flags=re.MULTILINE)
    assert len(guarantees) >= 17
    assert [name for name, law in guarantees if "::" not in law] == []
