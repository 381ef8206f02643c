#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The safety campaign: every attack and storm against the supervisor's core, judged by the independent oracle.

    python -m safety.campaign --ticks 100000 --seed 0 --out out/safety

writes `campaign.json` and `campaign.md`. Exit codes: 0 no violation, 1 violations, 2 usage. The same seed and
number of ticks give the same motions on every machine with the same numpy.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Float64
from numpy import ndarray
from numpy.random import Generator
from tqdm import tqdm

from safety import oracle
from safety.attacks import ATTACKS, Attack, View
from safety.storms import STORMS, Storm, StormStage, long_faults, random_settings
from sigma_ros.border import write_text
from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.supervisor.guard import MotionGuard, Request
from sigma_ros.supervisor.limits import MotionLimits, SupervisorLimits

MOTION_TICKS = 1000
"""A motion starts at rest at a random pose and is attacked for this long."""

_CLIMB_TICKS = 60
_LIMITS_FILE = Path(__file__).resolve().parent.parent / "config" / "oracle_so101.yaml"


@dataclass(kw_only=True)
class CampaignRow:
    """What one adversary achieved."""

    adversary: str
    report: oracle.Report = field(default_factory=oracle.Report)
    chunks: int = 0
    injections: int = 0
    clipped: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is attacked, and the oracle's own limits."""

    contract: Contract
    motion: MotionLimits
    limits: oracle.Limits


def attack_row(bench: Bench, name: str, attack: Attack, ticks: int, rng: Generator) -> Iterator[CampaignRow]:
    """One attack on the guard, motion by motion."""
    span = bench.motion.upper_rad - bench.motion.lower_rad
    row = CampaignRow(adversary=name)
    while row.report.ticks < ticks:
        start = bench.motion.lower_rad + span * rng.uniform(0.0, 1.0, bench.motion.dof)
        _attacked(row, bench, attack, start, rng, ticks=min(MOTION_TICKS, ticks - row.report.ticks))
        yield row


def climb_row(bench: Bench, ticks: int, rng: Generator) -> Iterator[CampaignRow]:
    """A search that mutates sequences of goals towards the highest jerk and the deepest overshoot."""
    row = CampaignRow(adversary="hill_climb")
    best, best_score = rng.uniform(-2.0, 2.0, (_CLIMB_TICKS, bench.motion.dof)), -np.inf
    while row.report.ticks < ticks:
        goals = np.array(best)
        touched = rng.random(goals.shape) < 0.1
        goals[touched] += rng.normal(0.0, 10.0 ** rng.uniform(-3.0, 1.0), int(touched.sum()))
        start = np.clip(best[0], bench.motion.lower_rad, bench.motion.upper_rad)
        towards: Attack = lambda _rng, view, goals=goals: Request.at(goals[view.tick])  # type: ignore[misc]  # noqa: E731
        score = _overuse(bench, _attacked(row, bench, towards, start, rng, ticks=len(goals)))
        if score > best_score or rng.random() < 0.02:
            best, best_score = goals, score
        yield row


def _attacked(
    row: CampaignRow, bench: Bench, attack: Attack, start: ndarray, rng: Generator, *, ticks: int
) -> Float64[ndarray, "commands dof"]:
    """One motion from rest; its commands, of which the first is where the arm stands."""
    guard = MotionGuard(bench.motion)
    view = View(limits=bench.motion, track=guard.rest(start))
    commands = [view.position]
    for view.tick in range(ticks):
        step = guard.advance(view.track, attack(rng, view))
        view.track = step.track
        commands.append(view.position)
        row.clipped += int(step.clipped.any())
    _judge(row, bench, list(commands))
    return np.array(commands)


def _judge(row: CampaignRow, bench: Bench, commands: list[ndarray | None]) -> None:
    """Adds a motion; its first command is where the arm stood and is no tick of its own."""
    report = oracle.check(bench.limits, commands, ["RUN"] * len(commands))
    report.ticks -= 1
    row.report.add(report)


def _overuse(bench: Bench, stream: ndarray) -> float:
    """How far the limits are used, the position weighed most: what the search makes larger."""
    h = bench.motion.period_s
    jerk = np.abs(np.diff(stream, 3, axis=0)).max(axis=0) / h**3 / bench.motion.jerk_radps3
    acceleration = np.abs(np.diff(stream, 2, axis=0)).max(axis=0) / h**2 / bench.motion.acceleration_radps2
    over = np.maximum((stream - bench.motion.upper_rad).max(axis=0), (bench.motion.lower_rad - stream).max(axis=0))
    return float((jerk + acceleration).max() + 1e6 * over.max())


def limits_row(ticks: int, rng: Generator) -> Iterator[CampaignRow]:
    """Random robots: any limits, any control period, so that nothing holds by the luck of one set of numbers."""
    row = CampaignRow(adversary="random_limits")
    names = sorted(ATTACKS)
    while row.report.ticks < ticks:
        bench = _random_bench(rng)
        name = names[int(rng.integers(len(names)))]
        for part in attack_row(bench, name, ATTACKS[name], 200, rng):
            row.report.add(part.report)
            row.clipped += part.clipped
            break
        yield row


