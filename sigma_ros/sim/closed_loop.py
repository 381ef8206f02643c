# SPDX-License-Identifier: Apache-2.0
"""The closed loop without a graph: simulated arm, policy and supervisor in simulated time.

Window, memory, schedule, stitching and supervisor are the live ones. Simulated time stands still while the model
thinks; how long an inference takes is injected, so a result depends on the latency asked for and not on the machine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.errors import UsageError
from sigma_ros.evaluation.latency import REMEMBER_SHARE, Latency
from sigma_ros.evaluation.replay_operator import OperatorHand, ReplayOperator
from sigma_ros.policy.alarm import NO_ALARM, AlarmSettings
from sigma_ros.policy.job import Job, Proposed, Result, Step, execute
from sigma_ros.policy.loop import PolicyLoop, PolicySettings
from sigma_ros.policy.schedule import CROSSFADE_STEPS, REPLAN_TICKS, STITCHING, Schedule, Stitching
from sigma_ros.policy.worker import TimedWorker
from sigma_ros.sim.environment import SimArm
from sigma_ros.streams.frame_clock import WindowHistory
from sigma_ros.streams.images import letterbox
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Counters, Decision, Reason, State
from sigma_ros.supervisor.supervisor import Supervisor
from sigma_ros.supervisor.trajectory import ChunkStream
from sigma_ros.values import NS_PER_S, AdapterSettings, Chunk, Frame

_START_NS = NS_PER_S
"""Simulated stamps begin here: a stamp of zero is refused everywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """How an episode is run.

    `latency_ms`: what an inference takes. An update of the memory alone takes no simulated time; with
    `residual_every_tick` it takes `REMEMBER_SHARE` of an inference, and so does a renewed residual. `noise_samples`:
    how far the action depends on the flow noise is measured with so many draws at each plan (0: not), which costs time
    and changes nothing. Without `supervised` nothing stands between policy and arm; see `Unsupervised`.
    """

    settings: AdapterSettings
    latency_ms: float = 0.0
    replan_ticks: int = REPLAN_TICKS
    stitching: Stitching = STITCHING
    crossfade_steps: int = CROSSFADE_STEPS
    residual_every_tick: bool = False
    time_limit_s: float = 20.0
    noise_samples: int = 0
    alarm: AlarmSettings = NO_ALARM
    limits: SupervisorLimits
    supervised: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeRun:
    """One episode: what came of it, what is needed to draw it, and what the policy proposed on the way.

    `positions_rad` are what the policy saw at each tick; `spreads` belong to the proposals, where they were asked for;
    `misses_rad`: from each command to the course; `told`: state and applied scale in words, a line per tick.
    """

    success: bool
    duration_s: float
    held: bool
    states: Float64[ndarray, "ticks nq"]
    commands_rad: Float64[ndarray, "commands dof"]
    scales: Float64[ndarray, " commands"]
    misses_rad: Float64[ndarray, " commands"]
    counters: Counters
    last: Decision | None
    inference_ms: tuple[float, ...]
    positions_rad: Float64[ndarray, "ticks dof"]
    proposals: tuple[Proposed, ...]
    spreads: tuple[float, ...]
    told: tuple[str, ...]


def _policy_loop(contract: Contract, runtime: Any, loop: Loop) -> PolicyLoop:
    """The live rules; what the simulated arm is asked to do is in the policy's units by construction."""
    settings = PolicySettings(
        schedule=Schedule(loop.replan_ticks, runtime.memory_stride),
        adapter=loop.settings,
        stitching=loop.stitching,
        crossfade_steps=loop.crossfade_steps,
        residual_every_tick=loop.residual_every_tick,
        alarm=loop.alarm,
    )
    return PolicyLoop(contract, settings, check_units=lambda _: (), lockstep=False)


