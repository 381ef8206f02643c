# SPDX-License-Identifier: Apache-2.0
"""How late a robot's parts are, from streams in which it moves: its camera, its policy, its arm.

* arm: the lag at which the measured joints' speed fits the commanded one best (cross-correlation with a parabola);
* camera: the lag at which the change from picture to picture fits how far the joints moved in between, in ranks, for
  brightness and speed are not proportional;
* policy: from a chunk's stamp, which is that of its observation, to its arrival; the median.

Joint stamps are the reference: what they lack themselves is not seen.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float64, UInt8
from numpy import ndarray
from scipy.stats import rankdata

from sigma_ros.contract import Contract, Delays
from sigma_ros.errors import SigmaError
from sigma_ros.streams.stream import JOINTS, LEAST_SPACING
from sigma_ros.values import NS_PER_S

LONGEST_S = 0.8
"""Longest lag that is looked for; a picture may also seem up to `_AHEAD_S` early, by noise."""
_AHEAD_S = 0.05
_STEP_S = 0.005
_SMOOTHED_S = 0.1
"""Speeds are differences over this long: commands come in steps."""
_LEAST_S, _LEAST_TRAVEL_RAD = 3.0, 0.5
_LEAST_FIT = 0.5
_BROKEN = 0.01
_PICTURE_PX = (64, 48)


@dataclass(slots=True)
class Motion:
    """Streams of a moving robot as they come in: stamps [ns] with joint positions [rad], picture changes, chunks.

    A command is in force until the next one. A picture's change is its mean absolute difference from the one before.
    """

    joints: list[tuple[int, ndarray]] = field(default_factory=list)
    commands: list[tuple[int, ndarray]] = field(default_factory=list)
    changes: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    chunk_delays_ns: list[int] = field(default_factory=list)
    _before: dict[str, ndarray] = field(default_factory=dict)

    def picture(self, camera: str, stamp_ns: int, pixels: UInt8[ndarray, "h w 3"]) -> None:
        """Takes the next picture of a camera; of the picture itself only a small grey copy is kept."""
        small = cv2.resize(pixels.mean(axis=2).astype(np.float32), _PICTURE_PX, interpolation=cv2.INTER_AREA)
        before = self._before.get(camera)
        change = 0.0 if before is None else float(np.abs(small - before).mean())
        self.changes.setdefault(camera, []).append((stamp_ns, change))
        self._before[camera] = small


def measure(motion: Motion, contract: Contract) -> Delays:
    """The delays of a robot; what its streams cannot say is left out (None).

    Raises:
        SigmaError: it hardly moved, or nothing fits anything: there is no delay that could be told.
    """
    joints = _sampled(motion.joints, "joint states", contract)
    _check_travel(joints)
    cameras = [_camera_lag_s(changes, joints, name) for name, changes in motion.changes.items() if len(changes) > 1]
    arm = _actuator_lag_s(_sampled(motion.commands, "commands", contract), joints) if motion.commands else None
    chunks = motion.chunk_delays_ns
    return Delays(
        camera_ns=_ns(max(cameras)) if cameras else None,
        inference_ns=round(float(np.median(chunks))) if chunks else None,
        actuator_ns=_ns(arm) if arm is not None else None,
    )


def rates_hz(motion: Motion) -> dict[str, float]:
    """What each camera and the joints (`JOINTS`) can promise to send at most [1/s]: the rate of their usual interval.

    A stream is left out that is shorter than 3 s, or would break its promise more than once in a hundred messages.
    """
    stamps = {name: [stamp_ns for stamp_ns, _ in changes] for name, changes in motion.changes.items()}
    found = {}
    for name, of in (stamps | {JOINTS: [stamp_ns for stamp_ns, _ in motion.joints]}).items():
        steps_s = np.diff(np.sort(np.array(of))) / NS_PER_S
        if steps_s.sum() < _LEAST_S:
            continue
        usual_s = float(np.median(steps_s))
        if usual_s > 0.0 and (steps_s < LEAST_SPACING * usual_s).mean() <= _BROKEN:
            found[name] = round(1.0 / usual_s, 1)
    return found


@dataclass(frozen=True, slots=True)
class _Track:
    """A stream's positions at its own times [s]."""

    times_s: Float64[ndarray, " n"]
    positions_rad: Float64[ndarray, "n dof"]


def _sampled(samples: list[tuple[int, ndarray]], name: str, contract: Contract) -> _Track:
    ordered = sorted(samples, key=lambda sample: sample[0])
    times_s = np.array([stamp_ns for stamp_ns, _ in ordered]) / NS_PER_S
    if len(ordered) < 2 or times_s[-1] - times_s[0] < _LEAST_S:
        got = f"{len(ordered)} in {times_s[-1] - times_s[0] if ordered else 0.0:.1f} s"
        raise SigmaError(f"too few {name} to measure a delay", expected=f"{_LEAST_S:g} s of them", got=got)
    positions = np.array([positions_rad for _, positions_rad in ordered], dtype=np.float64)
    if positions.shape[1] != contract.dof or not np.isfinite(positions).all():
        raise SigmaError(f"the {name} cannot be used", expected=f"{contract.dof} finite joints", got=positions.shape)
    return _Track(times_s, positions)


