# SPDX-License-Identifier: Apache-2.0
"""How much of real motion the limits bound: recordings through the guard, tick by tick.

    python -m safety.transparency RECORDING... [--contract so101]

RECORDING is `FILE[:COLUMN]@FPS`: a NumPy archive with an array [ticks, joints] in COLUMN, or a table (.csv, .parquet)
whose columns end in COLUMN or hold a list of joints. `--unit 0.0175` turns the recording's unit into radians. Each is
run from its first pose; the ticks until the guard has caught up with a recording that begins in motion do not count.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy import ndarray
from scipy.signal import butter, filtfilt

from sigma_ros.contract_file import load_contract
from sigma_ros.supervisor.chunks import Spline
from sigma_ros.supervisor.guard import MotionGuard, Request
from sigma_ros.supervisor.limits import MotionLimits

_HINT_TICKS = 5
_CATCH_UP_TICKS = 25
_FREE_RAD = 6.3
"""Position limits are left out: a recording of another arm has others."""


def read(spec: str, unit_rad: float) -> tuple[str, ndarray, float]:
    """Name, positions [ticks, joints] in rad, and rate."""
    place, _, fps = spec.rpartition("@")
    name, _, column = place.partition(":")
    path = Path(name)
    if path.suffix == ".npz":
        values = np.array(np.load(path)[column], dtype=np.float64)
    else:
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        columns = [c for c in frame.columns if c.endswith(column)]
        values = np.stack(frame[columns[0]].to_list()) if len(columns) == 1 else frame[columns].to_numpy()
        if "timestamp" in frame.columns and path.suffix == ".csv":
            values = _on_grid(frame["timestamp"].to_numpy(), values, float(fps))
    return f"{path.name} {column}", values.astype(np.float64) * unit_rad, float(fps)


def _on_grid(times_s: ndarray, values: ndarray, fps: float) -> ndarray:
    grid = np.arange(times_s[0], times_s[-1], 1.0 / fps)
    return np.stack([np.interp(grid, times_s, column) for column in values.T], axis=1)


def low_passed(positions: ndarray, fps: float, corner_hz: float) -> ndarray:
    """The motion without what is faster: what is left is the arm, what went was noise."""
    b, a = butter(2, corner_hz / (0.5 * fps))
    return np.asarray(filtfilt(b, a, positions, axis=0))


def run(positions_rad: ndarray, fps: float, limits: MotionLimits) -> dict[str, float]:
    """Shares and sizes of what was bounded, and what the motion itself asks for."""
    period_ns = round(limits.period_s * 1e9)
    spline = Spline(
        origin_ns=0, step_ns=round(1e9 / fps), base_rad=positions_rad, residual_rad=np.zeros_like(positions_rad)
    )
    guard = MotionGuard(limits)
    track = guard.rest(positions_rad[0])
    clipped, misses, joined = [], [], False
    for tick in range(1, int((len(positions_rad) - 1) / fps / limits.period_s)):
        times = period_ns * (tick + np.array([0, 1, 2, -_HINT_TICKS, _HINT_TICKS], dtype=np.int64))
        p = spline.positions_rad(times, 0.0)
        hint_s = _HINT_TICKS * limits.period_s
        request = Request(
            upcoming_rad=p[:3],
            velocity_radps=(p[4] - p[3]) / (2.0 * hint_s),
            acceleration_radps2=(p[4] - 2.0 * p[0] + p[3]) / hint_s**2,
        )
        step = guard.advance(track, request)
        track = step.track
        joined = joined or not step.clipped.any() or tick > _CATCH_UP_TICKS
        if joined:
            clipped.append(bool(step.clipped.any()))
            misses.append(float(step.miss_rad.max()))
    times = np.arange(0, int((len(positions_rad) - 1) * 1e9 / fps), period_ns)
    stream = spline.positions_rad(times, 0.0)
    a, j = (np.abs(np.diff(stream, k, axis=0)).max(axis=1) / limits.period_s**k for k in (2, 3))
    return {
        "ticks": len(clipped),
        "clipped": float(np.mean(clipped)),
        "miss_mrad": 1e3 * max(misses),
        "a": float(np.percentile(a, 99.5)),
        "j": float(np.percentile(j, 99.5)),
    }


def limits_of(contract_name: str, dof: int, *, bring_up: tuple[float, float] | None = None) -> MotionLimits:
    """The contract's limits of its first joint for every joint; `bring_up` replaces acceleration and jerk."""
    contract, one = load_contract(contract_name), np.ones(dof)
    a = contract.max_acceleration_radps2[0] if bring_up is None else bring_up[0]
    j = contract.max_jerk_radps3[0] if bring_up is None else bring_up[1]
    return MotionLimits(
        lower_rad=-_FREE_RAD * one,
        upper_rad=_FREE_RAD * one,
        velocity_radps=contract.max_velocity_radps[0] * one,
        acceleration_radps2=a * one,
        jerk_radps3=j * one,
        period_s=contract.command_period_ns / 1e9,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", metavar="FILE[:COLUMN]@FPS")
    parser.add_argument("--contract", default="so101")
    parser.add_argument("--unit", type=float, default=1.0, help="radians per unit of the recording")
    parser.add_argument("--low-pass", type=float, default=0.0, help="only the motion below so many Hz")
    options = parser.parse_args(arguments)
    head = "| recording | ticks | acceleration, jerk (99.5 %) | bounded at 10, 100 | bounded now | farthest off mrad |"
    sys.stdout.write(f"{head}\n| --- | ---: | ---: | ---: | ---: | ---: |\n")
    for spec in options.recordings:
        name, positions, fps = read(spec, options.unit)
        if options.low_pass:
            name, positions = f"{name}, below {options.low_pass:g} Hz", low_passed(positions, fps, options.low_pass)
        now = run(positions, fps, limits_of(options.contract, positions.shape[1]))
        then = run(positions, fps, limits_of(options.contract, positions.shape[1], bring_up=(10.0, 100.0)))
        sys.stdout.write(
            f"| {name} | {now['ticks']:.0f} | {now['a']:.1f}, {now['j']:.0f} | {then['clipped']:.1%} "
            f"| {now['clipped']:.2%} | {now['miss_mrad']:.1f} |\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
