# SPDX-License-Identifier: Apache-2.0
"""Closed-loop trials: arms x latencies x seeds, each episode written down at once, so that a run can be continued."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy import ndarray
from safetensors.numpy import save_file

from sigma_ros.border import MAX_JSON_BYTES, load_json, one_line, read_json, read_text, whole, write_text
from sigma_ros.errors import SigmaError, UsageError
from sigma_ros.policy.schedule import Schedule
from sigma_ros.risk import plain_chunk
from sigma_ros.sim.closed_loop import EpisodeRun, Loop, run_episode
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.expert import Expert
from sigma_ros.sim.motion import JointPath
from sigma_ros.sim.tasks.catalogue import twin
from sigma_ros.sim.tasks.demonstration import VerbExpert
from sigma_ros.sim.tasks.interventions import AtChoice, Intervention, choice_tick, emptied
from sigma_ros.sim.tasks.robot import TaskRobot
from sigma_ros.values import NS_PER_S, AdapterSettings, Chunk, LeftOver, Window

# The scripted expert in a model's place: its chunks are known to be good, so what fails is not the policy.


HORIZON = 50


@dataclass(frozen=True, slots=True)
class ScriptedInference:
    """What a step gives, as `model.runtime.Inference`."""

    chunk: Chunk
    telepathy: None


class ScriptedRuntime:
    """Steps along the expert's path, with no residual; the path is planned at the first step of an episode.

    Args:
        arm: Just reset; the path begins where it stands.
    """

    image_size_px = None
    memory_stride = 16

    def __init__(self, arm: SimArm, seed: int) -> None:
        self._contract = arm.contract
        self._path: JointPath = (
            VerbExpert(arm).plan(arm.episode) if isinstance(arm, TaskRobot) else Expert(arm).plan(seed)
        )

    def initial_state(self, *, epoch: int, task: str) -> None:
        """The expert remembers nothing."""

    def remember(self, _window: Window, _state: None) -> tuple[None, None]:
        """Nothing to commit."""
        return None, None

    def step(
        self,
        window: Window,
        _state: None,
        *,
        commit: bool,
        settings: AdapterSettings,
        chunk_id: int,
        baseline_diagnostics: bool = False,
        left_over: LeftOver | None = None,
    ) -> tuple[ScriptedInference, None]:
        """The path from this tick on."""
        times_s = [self._contract.tick_offset_ns(window.tick + i) / NS_PER_S for i in range(HORIZON)]
        base = np.array([self._path.at(time_s) for time_s in times_s])
        how: dict[str, Any] = {"epoch": window.epoch, "tick": window.tick, "settings": settings}
        chunk = plain_chunk(
            self._contract, base, stamp_ns=window.stamp_ns, chunk_id=chunk_id, checkpoint_hash="expert", **how
        )
        return ScriptedInference(chunk, None), None


ArmName = Literal["base", "sigma", "expert"]
ARMS: tuple[ArmName, ...] = ("base", "sigma", "expert")
OFF_PATH_RAD = 0.005
"""A command further than this from what the chunk asks for, at the chunk's own time, is off its path."""

_EPISODES_FILE, _CONDITIONS_FILE, CHUNKS_FOLDER = "episodes.jsonl", "conditions.json", "chunks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One arm of the comparison at one latency."""

    arm: ArmName
    latency_ms: float

    @property
    def name(self) -> str:
        """For tables: `sigma, 100 ms`."""
        return f"{self.arm}, {self.latency_ms:g} ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One episode in numbers. `jerk_rms` [rad/s^3] and `path_rad` are of the commands, over all joints.

    `lost`: one of `LOST` where a grasped brick did not come into the box; empty in runs of before it was told. Of a
    task: the right option, the twin's, whose memory or text an intervention puts in, and the one chosen (None: none).
    """

    arm: ArmName
    latency_ms: float
    seed: int
    success: bool
    held: bool
    duration_s: float
    jerk_rms: float
    path_rad: float
    clipped_share: float
    off_path_share: float
    scale_mean: float
    violations: int
    refused_chunks: int
    holds: int
    stops: int
    inference_ms: float
    ended: str
    lost: str = ""
    goal: int | None = None
    other: int | None = None
    chosen: int | None = None


IN_HAND, AT_BOX, DROPPED = LOST = ("in the hand at the end", "beside the box", "dropped on the way")
_LIFTED_M, _NEAR_BOX_M = 0.02, 0.12
"""So much higher than at its start a brick is in the hand; so close to the box's middle it lies beside it."""


