# SPDX-License-Identifier: Apache-2.0
"""Adversaries for the whole supervisor: hostile chunks, lying clocks, dying streams, flapping operators.

A storm is a function called before each tick; it may do to the supervisor whatever its callers could do.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from sigma_ros.contract import Contract
from sigma_ros.errors import ContractError
from sigma_ros.risk import plain_chunk
from sigma_ros.supervisor.guard import MotionGuard
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.supervisor import Supervisor
from sigma_ros.values import Chunk

_SWITCHES = ("keep_path", "bound_lead", "check_tracking", "start_ramp")
_LEAVE_S = {"authority_hold_s": 2.0, "authority_engaging_s": 10.0}
"""A leave to move is drawn up to its default, so that whoever stands by knows how long the arm may begin to move."""


def random_settings(contract: Contract, rng: Generator, **fixed: Any) -> SupervisorLimits:
    """Every other setting anywhere in its range, the rest as shipped; such as fit together and let the arm stop."""
    while True:
        drawn: dict[str, Any] = {name: bool(rng.random() < 0.7) for name in _SWITCHES}
        for entry in fields(SupervisorLimits):
            if entry.metadata and rng.random() < 0.5:
                high = _LEAVE_S.get(entry.name, entry.metadata["high"])
                value = float(rng.uniform(entry.metadata["low"], high))
                drawn[entry.name] = round(value) if entry.metadata["unit"] == "steps" else value
        try:
            limits = SupervisorLimits(**(drawn | fixed))
            MotionGuard(limits.motion(contract))
        except ContractError:
            continue
        return limits


@dataclass(kw_only=True)
class StormStage:
    """A supervisor on a bench: its clocks, an arm that follows with one tick of lag, and what was published."""

    contract: Contract
    rng: Generator
    supervisor: Supervisor
    now_ns: int
    stamp_ns: int
    pose_rad: ndarray
    chunks: int = 0
    chunk_id: int = 0
    epoch: int = 0
    commands: list[ndarray | None] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    measured: list[ndarray] = field(default_factory=list)
    settings: SupervisorLimits = field(default_factory=SupervisorLimits)
    promises: list[tuple[int, SupervisorLimits]] = field(default_factory=list)
    engaged: list[int] = field(default_factory=list)
    fault: tuple[str, int] = ("", 0)
    injections: int = 0
    _poses: list[ndarray] = field(default_factory=list)

    @classmethod
    def build(cls, contract: Contract, rng: Generator, limits: SupervisorLimits) -> "StormStage":
        """A disengaged supervisor and an arm somewhere inside its range."""
        span = contract.upper_rad - contract.lower_rad
        return cls(
            contract=contract,
            rng=rng,
            supervisor=Supervisor(contract, limits),
            settings=limits,
            now_ns=int(rng.integers(1 << 50)),
            stamp_ns=int(rng.integers(1 << 60)),
            pose_rad=contract.lower_rad + span * rng.uniform(0.05, 0.95, contract.dof),
        )

    def chunk(self, base_rad: ndarray, residual_rad: ndarray | None = None, **changes: Any) -> Chunk:
        """The next chunk in order, stamped now, unless changed."""
        self.chunk_id += 1
        self.chunks += 1
        if residual_rad is not None:
            changes["residual_rad"] = residual_rad
        fields = {"chunk_id": self.chunk_id, "tick": self.chunk_id, "epoch": self.epoch, "stamp_ns": self.stamp_ns}
        return plain_chunk(self.contract, base_rad, **({"scale": 1.0} | fields | changes))

    def offer(self, chunk: Chunk) -> None:
        """Hands a chunk over."""
        self.supervisor.on_chunk(chunk, self.now_ns, self.stamp_ns)

    def wave(self, *, size: float, frequency: float, horizon: int = 20) -> ndarray:
        """A smooth motion around the arm's pose, from this moment on."""
        steps = np.arange(horizon)[:, None] * self.contract.tick_period_ns / 1e9
        phase = self.rng.uniform(0.0, 6.3, self.contract.dof)
        return self.pose_rad + size * (np.sin(6.28 * frequency * steps + phase) - np.sin(phase))

    def step(self) -> None:
        """Feeds joint states, ticks, and moves the arm to the command."""
        period_ns = self.contract.command_period_ns
        self.now_ns += period_ns
        self.stamp_ns += period_ns
        self._poses = [*self._poses, self.pose_rad][-6:]
        if self.fault[0] != "joints":
            self.supervisor.on_joints(self.stamp_ns, self.pose_rad, self.now_ns)
        self.measured.append(np.array(self._poses))
        decision = self.supervisor.tick(self.now_ns, self.stamp_ns)
        self.commands.append(decision.command_rad)
        self.states.append(decision.state.name)
        if decision.command_rad is not None:
            self.pose_rad = decision.command_rad

    def tighten(self, **changes: float) -> None:
        """Tightens limits, and writes down what was promised."""
        if self.supervisor.tighten(**changes).success:
            self.settings = self.settings.tightened(**changes)
            self.promises.append((len(self.commands), self.settings))

    def operate(self) -> None:
        """An operator who always wants the arm to run."""
        if self.supervisor.state.is_latched:
            self.supervisor.on_estop(False, self.now_ns)  # noqa: FBT003
            self.supervisor.reset_stop(self.now_ns)
        if not self.supervisor.state.may_move:
            self.engage()

    def engage(self) -> None:
        """Engages, and writes down when leave was given."""
        if self.supervisor.engage(self.now_ns).success:
            self.engaged.append(len(self.commands))


