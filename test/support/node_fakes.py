# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for node tests: a small contract, a model that computes by hand, and ways to wait without sleeping."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import small
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sigma_ros.msg import SupervisorState
from std_srvs.srv import Trigger

from sigma_ros.contract import Camera, Contract
from sigma_ros.errors import SigmaError
from sigma_ros.nodes.policy.model import PolicyModel
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.policy.job import Runtime
from sigma_ros.risk import assess, plain_chunk, scale_of
from sigma_ros.supervisor.identity import Author
from sigma_ros.values import AdapterSettings, Certificate, Chunk, LeftOver, Telepathy, Window

HORIZON = 50
AUTHOR = Author(robot="so101", instance="test")
TIMEOUT_S = 60.0


small_contract, small_so101 = (partial(make, size_px=(64, 48)) for make in (small.small_contract, small.small_file))


def make_chunk(contract: Contract, **changes: object) -> Chunk:
    """A chunk that stays at zero with a small residual."""
    values = {"stamp_ns": 1_000_000_000, "residual_rad": np.full((HORIZON, contract.dof), 0.01), "scale": 0.5}
    values |= {"risk": assess(residual_ratio=1.0, factor_ratio=1.0, alignment=1.0), "tau_l2": 1.5, "sem_align": 0.7}
    values |= {"tick": 0, "observation_age_ns": 10_000_000, "inference_ns": 20_000_000, "checkpoint_hash": "abc"}
    values["base_rad"] = np.zeros((HORIZON, contract.dof))
    return plain_chunk(contract, **(values | changes))


@dataclass(frozen=True)
class FakeState:
    epoch: int
    task: str
    steps: int = 0
    commits: int = 0


@dataclass(frozen=True)
class FakeInference:
    chunk: Chunk
    telepathy: Telepathy


class FakeRuntime:
    """Base: stay where the arm is. Residual: 0.01 rad times the commits so far. `gate` closed: hangs."""

    image_size_px = 32
    base_difference = 0.0
    model = SimpleNamespace(heads=dict)
    memory_stride = 16
    seed = 0
    info = SimpleNamespace(
        hash="abc",
        trained=True,
        sigma_trained=True,
        base=SimpleNamespace(source="fake", parameters=1, dtype="float32", device="cpu"),
        sigma_parameters=1,
    )

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.calls: list[tuple[int, int, bool]] = []
        self.remembered: list[int] = []
        self.refreshed: list[int] = []
        self.left_overs: list[LeftOver | None] = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.fail_at: int | None = None
        self.units_problems: tuple[str, ...] = ()

    def initial_state(self, *, epoch: int, task: str) -> FakeState:
        return FakeState(epoch, task)

    def normalise_actions(self, rad: np.ndarray) -> np.ndarray:
        return rad * 2.0 + 0.5

    def check_units(self, positions_rad: np.ndarray) -> tuple[str, ...]:
        return self.units_problems

    def certify(self, window: Window) -> Certificate:
        return Certificate(epoch=window.epoch, tick=window.tick, base_difference=self.base_difference)

    def step(
        self,
        window: Window,
        state: FakeState,
        *,
        commit: bool,
        settings: AdapterSettings,
        chunk_id: int,
        baseline_diagnostics: bool = False,
        left_over: LeftOver | None = None,
    ) -> tuple[FakeInference, FakeState]:
        self.left_overs.append(left_over)
        self.entered.set()
        assert self.gate.wait(TIMEOUT_S)
        assert (state.epoch, state.task) == (window.epoch, window.task)
        self.calls.append((window.epoch, window.tick, commit))
        if self.fail_at == window.tick:
            raise RuntimeError("CUDA out of memory")
        state = replace(state, steps=state.steps + 1, commits=state.commits + commit)
        risk = assess(residual_ratio=1.2, factor_ratio=1.0, alignment=0.9)
        chunk = make_chunk(
            self.contract,
            chunk_id=chunk_id,
            epoch=window.epoch,
            tick=window.tick,
            stamp_ns=window.stamp_ns,
            base_rad=np.tile(window.newest.positions_rad, (HORIZON, 1)),
            residual_rad=np.full((HORIZON, self.contract.dof), 0.01 * state.commits),
            scale=scale_of(risk, settings),
            risk=risk,
            settings=settings,
            observation_age_ns=window.newest.age_ns,
        )
        return FakeInference(chunk, self._telepathy(window, state, commit=commit, baseline=baseline_diagnostics)), state

    def observe(self, window: Window, state: FakeState) -> FakeState:
        return state

    def remember(self, window: Window, state: FakeState) -> tuple[Telepathy, FakeState]:
        self.remembered.append(window.tick)
        state = replace(state, steps=state.steps + 1, commits=state.commits + 1)
        return self._telepathy(window, state, commit=True, baseline=False), state

    def refresh(
        self, window: Window, state: FakeState, previous: Chunk, *, settings: AdapterSettings, chunk_id: int
    ) -> tuple[FakeInference, FakeState]:
        self.refreshed.append(window.tick)
        base = previous.base_rad[window.tick - previous.tick :]
        chunk = replace(
            previous,
            chunk_id=chunk_id,
            tick=window.tick,
            stamp_ns=window.stamp_ns,
            base_rad=base,
            residual_rad=np.full(base.shape, 0.02),
            settings=settings,
        )
        return FakeInference(chunk, self._telepathy(window, state, commit=False, baseline=False)), state

    def save(self, state: FakeState, path: Path) -> None:
        path.write_text(f"{state.commits} {state.task}")

    def restore(self, path: Path, fresh: FakeState) -> FakeState:
        try:
            commits, task = path.read_text().split(" ", 1)
        except OSError as error:
            raise SigmaError("the recurrent state cannot be read", where=path, got=error) from error
        if task != fresh.task:
            raise SigmaError("the saved memory is of another task", where=path, expected=fresh.task, got=task)
        return replace(fresh, commits=int(commits))

    def _telepathy(self, window: Window, state: FakeState, *, commit: bool, baseline: bool) -> Telepathy:
        brightness = float(np.mean([image.mean() for image in window.newest.images.values()]))
        return Telepathy(
            epoch=window.epoch,
            tick=window.tick,
            stamp_ns=window.stamp_ns,
            semantic_memory=np.full(4, brightness),
            intent=np.full(3, float(state.steps)),
            factors=np.ones((2, 3)),
            tau_l2=float(state.steps),
            sem_align=0.5,
            baseline_tau_l2=1.0 if baseline else float("nan"),
            baseline_sem_align=0.5 if baseline else float("nan"),
            committed=commit,
        )