def trials(arms: Sequence[ArmName], latencies_ms: Sequence[float]) -> tuple[Trial, ...]:
    """Every arm at every latency."""
    return tuple(Trial(arm=arm, latency_ms=latency) for arm in arms for latency in latencies_ms)


def settings_of(arm: ArmName, settings: AdapterSettings) -> AdapterSettings:
    """The base arm is Sigma with its scale held at 0: the base's own actions, bit for bit."""
    return replace(settings, min_scale=0.0, max_scale=0.0) if arm == "base" else settings


def run_trial(
    robot: SimArm,
    trial: Trial,
    seed: int,
    loop: Loop,
    runtime: Any,
    *,
    intervention: Intervention = "",
    on_tick: Callable[[], None] = lambda: None,
) -> tuple[Result, EpisodeRun]:
    """One episode. `runtime` may be None for the expert, `intervention` needs a task."""
    if trial.arm == "expert":
        robot.start(seed)
        runtime = ScriptedRuntime(robot, seed)
    own = replace(loop, latency_ms=trial.latency_ms, settings=settings_of(trial.arm, loop.settings))
    if intervention:
        assert isinstance(robot, TaskRobot)
        robot.other_text = intervention == "other text"
        runtime = _intervened(robot, runtime, seed, own, intervention)
    run = run_episode(robot, runtime, seed, own, clock_ns=time.perf_counter_ns, on_tick=on_tick)
    return _result(robot, trial, seed, run), run


def _intervened(robot: TaskRobot, runtime: Any, seed: int, loop: Loop, intervention: Intervention) -> Any:
    """The runtime with its memory exchanged at the choice; the twin is played up to there for what it remembers."""
    robot.start(seed)
    fps, stride = robot.contract.fps, runtime.memory_stride
    at = choice_tick(robot.episode, Schedule(stride, stride), fps=fps)
    if intervention == "reset":
        return AtChoice(runtime, at, emptied)
    if intervention != "swap":
        return runtime
    its = AtChoice(runtime, at, lambda state: state)
    until = replace(loop, time_limit_s=(at + 1) / fps + loop.latency_ms / 1000)
    robot.plays_twin = True
    try:
        run_episode(robot, its, seed, until, clock_ns=time.perf_counter_ns)
    finally:
        robot.plays_twin = False
    kept = its.kept
    if kept is None:
        raise SigmaError(
            "the twin's episode ended before its choice, so there is no memory to put in", where=f"seed {seed}"
        )
    return AtChoice(runtime, at, lambda state: replace(state, memory=kept.memory, factors=kept.factors))


def _result(robot: SimArm, trial: Trial, seed: int, run: EpisodeRun) -> Result:
    commands, counters = run.commands_rad, run.counters
    jerk = np.diff(commands, 3, axis=0) / (robot.contract.command_period_ns * 1e-9) ** 3
    last = run.last
    return Result(
        arm=trial.arm,
        latency_ms=trial.latency_ms,
        seed=seed,
        success=run.success,
        held=run.held,
        duration_s=run.duration_s,
        jerk_rms=float(np.sqrt(np.mean(jerk**2))) if jerk.size else 0.0,
        path_rad=float(np.abs(np.diff(commands, axis=0)).sum()),
        clipped_share=counters.clipped_ticks / max(1, counters.ticks),
        off_path_share=float((run.misses_rad > OFF_PATH_RAD).mean()) if run.misses_rad.size else 0.0,
        scale_mean=float(run.scales.mean()) if run.scales.size else 0.0,
        violations=counters.violations,
        refused_chunks=counters.refused_chunks,
        holds=counters.holds,
        stops=counters.stops,
        inference_ms=float(np.median(run.inference_ms)) if run.inference_ms else 0.0,
        ended="success" if run.success or last is None else f"{last.state.name}: {last.reason.name}",
        lost=_lost(robot, run) if run.held and not run.success else "",
        **_choice(robot),
    )


def _choice(robot: SimArm) -> dict[str, Any]:
    """What was asked for and what was chosen, where the arm has a task."""
    if not isinstance(robot, TaskRobot):
        return {}
    return {"goal": robot.episode.goal, "other": twin(robot.episode).goal, "chosen": robot.chosen}