class Unsupervised:
    """In the supervisor's place: follows each chunk as it comes, with the scale that it asks for, within no limit."""

    state = State.RUN

    def __init__(self, contract: Contract, limits: SupervisorLimits) -> None:
        self._stream = ChunkStream(contract, limits)
        self.counters = Counters()

    def on_policy_heartbeat(self, _now_ns: int) -> None:
        """Nobody is watched."""

    def on_joints(self, _stamp_ns: int, _positions_rad: ndarray, _now_ns: int) -> None:
        """Nothing is measured."""

    def on_chunk(self, chunk: Chunk, now_ns: int) -> None:
        """The newest is followed."""
        self._stream.offer(chunk, now_ns, now_ns, moving=True)

    def tick(self, now_ns: int) -> Decision:
        """Where the chunk is now."""
        chunk = self._stream.chunk
        scale = 0.0 if chunk is None else chunk.scale
        request = self._stream.request(now_ns, scale=scale, lead=None)
        self.counters = replace(self.counters, ticks=self.counters.ticks + 1)
        return Decision(
            state=self.state,
            reason=Reason.OK,
            reason_text=Reason.OK.text(),
            command_rad=None if request is None else request.upcoming_rad[0],
            stop_rad=None,
            clipped_joints=(),
            miss_rad=0.0,
            requested_scale=scale,
            scale_ceiling=1.0,
            applied_scale=scale,
            chunk_id=self._stream.last_id,
            epoch=self._stream.last_epoch,
            chunk_accepted=self._stream.last_verdict.accepted,
            chunk_age_s=0.0,
            joint_state_age_s=0.0,
            observation_age_s=0.0,
            counters=self.counters,
        )


LIMITS: Mapping[str, Mapping[str, float]] = {
    "robot": {},
    "reactive": {"keep_path": False},
    "open": {"max_residual_rad": 3.2, "max_chunk_delay_s": 1.0, "max_chunk_age_s": 3.0, "miss_tolerance_rad": 0.5},
    "off": {"max_chunk_delay_s": 1.0},
}
"""The supervisor's settings by name, as they differ from a robot's: none; each joint bounded alone; hardly anything
that turns the residual down; and no supervisor at all (`Unsupervised`)."""


def sim_limits(name: str = "robot") -> SupervisorLimits:
    """Settings of `LIMITS`: a robot's, led slowly to a first target that is off by the arm's sag.

    Nobody stands beside a simulated arm: it goes on by itself after any pause.

    Raises:
        UsageError: there are none of that name.
    """
    if name not in LIMITS:
        raise UsageError("no such limits", expected=" or ".join(LIMITS), got=name)
    return SupervisorLimits(start_ramp=True, authority_ages=False, **LIMITS[name])  # type: ignore[arg-type]


def run_episode(
    arm: SimArm,
    runtime: Any,
    seed: int,
    loop: Loop,
    *,
    clock_ns: Callable[[], int],
    on_tick: Callable[[], None] = lambda: None,
    operator: OperatorHand | None = None,
) -> EpisodeRun:
    """Runs one episode to its end, to the time limit or to a stop that nothing leaves.

    `runtime` is a `SigmaRuntime` or has its methods (`image_size_px` None needs no pictures); `clock_ns` measures
    inferences and decides nothing. Without an `operator` a `ReplayOperator` engages at the first chunk.
    """
    arm.start(seed)
    return _ClosedLoop(arm, runtime, loop, clock_ns, operator or ReplayOperator()).run(on_tick)