def _check_travel(joints: _Track) -> None:
    travel_rad = float(np.abs(np.diff(joints.positions_rad, axis=0)).sum(axis=0).max())
    if travel_rad < _LEAST_TRAVEL_RAD:
        raise SigmaError(
            "the arm hardly moved: a delay shows only in motion",
            expected=f"a joint that travels {_LEAST_TRAVEL_RAD:g} rad",
            got=f"{travel_rad:.2f} rad",
            remedy="let it do its task, or move it by a leader arm, while this measures",
        )


def _actuator_lag_s(commands: _Track, joints: _Track) -> float:
    """Lag of the measured behind the commanded speeds of all joints together."""
    first = max(commands.times_s[0], joints.times_s[0]) + LONGEST_S + _SMOOTHED_S
    last = min(commands.times_s[-1], joints.times_s[-1]) - _SMOOTHED_S
    times_s = np.arange(first, last, _STEP_S)
    _check_overlap(times_s, "commands and joint states")
    measured = _speeds(_interpolated(joints), times_s)
    held = _held(commands)
    return _best_lag_s(lambda lag_s: _correlation(_speeds(held, times_s - lag_s), measured), 0.0, "joints and commands")


def _camera_lag_s(changes: list[tuple[int, float]], joints: _Track, name: str) -> float:
    """Lag of the pictures' changes behind the joints' motion."""
    times_s = np.array([stamp_ns for stamp_ns, _ in changes]) / NS_PER_S
    steps = np.abs(np.diff(joints.positions_rad, axis=0)).sum(axis=1)
    travelled = np.concatenate([[0.0], np.cumsum(steps)])
    inside = (times_s[:-1] - LONGEST_S >= joints.times_s[0]) & (times_s[1:] + _AHEAD_S <= joints.times_s[-1])
    _check_overlap(times_s[1:][inside], f"pictures of {name} and joint states")
    seen = rankdata(np.array([change for _, change in changes])[1:][inside])

    def fit(lag_s: float) -> float:
        path = np.interp(times_s - lag_s, joints.times_s, travelled)
        return _correlation(rankdata(np.diff(path)[inside]), seen)

    return _best_lag_s(fit, -_AHEAD_S, f"the pictures of {name} and the joints")


def _check_overlap(times_s: ndarray, what: str) -> None:
    if len(times_s) < 2 or times_s[-1] - times_s[0] < _LEAST_S - LONGEST_S:
        raise SigmaError(
            f"{what} are hardly there together", expected=f"{_LEAST_S:g} s of both", remedy="measure longer"
        )


def _best_lag_s(fit: Callable[[float], float], first_s: float, what: str) -> float:
    """The lag of the best fit, between the steps of the search."""
    lags = np.arange(first_s, LONGEST_S + _STEP_S / 2, _STEP_S)
    fits = np.array([fit(float(lag_s)) for lag_s in lags])
    best = int(np.argmax(fits))
    if not fits[best] >= _LEAST_FIT:
        got = f"a correlation of at most {fits[best]:.2f}"
        raise SigmaError(f"{what} do not belong together", expected=f"at least {_LEAST_FIT:g} at some lag", got=got)
    if 0 < best < len(lags) - 1:
        below, here, above = fits[best - 1 : best + 2]
        bend = below - 2.0 * here + above
        return float(lags[best] + (0.5 * _STEP_S * (below - above) / bend if bend < 0.0 else 0.0))
    return float(lags[best])


def _interpolated(track: _Track) -> Callable[[ndarray], ndarray]:
    columns = track.positions_rad.T
    return lambda times_s: np.stack([np.interp(times_s, track.times_s, column) for column in columns], axis=1)


def _held(track: _Track) -> Callable[[ndarray], ndarray]:
    def at(times_s: ndarray) -> ndarray:
        places = np.searchsorted(track.times_s, times_s, side="right") - 1
        found: ndarray = track.positions_rad[np.maximum(places, 0)]
        return found

    return at


def _speeds(positions: Callable[[ndarray], ndarray], times_s: Float64[ndarray, " n"]) -> Float64[ndarray, "n dof"]:
    half_s = _SMOOTHED_S / 2
    return (positions(times_s + half_s) - positions(times_s - half_s)) / _SMOOTHED_S


def _correlation(one: ndarray, other: ndarray) -> float:
    """Pearson's, over all entries; 0 where one does not change."""
    a, b = one - one.mean(axis=0), other - other.mean(axis=0)
    size = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / size if size > 0.0 else 0.0


def _ns(seconds: float) -> int:
    return max(0, round(seconds * NS_PER_S))