def _lost(robot: SimArm, run: EpisodeRun) -> str:
    if isinstance(robot, TaskRobot):
        return ""
    start, end = (run.states[tick][robot.brick_state][:3] for tick in (0, -1))
    if end[2] > start[2] + _LIFTED_M:
        return IN_HAND
    return AT_BOX if math.dist(end[:2], robot.setup.box.centre_m) < _NEAR_BOX_M else DROPPED


def chunk_arrays(run: EpisodeRun) -> dict[str, ndarray]:
    """What was planned and executed in an episode, a row a plan; `positions_rad` and `commands_rad` a row a tick.

    Actions are in radians, float32; `spread` is missing where it was not measured. Chunks whose residual was renewed
    are shorter than a plan and are left out.
    """
    horizon = max((p.chunk.horizon for p in run.proposals), default=0)
    plans = [p for p in run.proposals if p.chunk.horizon == horizon]
    chunks, outputs = [p.chunk for p in plans], [p.telepathy for p in plans]
    arrays: dict[str, ndarray] = {
        "tick": np.array([chunk.tick for chunk in chunks], dtype=np.int64),
        "delay_ns": np.array([p.delay_ns for p in plans], dtype=np.int64),
        "base_rad": np.array([chunk.base_rad for chunk in chunks], dtype=np.float32),
        "residual_rad": np.array([chunk.residual_rad for chunk in chunks], dtype=np.float32),
        "positions_rad": run.positions_rad.astype(np.float32),
        "commands_rad": run.commands_rad.astype(np.float32),
    }
    for name in ("scale", "tau_l2", "sem_align", "disagreement_rad", "alarmed"):
        arrays[name] = np.array([getattr(chunk, name) for chunk in chunks])
    for name in ("residual_ratio", "factor_ratio", "alignment", "total"):
        arrays[f"risk.{name}"] = np.array([getattr(chunk.risk, name) for chunk in chunks])
    if outputs and outputs[0] is not None:
        arrays["intent"] = np.array([output.intent for output in outputs], dtype=np.float32)
        arrays["factors"] = np.array([output.factors.ravel() for output in outputs], dtype=np.float32)
    if run.spreads:
        arrays["spread"] = np.array(run.spreads)
    return arrays


class TrialBook:
    """The folder of a run: its conditions, and one line per finished episode.

    Raises:
        UsageError: the folder holds a run under other conditions.
    """

    def __init__(self, folder: Path, conditions: dict[str, Any], *, force: bool = False) -> None:
        self._file = folder / _EPISODES_FILE
        self.conditions = json.loads(json.dumps(conditions))
        told = folder / _CONDITIONS_FILE
        if force:
            self._file.unlink(missing_ok=True)
            told.unlink(missing_ok=True)
        if told.exists():
            self._check(told)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(told, json.dumps(self.conditions, indent=1, sort_keys=True))
        self.results = list(self._read())

    def has(self, trial: Trial, seed: int) -> bool:
        """Whether this episode is done."""
        return any((r.arm, r.latency_ms, r.seed) == (trial.arm, trial.latency_ms, seed) for r in self.results)

    def add(self, result: Result) -> None:
        """Writes an episode down."""
        self.results.append(result)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def log_chunks(self, result: Result, run: EpisodeRun) -> None:
        """Writes what the policy proposed in an episode, to be judged later: one file, whole or not there."""
        name = f"{result.arm}_{result.latency_ms:g}_{result.seed}.safetensors"
        target = self._file.parent / CHUNKS_FOLDER / name
        target.parent.mkdir(exist_ok=True)
        with whole(target) as partial:
            save_file(chunk_arrays(run), partial, {"result": json.dumps(asdict(result))})

    def _check(self, told: Path) -> None:
        document = read_json(told)
        before = document if isinstance(document, dict) else {}
        other = [name for name in self.conditions if before.get(name) != self.conditions[name]]
        if other:
            raise UsageError(
                "the folder holds a run under other conditions",
                where=told,
                expected=", ".join(f"{name} {one_line(before.get(name))}" for name in other),
                got=", ".join(f"{name} {self.conditions[name]!r}" for name in other),
                remedy="give another --out, or --force to begin anew",
            )

    def _read(self) -> Iterator[Result]:
        """The finished episodes; a line that was cut off when the run was interrupted is done again."""
        if not self._file.exists():
            return
        whole = []
        for line in read_text(self._file, limit=MAX_JSON_BYTES).splitlines():
            try:
                yield Result(**cast(dict[str, Any], load_json(line)))
            except (SigmaError, TypeError):
                continue
            whole.append(line)
        self._file.write_text("".join(line + "\n" for line in whole), encoding="utf-8")