Storm = Callable[[StormStage], None]


def jumping_chunks(stage: StormStage) -> None:
    """Every few ticks a chunk that starts anywhere in the range: a jump at every border."""
    if stage.rng.random() < 0.2:
        span = stage.contract.upper_rad - stage.contract.lower_rad
        jump = span * stage.rng.uniform(-1.0, 1.0, stage.contract.dof) * stage.rng.choice([0.001, 0.05, 1.0])
        stage.offer(stage.chunk(stage.wave(size=0.3, frequency=0.5) + jump))


def noisy_chunks(stage: StormStage) -> None:
    """Chunks of white noise of any size."""
    if stage.rng.random() < 0.25:
        noise = stage.rng.normal(0.0, 10.0 ** stage.rng.uniform(-4.0, 0.5), (20, stage.contract.dof))
        stage.offer(stage.chunk(stage.pose_rad + noise))


def flapping_scale(stage: StormStage) -> None:
    """A large residual whose scale, ceiling and sign flap between the extremes."""
    stage.supervisor.set_ceiling(float(stage.rng.integers(2)))
    if stage.rng.random() < 0.3:
        base = stage.wave(size=0.2, frequency=0.5)
        residual = stage.rng.choice([-1.0, 1.0]) * stage.rng.uniform(0.0, 2.0, stage.contract.dof)
        stage.offer(stage.chunk(base, np.broadcast_to(residual, base.shape).copy(), scale=float(stage.rng.integers(2))))


def late_and_disordered(stage: StormStage) -> None:
    """Good chunks with stamps, ids and epochs from the past and the future, repeated and swapped."""
    if stage.rng.random() < 0.4:
        chunk = stage.chunk(stage.wave(size=0.5, frequency=0.4))
        shift_ns = int(stage.rng.normal(0.0, 3e8))
        chunk = replace(
            chunk, stamp_ns=chunk.stamp_ns + shift_ns, chunk_id=chunk.chunk_id + int(stage.rng.integers(-3, 3))
        )
        if stage.rng.random() < 0.05:
            stage.epoch += int(stage.rng.integers(-1, 2))
        stage.offer(chunk)
        stage.offer(chunk)


def poisoned_chunks(stage: StormStage) -> None:
    """Good chunks among ones with NaN, infinities, wrong shapes, wrong names, wrong types."""
    if stage.rng.random() > 0.4:
        return
    base = stage.wave(size=0.3, frequency=0.5)
    residual = np.zeros_like(base)
    poison = stage.rng.choice([np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324, 1e3])
    (base if stage.rng.random() < 0.5 else residual).flat[stage.rng.integers(base.size)] = poison
    bad = (
        stage.chunk(base, residual),
        stage.chunk(base[:, :4]),
        stage.chunk(np.zeros((0, stage.contract.dof))),
        stage.chunk(base, scale=float(poison)),
        stage.chunk(base, joint_names=stage.contract.joint_names[::-1]),
        stage.chunk(np.ones(base.shape, dtype=np.float32)),
        stage.chunk(base, stamp_ns=float("nan")),
        replace(stage.chunk(base), base_rad="nothing"),  # type: ignore[arg-type]
        stage.chunk(base, step_period_ns=0),
    )
    stage.offer(bad[int(stage.rng.integers(len(bad)))])
    stage.offer(stage.chunk(stage.wave(size=0.3, frequency=0.5)))


