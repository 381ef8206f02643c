# SPDX-License-Identifier: Apache-2.0
"""Which windows a step trains on: endless streams of episodes, each read window after window as the robot would.

A step takes a piece of every stream: a whole episode, or its next windows with back-propagation cut between the
pieces. A cue that a piece no longer holds cannot be learned to be remembered. Where a stream stands is three integers,
so a run resumes exactly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from sigma_ros.errors import DatasetError
from sigma_ros.model.normalise import Normalisation
from sigma_ros.values import WINDOW_TICKS

from .cache import CachedEpisode
from .data import action_rows
from .sources import TARGET_STEPS

_STREAM_SEED = 3
_LATENESS_SEED = 5


@dataclass(frozen=True, slots=True)
class StreamPlace:
    """Where a stream stands: its `drawn`-th episode, at the `taken`-th window of it."""

    drawn: int = 0
    taken: int = 0


@dataclass(frozen=True, slots=True)
class Segment:
    """What a stream gives to a step: consecutive rows of one episode. `fresh`: the memory starts empty."""

    episode: int
    rows: tuple[int, ...]
    fresh: bool


class Rows(Protocol):
    """An episode's possible window ticks."""

    @property
    def rows(self) -> tuple[int, ...]:
        """Ascending."""


class Streams:
    """The streams of a whole run; a process asks for its own ones.

    Args:
        episodes: Those that are trained on.
        stride: Ticks between two windows of an episode, as between two commits of the memory.
        phase_step: Phases of the stride are multiples of it.
        seed: Of the draws.
        unroll: Consecutive windows through which a gradient flows; None: those of the whole episode.
    """

    def __init__(
        self, episodes: Sequence[Rows], *, stride: int, phase_step: int, seed: int, unroll: int | None = None
    ) -> None:
        self._seed = seed
        self._windows = {
            (number, phase): rows
            for number, episode in enumerate(episodes)
            for phase in range(0, stride, phase_step)
            if (rows := tuple(row for row in episode.rows if row % stride == phase))
        }
        self._choices = sorted(self._windows)
        if not self._choices:
            raise DatasetError("no window to train on", expected=f"episodes of at least {TARGET_STEPS} ticks")
        self._unroll = unroll or max(len(rows) for rows in self._windows.values())

    @property
    def windows_per_piece(self) -> float:
        """How many windows a piece has on average, for the rate that is shown."""
        counts = [len(rows) for rows in self._windows.values()]
        return sum(counts) / sum(-(-count // self._unroll) for count in counts)

    def next(self, stream: int, place: StreamPlace) -> tuple[Segment, StreamPlace]:
        """The piece at a place, and the place behind it. A pure function of seed, stream and place."""
        rng = np.random.default_rng([self._seed, _STREAM_SEED, stream, place.drawn])
        number, phase = self._choices[int(rng.integers(len(self._choices)))]
        rows = self._windows[number, phase]
        piece = Segment(number, rows[place.taken : place.taken + self._unroll], fresh=place.taken == 0)
        after = replace(place, taken=place.taken + self._unroll)
        return piece, after if after.taken < len(rows) else StreamPlace(place.drawn + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lateness:
    """How late a training run lets its windows be; each window's delay and age are drawn from `seed`.

    `steps` of the chunk are its targets, up to `delay_ticks` pass before it is executed, and the residual is also asked
    for on what is left of a base chunk that is up to `base_age_ticks` old. The defaults are in time.
    """

    steps: int = TARGET_STEPS
    delay_ticks: int = 0
    base_age_ticks: int = 0
    seed: int = 0

    def drawn(self, ages: Sequence[int], *, step: int, episode: int, row: int) -> tuple[int, int]:
        """Delay and age of a window of an optimiser step: a pure function of these and the seed."""
        rng = np.random.default_rng([self.seed, _LATENESS_SEED, step, episode, row])
        return int(rng.integers(self.delay_ticks + 1)), int(rng.choice(ages))


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """One window of every stream. Absent ones (an episode has ended) are zeros with `present` False.

    `known` says which targets were recorded, `corrected` whether an operator acted at the window's tick. `delay`
    [ticks] pass before the fresh chunk is executed; `old_base` is what is left of one planned `age` [ticks] before.
    """

    pooled: Float[Tensor, "batch ticks cameras pooled width"]
    seen: Bool[Tensor, "batch ticks cameras"]
    states: Float[Tensor, "batch ticks dof"]
    valid: Bool[Tensor, "batch ticks"]
    base: Float[Tensor, "batch horizon dof"]
    old_base: Float[Tensor, "batch horizon dof"]
    age: Float[Tensor, " batch"]
    delay: Int64[Tensor, " batch"]
    target: Float[Tensor, "batch steps dof"]
    known: Bool[Tensor, "batch steps"]
    corrected: Bool[Tensor, " batch"]
    present: Bool[Tensor, " batch"]
    tasks: tuple[str, ...]
    names: tuple[str, ...]

    def to(self, device: torch.device) -> "Windows":
        """The same on a device."""
        tensors: dict[str, Any] = {n: v.to(device) for n in self.__slots__ if isinstance(v := getattr(self, n), Tensor)}
        return replace(self, **tensors)

    @classmethod
    def joined(cls, parts: "Sequence[Windows]") -> "Windows":
        """Those of several steps, one behind the other."""
        columns = {name: [getattr(part, name) for part in parts] for name in cls.__slots__}
        joined: dict[str, Any] = {
            name: torch.cat(column) if isinstance(column[0], Tensor) else sum(column, ())
            for name, column in columns.items()
        }
        return cls(**joined)

    @property
    def base_error(self) -> Float[Tensor, " batch"]:
        """Mean squared error of the base over the card's 16 steps: what TRAF ranks by."""
        return (self.target - self.base[:, : self.target.shape[1]])[:, :TARGET_STEPS].square().mean(dim=(1, 2))


def rest_of_chunk(chunk: Float[Tensor, "horizon dof"], age: int) -> Float[Tensor, "horizon dof"]:
    """What is left of a chunk after `age` ticks; its last step is repeated, as on the robot."""
    return torch.cat([chunk[age:], chunk[-1:].expand(age, -1)])


class Assembler:
    """Turns pieces into tensors: slices of cached numbers, normalised with the base's statistics."""

    def __init__(
        self, episodes: Sequence[CachedEpisode], normalisation: Normalisation, lateness: Lateness | None = None
    ) -> None:
        self._episodes = episodes
        self._lateness = lateness or Lateness()
        self._states = [normalisation.state.normalise(e.episode.states) for e in episodes]
        self._actions = [normalisation.action.normalise(e.episode.actions) for e in episodes]

    def windows(self, pieces: Sequence[Segment], step: int, *, late_at: int | None = None) -> Windows:
        """The `step`-th window of every piece; `late_at` is the optimiser step lateness is drawn for, if it is."""
        parts = [self.window(p.episode, p.rows[step], late_at) if step < len(p.rows) else None for p in pieces]
        there = next((part for part in parts if part), None) or self.window(pieces[0].episode, pieces[0].rows[0])
        absent = {name: torch.zeros_like(tensor) for name, tensor in there.items()}
        stacked = {name: torch.stack([absent[name] if p is None else p[name] for p in parts]) for name in there}
        return Windows(
            **stacked,
            present=torch.tensor([part is not None for part in parts]),
            tasks=tuple(self._episodes[piece.episode].episode.task for piece in pieces),
            names=tuple(
                f"episode {self._episodes[p.episode].episode.episode} tick {p.rows[min(step, len(p.rows) - 1)]}"
                for p in pieces
            ),
        )

    def later(self, pieces: Sequence[Segment], step: int, ahead: Sequence[int]) -> Float[Tensor, "batch spans dof"]:
        """Normalised actions `ahead` ticks after the windows, the last ones behind the end; zeros if absent."""
        found = torch.zeros(len(pieces), len(ahead), self._actions[0].shape[1])
        for place, piece in enumerate(pieces):
            if step < len(piece.rows):
                acted = np.flatnonzero(self._episodes[piece.episode].episode.acted)
                rows = acted[np.minimum(np.searchsorted(acted, piece.rows[step] + np.array(ahead)), len(acted) - 1)]
                found[place] = torch.from_numpy(self._actions[piece.episode][rows])
        return found

    def alone(self, places: Sequence[tuple[int, int]], *, late_at: int) -> Windows:
        """Only what the residual needs of windows at (episode, row): their newest state, base chunks and targets."""
        parts = [self._newest(number, row, late_at) for number, row in places]
        stacked = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
        here = torch.ones(len(places), dtype=torch.bool)
        episodes = [self._episodes[number].episode for number, _ in places]
        return Windows(
            **stacked,
            pooled=torch.zeros(len(places), 0),
            seen=here[:, None],
            valid=here[:, None],
            present=here,
            tasks=tuple(episode.task for episode in episodes),
            names=tuple(f"episode {e.episode} tick {row}" for e, (_, row) in zip(episodes, places, strict=True)),
        )

    def window(self, number: int, row: int, late_at: int | None = None) -> Mapping[str, Tensor]:
        """The 16 ticks up to a row, zeros and masked where there is none, and what belongs to the row."""
        cached, episode = self._episodes[number], self._episodes[number].episode
        first = max(0, row - WINDOW_TICKS + 1)
        room = WINDOW_TICKS - (row + 1 - first)
        valid = torch.from_numpy(np.pad(episode.valid[first : row + 1], (room, 0)))
        pooled = cached.pooled(first, row + 1).to(torch.float32)
        pooled = torch.nn.functional.pad(pooled, (0, 0, 0, 0, 0, 0, room, 0)) * valid[:, None, None, None]
        states = torch.from_numpy(np.pad(self._states[number][first : row + 1], ((room, 0), (0, 0))))
        return {
            **self._newest(number, row, late_at),
            "pooled": pooled,
            "seen": valid[:, None] & cached.seen,
            "states": states * valid[:, None],
            "valid": valid,
        }

    def _newest(self, number: int, row: int, late_at: int | None) -> dict[str, Tensor]:
        """What belongs to the row alone."""
        cached, episode = self._episodes[number], self._episodes[number].episode
        ahead = action_rows(episode.acted, row, self._lateness.steps)
        delay, age = (0, 0) if late_at is None else self._drawn(number, row, late_at)
        return {
            "states": torch.from_numpy(self._states[number][row : row + 1]),
            "base": cached.base(row),
            "old_base": rest_of_chunk(cached.base(row - age), age),
            "age": torch.tensor(float(age)),
            "delay": torch.tensor(delay),
            "target": torch.from_numpy(self._actions[number][ahead]),
            "known": torch.from_numpy(episode.acted[ahead]),
            "corrected": torch.tensor(bool(episode.corrected[row])),
        }

    def _drawn(self, number: int, row: int, step: int) -> tuple[int, int]:
        ages = self._episodes[number].ages(row, self._lateness.base_age_ticks)
        return self._lateness.drawn(ages, step=step, episode=number, row=row)
