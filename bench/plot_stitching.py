# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/stitching.svg: commands at chunk borders, stitched by stamp against naive switching.

Run from the repository: python bench/plot_stitching.py [--out docs/images/stitching.svg]
The policy is synthetic: a smooth plan, each chunk a little beside it (as flow noise does), latencies of 0-400 ms.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from sigma_ros.contract_file import load_contract
from sigma_ros.risk import plain_chunk
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.supervisor import Supervisor
from sigma_ros.values import Chunk

MS = 1_000_000
CONTRACT = load_contract("so101")
STEP, PERIOD = CONTRACT.tick_period_ns, CONTRACT.command_period_ns
REPLAN = 8 * STEP
LATENCIES_MS = (0, 400, 60, 330, 120, 400, 20, 300, 180, 380, 0, 250)
HOME = np.zeros(CONTRACT.dof)
COLOURS = {"naive switching": "#c0392b", "latest": "#2471a3", "crossfade, 4 steps": "#229954"}


def plan(start_ns: int, jump: float) -> np.ndarray:
    times_s = (start_ns + STEP * np.arange(50)) * 1e-9
    return HOME + (0.35 * (1.0 - np.cos(1.6 * times_s)) + jump * (1.0 - np.exp(-times_s)))[:, None]


def chunks() -> list[tuple[int, Chunk]]:
    rng = np.random.default_rng(3)
    made = []
    for i, latency_ms in enumerate(LATENCIES_MS):
        stamp = i * REPLAN
        base = plan(stamp, float(rng.uniform(-0.05, 0.05)))
        made.append((stamp + latency_ms * MS, chunk(base, i, stamp)))
    return made


def chunk(base: np.ndarray, number: int, stamp: int, crossfade_steps: int = 0) -> Chunk:
    return plain_chunk(CONTRACT, base, stamp_ns=stamp, chunk_id=number, crossfade_steps=crossfade_steps)


def naive() -> np.ndarray:
    played = []
    for now in range(0, len(LATENCIES_MS) * REPLAN, PERIOD):
        arrived, newest = max(((a, c) for a, c in chunks() if a <= now), key=lambda entry: entry[0])
        played.append(newest.base_rad[min(49, (now - arrived) // STEP), 0])
    return np.array(played)


def supervised(crossfade_steps: int) -> np.ndarray:
    supervisor = Supervisor(CONTRACT, SupervisorLimits(require_heartbeat=False, check_tracking=False))
    pose, played, offset = HOME, [], 10**9
    waiting = [(a + offset, chunk(c.base_rad, c.chunk_id, c.stamp_ns + offset, crossfade_steps)) for a, c in chunks()]
    for now in range(offset - PERIOD, offset + len(LATENCIES_MS) * REPLAN, PERIOD):
        supervisor.on_joints(now, pose, now)
        for arrived, one in [entry for entry in waiting if entry[0] <= now]:
            supervisor.on_chunk(one, now)
            waiting.remove((arrived, one))
        supervisor.engage(now)
        decision = supervisor.tick(now)
        if decision.command_rad is not None:
            pose = decision.command_rad
            if now >= offset:
                played.append(float(pose[0]))
    return np.array(played)


def draw(curves: dict[str, np.ndarray], out: Path) -> None:
    period_s = PERIOD * 1e-9
    speeds = {name: np.diff(values) / period_s for name, values in curves.items()}
    plt.rcParams["svg.fonttype"] = "none"
    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(9.6, 6.0), layout="constrained")
    for shown, panel in zip((curves, speeds), axes, strict=True):
        for name, values in shown.items():
            panel.plot(period_s * np.arange(len(values)), values, color=COLOURS[name])
        for arrived, _ in chunks():
            panel.axvline(arrived * 1e-9, color="#e5e5e5", zorder=0)
    axes[0].set(title="command of one joint [rad]; grey: a chunk arrives", xlim=(0, len(LATENCIES_MS) * REPLAN * 1e-9))
    axes[1].set(title="its speed [rad/s], limit 2", xlabel="time [s]")
    figure.legend(
        [f"{name}: up to {np.abs(v).max():.1f} rad/s" for name, v in speeds.items()],
        loc="outside lower center",
        ncols=3,
    )
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/stitching.svg"))
    out = parser.parse_args().out
    curves = {"naive switching": naive(), "latest": supervised(0), "crossfade, 4 steps": supervised(4)}
    draw(curves, out)
    print("| stitching | largest speed | largest jump in 20 ms |\n| --- | --- | --- |")
    for name, values in curves.items():
        jump = float(np.abs(np.diff(values)).max())
        print(f"| {name} | {jump / (PERIOD * 1e-9):.2f} rad/s | {jump:.4f} rad |")


if __name__ == "__main__":
    main()