def dying_streams(stage: StormStage) -> None:
    """Heartbeats, joint states and the emergency stop fail and come back at random."""
    rng, supervisor = stage.rng, stage.supervisor
    if rng.random() < 0.97:
        supervisor.on_policy_heartbeat(stage.now_ns, healthy=rng.random() < 0.995)
    if supervisor.estop_heard:
        supervisor.on_estop(False, stage.now_ns)  # noqa: FBT003
    if rng.random() < 0.01:
        supervisor.on_estop(bool(rng.random() < 0.5), stage.now_ns)
    if rng.random() < 0.02:
        bad = np.array(stage.pose_rad)
        bad[rng.integers(bad.size)] = rng.choice([np.nan, np.inf, 100.0])
        supervisor.on_joints(stage.stamp_ns + 1, bad, stage.now_ns)
    if rng.random() < 0.01:
        stage.now_ns += int(rng.integers(2_000_000_000))
    _good_chunks(stage)


def lying_clocks(stage: StormStage) -> None:
    """The observation clock jumps, stalls and runs backwards; the own clock is asked to."""
    rng = stage.rng
    if rng.random() < 0.01:
        stage.stamp_ns += int(rng.normal(0.0, 2e9))
    if rng.random() < 0.05:
        stage.stamp_ns -= stage.contract.command_period_ns
    if rng.random() < 0.005:
        stage.now_ns -= int(rng.integers(1_000_000_000))
    _good_chunks(stage)


def nervous_operator(stage: StormStage) -> None:
    """Engage, release, stop, reset, ceilings and tighter limits, all the time."""
    supervisor, rng = stage.supervisor, stage.rng
    if rng.random() < 0.05:
        supervisor.release()
    if rng.random() < 0.02:
        supervisor.estop()
    if rng.random() < 0.02:
        stage.tighten(position_margin_rad=float(rng.uniform(-0.1, 0.3)), velocity_scale=float(rng.uniform(0.2, 1.1)))
    if rng.random() < 0.1:
        supervisor.set_ceiling(float(rng.choice([np.nan, -1.0, 0.0, 0.5, 1.0, 1.0000001])))
    _good_chunks(stage)


def long_faults(stage: StormStage) -> None:
    """Something is away for up to 16 s and comes back; only after a while somebody engages."""
    rng, supervisor = stage.rng, stage.supervisor
    name, left = stage.fault
    stage.fault = (name, left - 1) if left > 0 else ("", 0)
    if not name and supervisor.state.may_move and rng.random() < 0.02:
        name = str(rng.choice(["policy", "unhealthy", "chunks", "joints", "clock", "pause", "release"]))
        stage.fault, stage.injections = (name, int(10.0 ** rng.uniform(0.7, 2.9))), stage.injections + 1
        if name == "clock":
            stage.stamp_ns += 3_000_000_000
        elif name == "pause":
            stage.now_ns += int(rng.integers(20_000_000_000))
        elif name == "release":
            supervisor.release()
    if name != "policy":
        supervisor.on_policy_heartbeat(stage.now_ns, healthy=name != "unhealthy")
    if name not in ("policy", "chunks"):
        _good_chunks(stage)
    if not stage.commands or rng.random() < 0.02:
        stage.operate()


def _good_chunks(stage: StormStage) -> None:
    if stage.rng.random() < 0.15:
        stage.offer(stage.chunk(stage.wave(size=0.4, frequency=0.4)))


STORMS: dict[str, Storm] = {
    storm.__name__: storm
    for storm in (
        jumping_chunks,
        noisy_chunks,
        flapping_scale,
        late_and_disordered,
        poisoned_chunks,
        dying_streams,
        lying_clocks,
        nervous_operator,
        long_faults,
    )
}