def fake_model(contract: Contract, runtime: Runtime, about: Any = None) -> PolicyModel:
    """What `load_policy` would give, around a fake runtime: the facts of `policy_facts`, without importing torch.

    `about` is the model inside the runtime, where that is another process.
    """
    about = about or runtime
    info: Any = about.info
    told = {
        "contract": contract.name,
        "joint_names": list(contract.joint_names),
        "checkpoint": "fake",
        "checkpoint_hash": info.hash,
        "trained": info.trained,
        "sigma_trained": info.sigma_trained,
        "base_id": info.base.source,
        "action_scale": [2.0] * contract.dof,
        "action_offset": [0.5] * contract.dof,
        "details": {
            "base_parameters": info.base.parameters,
            "sigma_parameters": info.sigma_parameters,
            "heads": {"tensors": 0},
            "dtype": info.base.dtype,
            "device": info.base.device,
        },
        "horizon": HORIZON,
        "memory_stride": about.memory_stride,
        "image_size_px": runtime.image_size_px,
        "summary": "a fake",
    }
    return PolicyModel(
        contract=contract,
        runtime=runtime,
        image_size_px=runtime.image_size_px,
        memory_stride=about.memory_stride,
        facts=told,
    )


def picture(camera: Camera, value: int) -> np.ndarray:
    """A uniform RGB picture in the camera's size."""
    return np.full((camera.height_px, camera.width_px, 3), value, dtype=np.uint8)


class PatientOperator:
    """Keeps an arm going as a person would: on a machine that stalls a HOLD ages and a silence ends in STOPPED.

    In the namespace of `node`; `present` False: it looks on.
    """

    def __init__(self, node: Node) -> None:
        self.present = True
        self.state: SupervisorState | None = None
        self._orders = {name: node.create_client(Trigger, name) for name in (topics.ENGAGE, topics.RESET_STOP)}
        node.create_subscription(SupervisorState, topics.SUPERVISOR_STATE, self._on_state, qos.LATCHED)
        node.create_timer(0.5, self._look)

    def _on_state(self, message: SupervisorState) -> None:
        self.state = message

    def _look(self) -> None:
        if self.state is None or not self.present:
            return
        if self.state.state in (SupervisorState.DISENGAGED, SupervisorState.HOLD):
            self._orders[topics.ENGAGE].call_async(Trigger.Request())
        elif self.state.state == SupervisorState.STOPPED:
            self._orders[topics.RESET_STOP].call_async(Trigger.Request())


def spin_until(
    executor: SingleThreadedExecutor, done: Callable[[], object], *, what: str, timeout_s: float = TIMEOUT_S
) -> None:
    """Runs callbacks until `done()`; fails with `what` after a generous time."""
    end_s = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end_s, f"waited {timeout_s:.0f} s in vain for {what}"
        executor.spin_once(timeout_sec=0.05)


def call(executor: SingleThreadedExecutor, node: Node, service: str, request: Any = None, kind: Any = Trigger) -> Any:
    """What a service answers."""
    client = node.create_client(kind, service)
    spin_until(executor, client.service_is_ready, what=service)
    future = client.call_async(kind.Request() if request is None else request)
    spin_until(executor, future.done, what=f"the answer of {service}")
    node.destroy_client(client)
    return future.result()