def _random_bench(rng: Generator) -> Bench:
    dof = int(rng.integers(1, 8))
    period_s = float(rng.choice([0.005, 0.01, 0.02, 1.0 / 30.0, 0.05]))
    speed = rng.uniform(0.3, 4.0, dof)
    acceleration = speed * rng.uniform(3.0, 20.0, dof)
    jerk = acceleration * rng.uniform(5.0, 60.0, dof)
    lower, upper = -rng.uniform(0.1, 3.0, dof), rng.uniform(0.1, 3.0, dof)
    motion = MotionLimits(
        lower_rad=lower,
        upper_rad=upper,
        velocity_radps=speed,
        acceleration_radps2=acceleration,
        jerk_radps3=jerk,
        period_s=period_s,
    )
    limits = oracle.Limits(
        joints=tuple(f"joint{i}" for i in range(dof)),
        lower=lower,
        upper=upper,
        speed=speed,
        acceleration=acceleration,
        jerk=jerk,
        period_s=period_s,
    )
    return Bench(contract=load_contract("so101"), motion=motion, limits=limits)


def storm_row(bench: Bench, name: str, storm: Storm, ticks: int, rng: Generator) -> Iterator[CampaignRow]:
    """One storm on the whole supervisor, motion by motion."""
    row = CampaignRow(adversary=name)
    while row.report.ticks < ticks:
        stage = StormStage.build(bench.contract, rng, _storm_limits(bench.contract, name, rng))
        _weather(row, bench, stage, storm, ticks)
        yield row


def _storm_limits(contract: Contract, name: str, rng: Generator) -> SupervisorLimits:
    """Settings at random, but such that the arm sets off from anywhere; who never beats is not asked to."""
    beats = name in ("dying_streams", "long_faults")
    return random_settings(contract, rng, start_ramp=True, max_start_offset_rad=3.2, require_heartbeat=beats)


def _weather(row: CampaignRow, bench: Bench, stage: StormStage, storm: Storm, ticks: int) -> None:
    """One motion under a storm."""
    begun = stage.settings
    for _ in range(min(MOTION_TICKS, ticks - row.report.ticks)):
        storm(stage)
        if storm is not long_faults:
            stage.operate()
        stage.step()
    promises = [(tick, _promised(bench.limits, settings)) for tick, settings in stage.promises]
    report = oracle.check(
        _promised(bench.limits, begun),
        stage.commands,
        stage.states,
        measured=stage.measured,
        promises=promises,
        engaged=stage.engaged,
        leave_s=begun.authority_hold_s + begun.authority_engaging_s + 5 * bench.limits.period_s,
    )
    row.report.add(report)
    row.report.found["position"] += stage.supervisor.counters.violations
    row.clipped += stage.supervisor.counters.clipped_ticks
    row.chunks += stage.chunks
    row.injections += stage.injections


def _promised(limits: oracle.Limits, settings: SupervisorLimits) -> oracle.Limits:
    """The oracle's limits, tightened as the supervisor promised; a stop from a lower acceleration takes longer."""
    slow = settings.velocity_scale / settings.acceleration_scale
    soft = settings.acceleration_scale / settings.jerk_scale
    stop_s = slow * limits.speed / limits.acceleration + 2.0 * soft * limits.acceleration / limits.jerk
    return replace(
        limits,
        rest_within_s=max(limits.rest_within_s, float(stop_s.max()) + 3.0 * limits.period_s),
        lower=limits.lower + settings.position_margin_rad,
        upper=limits.upper - settings.position_margin_rad,
        speed=limits.speed * settings.velocity_scale,
        acceleration=limits.acceleration * settings.acceleration_scale,
        jerk=limits.jerk * settings.jerk_scale,
    )