class _ClosedLoop:
    def __init__(
        self, arm: SimArm, runtime: Any, loop: Loop, clock_ns: Callable[[], int], operator: OperatorHand
    ) -> None:
        self._arm = arm
        self._contract = arm.contract
        self._loop = loop
        self._worker = TimedWorker(
            _policy_loop(arm.contract, runtime, loop),
            self._execute,
            Latency(fixed_ms=loop.latency_ms, remember_share=REMEMBER_SHARE * loop.residual_every_tick).of_job,
        )
        self._runtime, self._clock_ns = runtime, clock_ns
        self._proposals: list[Proposed] = []
        self._spreads: list[float] = []
        self._positions: list[ndarray] = []
        self._told: list[str] = []
        self._supervisor: Any = (Supervisor if loop.supervised else Unsupervised)(arm.contract, loop.limits)
        self._operator = operator
        self._history = WindowHistory()
        self._now_ns = _START_NS
        self._states: list[ndarray] = []
        self._commands: list[ndarray] = []
        self._scales: list[float] = []
        self._misses: list[float] = []
        self._held = False
        self._last: Decision | None = None

    def run(self, on_tick: Callable[[], None]) -> EpisodeRun:
        policy_tick = command_tick = 0
        end_ns = _START_NS + round(self._loop.time_limit_s * NS_PER_S)
        while True:
            policy_ns = _START_NS + self._contract.tick_offset_ns(policy_tick)
            command_ns = _START_NS + command_tick * self._contract.command_period_ns
            due_ns = min(policy_ns, command_ns)
            if due_ns > end_ns or self._arm.finished():
                return self._result()
            self._arm.step(self._arm.command_rad, (due_ns - self._now_ns) / NS_PER_S)
            self._now_ns = due_ns
            if policy_ns == due_ns:
                self._observe(policy_tick)
                policy_tick += 1
                on_tick()
            if command_ns == due_ns:
                self._command()
                command_tick += 1

    def _execute(self, job: Job) -> Result:
        result = execute(job, self._runtime, clock_ns=self._clock_ns)
        if self._loop.noise_samples and isinstance(job, Step) and result[1] is not None:
            self._spreads.append(self._runtime.spread(job.window, result[1], samples=self._loop.noise_samples))
        return result

    def _observe(self, tick: int) -> None:
        self._arm.look_around()
        self._states.append(self._arm.snapshot())
        self._held = self._held or self._arm.brick_held()
        self._positions.append(self._arm.positions_rad())
        last = self._last
        self._told.append("" if last is None else f"{last.state.name}, scale {last.applied_scale:.2f}")
        frame = Frame(
            epoch=0,
            tick=tick,
            stamp_ns=self._now_ns,
            images=self._pictures(),
            positions_rad=self._positions[-1],
            image_age_ns=dict.fromkeys((camera.name for camera in self._contract.cameras), 0),
            joint_age_ns=0,
        )
        self._worker.on_item(self._history.add(frame, task=self._arm.text))

    def _pictures(self) -> Mapping[str, UInt8[ndarray, "h w 3"]]:
        """The contract's cameras, letterboxed as live ones are, and as late as its `delays` say."""
        size_px: int | None = self._runtime.image_size_px
        if size_px is None:
            return {}
        late = self._contract.ticks_of(self._contract.delays.camera_ns)
        shown = self._states[max(0, len(self._states) - 1 - late)]
        return {c.name: letterbox(self._arm.draw(shown, c.name), size_px) for c in self._contract.cameras}

    def _command(self) -> None:
        now_ns, supervisor = self._now_ns, self._supervisor
        supervisor.on_policy_heartbeat(now_ns)
        supervisor.on_joints(now_ns, self._arm.positions_rad(), now_ns)
        for outcome in self._worker.outcomes(now_ns):
            if isinstance(outcome, Proposed):
                self._proposals.append(outcome)
                self._operator.on_chunk()
                supervisor.on_chunk(outcome.chunk, now_ns)
        self._operator.act(supervisor, now_ns)
        self._last = decision = supervisor.tick(now_ns)
        self._operator.note(decision)
        if decision.command_rad is not None:
            self._arm.step(decision.command_rad, 0.0)
            self._commands.append(decision.command_rad)
            self._scales.append(decision.applied_scale)
            self._misses.append(decision.miss_rad)

    def _result(self) -> EpisodeRun:
        dof = self._contract.dof
        return EpisodeRun(
            success=self._arm.succeeded(),
            duration_s=(self._now_ns - _START_NS) / NS_PER_S,
            held=self._held,
            states=np.array(self._states),
            commands_rad=np.array(self._commands).reshape(-1, dof),
            scales=np.array(self._scales),
            misses_rad=np.array(self._misses),
            counters=self._supervisor.counters,
            last=self._last,
            inference_ms=tuple(proposal.host_ns / 1e6 for proposal in self._proposals),
            positions_rad=np.array(self._positions).reshape(-1, dof),
            proposals=tuple(self._proposals),
            spreads=tuple(self._spreads[: len(self._proposals)]),
            told=tuple(self._told),
        )
