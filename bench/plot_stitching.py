# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/stitching.svg: commands at chunk borders, stitched by stamp against naive switching.

Run from the repository: python bench/plot_stitching.py [--out docs/images/stitching.svg]
The policy is synthetic: a smooth plan, each chunk a little beside it (as flow noise does), latencies of 0-400 ms.
"""

import argparse
from pathlib import Path

import numpy as np

from sigma_ros.contract_file import load_contract
from sigma_ros.risk import assess
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.supervisor import Supervisor
from sigma_ros.values import AdapterSettings, Chunk

MS = 1_000_000
CONTRACT = load_contract("so101")
STEP, PERIOD = CONTRACT.tick_period_ns, CONTRACT.command_period_ns
REPLAN = 8 * STEP
LATENCIES_MS = (0, 400, 60, 330, 120, 400, 20, 300, 180, 380, 0, 250)
HOME = np.zeros(CONTRACT.dof)
COLOURS = {"naive switching": "#c0392b", "latest": "#2471a3", "crossfade, 4 steps": "#229954"}
WIDTH, HEIGHT, LEFT, TOP = 900, 230, 70, 40


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
    return Chunk(
        chunk_id=number,
        epoch=0,
        tick=number * 8,
        stamp_ns=stamp,
        joint_names=CONTRACT.joint_names,
        step_period_ns=STEP,
        base_rad=base,
        residual_rad=np.zeros_like(base),
        scale=0.0,
        risk=assess(residual_ratio=0.0, factor_ratio=1.0, alignment=1.0),
        settings=AdapterSettings(),
        tau_l2=0.0,
        sem_align=0.0,
        observation_age_ns=0,
        inference_ns=0,
        checkpoint_hash="",
        crossfade_steps=crossfade_steps,
    )


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


def panel(curves: dict[str, np.ndarray], *, top: int, label: str) -> list[str]:
    low = min(float(values.min()) for values in curves.values())
    high = max(float(values.max()) for values in curves.values())
    seconds = len(LATENCIES_MS) * REPLAN * 1e-9
    out = [
        f'<text x="{LEFT - 8}" y="{top + 12}" text-anchor="end">{high:.2f}</text>',
        f'<text x="{LEFT - 8}" y="{top + HEIGHT}" text-anchor="end">{low:.2f}</text>',
        f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{label}</text>',
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#bbb"/>',
    ]
    for arrived, _ in chunks():
        x = LEFT + WIDTH * arrived * 1e-9 / seconds
        if x <= LEFT + WIDTH:
            out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + HEIGHT}" stroke="#e5e5e5"/>')
    for name, values in curves.items():
        xs = LEFT + WIDTH * np.arange(len(values)) * PERIOD * 1e-9 / seconds
        ys = top + HEIGHT * (high - values) / (high - low)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True) if x <= LEFT + WIDTH)
        out.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[name]}" stroke-width="1.6"/>')
    return out


def picture(curves: dict[str, np.ndarray]) -> str:
    speeds = {name: np.diff(values) / (PERIOD * 1e-9) for name, values in curves.items()}
    body = panel(curves, top=TOP, label="command of one joint [rad]; grey: a chunk arrives")
    body += panel(speeds, top=TOP + HEIGHT + 50, label="its speed [rad/s], limit 2")
    for i, (name, colour) in enumerate(COLOURS.items()):
        worst = float(np.abs(speeds[name]).max())
        x, y = LEFT + 10 + 300 * i, TOP + 2 * HEIGHT + 80
        body.append(f'<text x="{x}" y="{y}" fill="{colour}">{name}: up to {worst:.1f} rad/s</text>')
    size = f'width="{LEFT + WIDTH + 20}" height="{TOP + 2 * HEIGHT + 100}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/stitching.svg"))
    out = parser.parse_args().out
    curves = {"naive switching": naive(), "latest": supervised(0), "crossfade, 4 steps": supervised(4)}
    out.write_text(picture(curves), encoding="utf-8")
    print("| stitching | largest speed | largest jump in 20 ms |\n| --- | --- | --- |")
    for name, values in curves.items():
        jump = float(np.abs(np.diff(values)).max())
        print(f"| {name} | {jump / (PERIOD * 1e-9):.2f} rad/s | {jump:.4f} rad |")


if __name__ == "__main__":
    main()