def tool_row(bench: Bench, ticks: int, rng: Generator) -> Iterator[CampaignRow]:
    """Every attack and storm in turn on a supervisor that also bounds the tool's speed and height."""
    row = CampaignRow(adversary="tool_limits")
    turn = 0
    while row.report.ticks < ticks:
        names = sorted(ATTACKS if turn % 2 else STORMS)
        name = names[turn // 2 % len(names)]
        turn += 1
        stage = StormStage.build(bench.contract, rng, SupervisorLimits())
        bounded = replace(
            SupervisorLimits(
                start_ramp=True, max_start_offset_rad=3.2, require_heartbeat=name in ("dying_streams", "long_faults")
            ),
            cap_tool_speed=True,
            max_tool_speed_mps=float(rng.choice([0.05, 0.25, 1.0])),
            keep_above_plane=True,
            plane_height_m=_below(bench, stage.pose_rad) - float(rng.uniform(0.0, 0.1)),
        )
        tooled = replace(bench, motion=bounded.motion(bench.contract), limits=_with_tool(bench.limits, bounded))
        if name in STORMS:
            stage.supervisor.configure(bounded)
            _weather(row, tooled, stage, STORMS[name], min(ticks, row.report.ticks + 300))
        else:
            _attacked(row, tooled, ATTACKS[name], stage.pose_rad, rng, ticks=200)
        yield row


def _below(bench: Bench, pose_rad: ndarray) -> float:
    """A height just below the lowest point of a pose, as the oracle sees it."""
    tool = _with_tool(bench.limits, SupervisorLimits(keep_above_plane=True)).tool
    assert tool is not None
    return float(tool.places(pose_rad[None])[0, :, 2].min()) - 1e-6


def _with_tool(limits: oracle.Limits, settings: SupervisorLimits) -> oracle.Limits:
    """The oracle's limits with its own kinematics and these bounds of the tool."""
    raw = yaml.safe_load(_LIMITS_FILE.read_text(encoding="utf-8"))["tool"]
    bounds = {"max_speed_mps": settings.max_tool_speed_mps, "min_height_m": settings.plane_height_m}
    return replace(limits, tool=oracle.Tool.read(raw | bounds))


def run(ticks: int, seed: int, *, quiet: bool = False, only: str = "") -> list[CampaignRow]:
    """The campaign: `ticks` shared equally among all adversaries, or for `only` one of them."""
    contract = load_contract("so101")
    limits = oracle.Limits.read(_LIMITS_FILE)
    bench = Bench(contract=contract, motion=SupervisorLimits().motion(contract), limits=limits)
    plans: dict[str, Callable[[int, Generator], Iterator[CampaignRow]]] = {}
    for name, attack in ATTACKS.items():
        plans[name] = lambda n, rng, name=name, attack=attack: attack_row(bench, name, attack, n, rng)  # type: ignore[misc]
    plans["hill_climb"] = lambda n, rng: climb_row(bench, n, rng)
    plans["random_limits"] = limits_row
    plans["tool_limits"] = lambda n, rng: tool_row(bench, n, rng)
    for name, storm in STORMS.items():
        plans[name] = lambda n, rng, name=name, storm=storm: storm_row(bench, name, storm, n, rng)  # type: ignore[misc]
    chosen = [name for name in plans if only in ("", name)]
    share = -(-ticks // max(1, len(chosen)))
    rows = []
    with tqdm(total=share * len(chosen), unit="tick", disable=quiet) as bar:
        for index, (name, plan) in enumerate(plans.items()):
            if name not in chosen:
                continue
            bar.set_description(name)
            begun, done = time.perf_counter(), 0
            for row in plan(share, np.random.default_rng([seed, index])):
                bar.update(row.report.ticks - done)
                done = row.report.ticks
            row.seconds = round(time.perf_counter() - begun, 1)
            rows.append(row)
    return rows


def table(rows: Sequence[CampaignRow]) -> str:
    """The result as Markdown."""
    lines = [
        "| adversary | ticks | chunks | bounded ticks | position | velocity | acceleration | jerk | motion at rest "
        "| tool | without leave | most used (v, a, j) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        found, used = row.report.found, row.report.used
        lines.append(
            f"| {row.adversary} | {row.report.ticks:,} | {row.chunks:,} | {row.clipped / row.report.ticks:.1%} "
            f"| {found['position']} | {found['velocity']} | {found['acceleration']} | {found['jerk']} "
            f"| {found['motion_at_rest']} | {found['tool']} | {found['leave']} "
            f"| {used['velocity']:.6f}, {used['acceleration']:.6f}, {used['jerk']:.6f} |"
        )
    ticks, chunks = sum(row.report.ticks for row in rows), sum(row.chunks for row in rows)
    violations = sum(row.report.violations for row in rows)
    lines.append(
        f"| **all {len(rows)}** | **{ticks:,}** | **{chunks:,}** | | **{violations} violations** | | | | | | | |"
    )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=100_000, help="ticks over all adversaries (default 100000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/safety"))
    parser.add_argument("--only", default="", help="one adversary, for all ticks")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    if options.ticks < 1:
        parser.error("--ticks must be at least 1")
    rows = run(options.ticks, options.seed, quiet=options.quiet, only=options.only)
    if not rows:
        parser.error(f"no such adversary: {options.only}")
    violations = sum(row.report.violations for row in rows)
    document = {
        "ticks": sum(row.report.ticks for row in rows),
        "chunks": sum(row.chunks for row in rows),
        "violations": violations,
        "seed": options.seed,
        "seconds": round(sum(row.seconds for row in rows), 1),
        "adversaries": [
            vars(row.report) | {name: value for name, value in vars(row).items() if name != "report"} for row in rows
        ],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "campaign.md", table(rows))
    write_text(options.out / "campaign.json", json.dumps(document, indent=2) + "\n")
    sys.stdout.write(table(rows))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
