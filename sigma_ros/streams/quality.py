# SPDX-License-Identifier: Apache-2.0
"""What is odd about a recording, said in words: holes in a stream, joints that stand or saturate, actions without lead.

Nothing here is refused. In the spirit of lerobot-doctor and rosbag-doctor: what a person would see in the curves.
"""

import zlib
from collections.abc import Buffer, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from sigma_ros.values import NS_PER_S

_DROPPED = 1.5
"""An interval longer than so many usual ones has lost messages."""

_STILL = 0.01
"""Motion below this share of a joint's whole range is none."""

_LEAST_STILL_S = 2.0
_SATURATED_SHARE = 0.05
_EQUAL = 1e-9
_LONGEST_DELAY_TICKS = 15
_LEAST_ROWS = 40
_ALTERNATES = 4.0
_OTHER_UNIT = 10.0
_BETTER = 0.7
"""A delay is named where it explains the states by this much better than no delay."""


FROZEN_PICTURES = 30
"""So many equal pictures in a row: a second."""

_SAMPLED_BYTES = 4096


class FreezeWatch:
    """Sees a camera that hangs: a real sensor never gives the same bytes twice, a driver that repeats its picture does.

    Compares a sample of each picture's bytes with the one before; a few microseconds a picture.
    """

    def __init__(self) -> None:
        self._sum = 0
        self._repeats = 0

    @property
    def is_frozen(self) -> bool:
        """Whether the last second's pictures were all the same."""
        return self._repeats >= FROZEN_PICTURES

    def note(self, picture: Buffer) -> None:
        """Takes in a picture's bytes."""
        data = memoryview(picture).cast("B")
        sample = zlib.crc32(data[:: max(1, len(data) // _SAMPLED_BYTES)].tobytes(), len(data))
        self._repeats = self._repeats + 1 if sample == self._sum else 0
        self._sum = sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """How regularly messages come: usual rate [Hz], messages that holes leave out, the longest hole [s]."""

    rate_hz: float
    dropped: int
    longest_gap_s: float


def rhythm(stamps_ns: Int64[ndarray, " n"]) -> Rhythm | None:
    """Of a stream's stamps in the order in which they came, steps back left out; None for fewer than three."""
    steps_s = np.diff(stamps_ns) / NS_PER_S
    steps_s = steps_s[steps_s > 0.0]
    if len(steps_s) < 2:
        return None
    usual_s = float(np.median(steps_s))
    long = steps_s[steps_s > _DROPPED * usual_s]
    dropped = int(np.round(long / usual_s - 1.0).sum())
    return Rhythm(rate_hz=1.0 / usual_s, dropped=dropped, longest_gap_s=float(steps_s.max()))


def motion_findings(
    names: Sequence[str],
    states: Float64[ndarray, "rows dof"],
    actions: Float64[ndarray, "rows dof"] | None,
    *,
    rate_hz: float,
) -> list[str]:
    """What is odd about joints and actions of neighbouring rows, in any unit; empty for a recording without oddities.

    Args:
        names: Of the joints.
        states: Measured poses, one a row.
        actions: What was asked for in the same rows, in the same unit; None where nothing was recorded.
        rate_hz: Rows a second.
    """
    finite = np.isfinite(states).all(axis=1) & (True if actions is None else np.isfinite(actions).all(axis=1))
    states, actions = states[finite], None if actions is None else actions[finite]
    if len(states) < _LEAST_ROWS:
        return []
    found = _constant(names, states) + _saturated(names, states) + _still(states, rate_hz) + _two_arms(states)
    return found if actions is None else found + _action(names, states, actions, rate_hz)


def moves(states: Float64[ndarray, "rows dof"], rows: slice) -> bool:
    """Whether a joint moves in these rows by more than its noise."""
    span = np.ptp(states, axis=0)
    return bool((np.ptp(states[rows], axis=0) > np.maximum(_STILL * span, _EQUAL)).any())


def delay_ticks(states: Float64[ndarray, "rows dof"], actions: Float64[ndarray, "rows dof"]) -> int | None:
    """By how many rows the states follow the actions; negative where the actions follow. None where none explains."""
    errors = {k: _error(states, actions, k) for k in range(-_LONGEST_DELAY_TICKS, _LONGEST_DELAY_TICKS + 1)}
    best = min(errors, key=lambda k: (errors[k], abs(k)))
    return best if errors[best] <= _BETTER * errors[0] or best == 0 else None


def _error(states: ndarray, actions: ndarray, delay: int) -> float:
    """Distance of the actions from the states `delay` rows later, without a constant offset between the two."""
    rows = len(states) - abs(delay)
    difference = states[max(delay, 0) :][:rows] - actions[max(-delay, 0) :][:rows]
    return float(difference.std(axis=0).sum())


def _action(names: Sequence[str], states: ndarray, actions: ndarray, rate_hz: float) -> list[str]:
    found = []
    for name, moved, asked in zip(names, np.ptp(states, axis=0), np.ptp(actions, axis=0), strict=True):
        if moved > _EQUAL and asked > _EQUAL and not 1.0 / _OTHER_UNIT < asked / moved < _OTHER_UNIT:
            found.append(f"the action of {name} spans {asked:.3g} where its state spans {moved:.3g}: another unit?")
    return found + _lead(states, actions, rate_hz)


def _lead(states: ndarray, actions: ndarray, rate_hz: float) -> list[str]:
    for delay in range(-_LONGEST_DELAY_TICKS, _LONGEST_DELAY_TICKS + 1):
        rows = len(states) - abs(delay)
        if np.abs(states[max(delay, 0) :][:rows] - actions[max(-delay, 0) :][:rows]).max() <= _EQUAL:
            return [_equal(delay)] if (np.ptp(states, axis=0) > _EQUAL).any() else []
    delay_found = delay_ticks(states, actions)
    if delay_found is None:
        return []
    if delay_found < 0:
        return [f"the action follows the state by {-delay_found} ticks: commands that come after the motion?"]
    return [f"the state follows the action by {delay_found} ticks ({delay_found / rate_hz * 1e3:.0f} ms)"]


def _equal(delay: int) -> str:
    if delay == 0:
        return "the action equals the state in every row: it teaches standing still"
    return f"the action is exactly the state {abs(delay)} tick(s) {'later' if delay > 0 else 'earlier'}"


def _constant(names: Sequence[str], states: ndarray) -> list[str]:
    return [f"{name} never moves" for name, span in zip(names, np.ptp(states, axis=0), strict=True) if span <= _EQUAL]


def _saturated(names: Sequence[str], states: ndarray) -> list[str]:
    found = []
    for name, values in zip(names, states.T, strict=True):
        for end, word in ((values.min(), "lowest"), (values.max(), "highest")):
            share = float((values == end).mean())
            if np.ptp(values) > _EQUAL and share > _SATURATED_SHARE:
                found.append(f"{name} stands at exactly its {word} value, {end:.4g}, in {share:.0%} of the rows")
    return found


def _still(states: ndarray, rate_hz: float) -> list[str]:
    """Stretches in which no joint moves, as their share and the longest of them."""
    spans = np.maximum(np.ptp(states, axis=0), _EQUAL)
    steps: Bool[ndarray, " steps"] = (np.abs(np.diff(states, axis=0)) / spans).max(axis=1) < _STILL / rate_hz
    lengths = [len(run) for run in _runs(steps) if len(run) / rate_hz >= _LEAST_STILL_S]
    if not lengths:
        return []
    share, longest_s = sum(lengths) / len(states), max(lengths) / rate_hz
    return [f"nothing moves in {share:.0%} of the rows, {longest_s:.1f} s at the longest"]


def _two_arms(states: ndarray) -> list[str]:
    """Rows that lie far from their neighbours and near to those after next."""
    next_rows, after_next = (float(np.median(np.abs(states[k:] - states[:-k]).max(axis=1))) for k in (1, 2))
    if next_rows <= _ALTERNATES * max(after_next, _EQUAL):
        return []
    return ["poses alternate between two that are far apart: two arms on one topic?"]


def _runs(flags: ndarray) -> list[ndarray]:
    """Runs of true flags, each as its indices."""
    (places,) = np.nonzero(flags)
    return np.split(places, np.nonzero(np.diff(places) > 1)[0] + 1) if len(places) else []
