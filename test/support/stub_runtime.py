# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the model: holds the newest pose, remembers how often it committed, and writes down its calls."""

import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from sigma_ros.contract import Contract
from sigma_ros.errors import CheckpointError
from sigma_ros.risk import assess, plain_chunk, scale_of
from sigma_ros.values import AdapterSettings, Certificate, Memory, Telepathy, Window

HORIZON = 50
COMMIT_SHIFT_RAD = 1e-3


@dataclass(frozen=True, slots=True)
class StubState:
    epoch: int
    task: str
    memory: int = 0
    factors: int = 0


class StubRuntime:
    """Base: the newest pose plus 1 mrad per committed update. Residual: one tenth of the pose, 16 steps long."""

    image_size_px = 16
    base_difference = 0.0
    memory_stride = 16
    horizon = HORIZON
    seed = 0
    model = SimpleNamespace(heads=dict)

    def __init__(self, contract: Contract, *, units_problem: str | None = None, trained: bool = True) -> None:
        self.contract = contract
        self.calls: list[tuple[int, int, bool, bool]] = []
        self._units_problem = units_problem
        base = SimpleNamespace(source="stub", parameters=0, dtype="float64", device="none")
        self.info = SimpleNamespace(
            hash="00" * 32, trained=trained, sigma_trained=trained, base=base, sigma_parameters=0
        )

    def initial_state(self, *, epoch: int, task: str) -> StubState:
        return StubState(epoch, task)

    def check_units(self, positions_rad: np.ndarray) -> tuple[str, ...]:
        return () if self._units_problem is None else (self._units_problem,)

    def normalise_actions(self, rad: np.ndarray) -> np.ndarray:
        return rad / np.pi

    def step(
        self,
        window: Window,
        state: StubState,
        *,
        commit: bool,
        settings: AdapterSettings,
        chunk_id: int,
        baseline_diagnostics: bool = False,
    ) -> tuple[SimpleNamespace, StubState]:
        assert (window.epoch, window.task) == (state.epoch, state.task)
        self.calls.append((window.epoch, window.tick, commit, baseline_diagnostics))
        commits = state.memory + 1
        pose = window.newest.positions_rad
        base = np.repeat((pose + COMMIT_SHIFT_RAD * commits)[None], HORIZON, axis=0)
        residual = np.zeros_like(base)
        residual[:16] = 0.1 * pose
        risk = assess(residual_ratio=1.0 + 0.01 * (window.tick % 7), factor_ratio=1.0, alignment=1.0)
        seen = {"epoch": window.epoch, "tick": window.tick, "observation_age_ns": window.newest.age_ns}
        said = {"tau_l2": float(commits), "sem_align": 0.5, "inference_ns": 1, "checkpoint_hash": self.info.hash}
        adapted = {"residual_rad": residual, "scale": scale_of(risk, settings), "risk": risk, "settings": settings}
        chunk = plain_chunk(self.contract, base, stamp_ns=window.stamp_ns, chunk_id=chunk_id, **seen, **said, **adapted)
        telepathy_output = Telepathy(
            epoch=window.epoch,
            tick=window.tick,
            stamp_ns=window.stamp_ns,
            semantic_memory=np.zeros(1),
            intent=np.zeros(1),
            factors=np.zeros((1, 1)),
            tau_l2=float(commits),
            sem_align=0.5,
            baseline_tau_l2=1.0 if baseline_diagnostics else np.nan,
            baseline_sem_align=0.5 if baseline_diagnostics else np.nan,
            committed=commit,
        )
        advanced = StubState(state.epoch, state.task, commits if commit else state.memory)
        return SimpleNamespace(chunk=chunk, telepathy=telepathy_output), advanced

    def certify(self, window: Window) -> Certificate:
        """As `base_difference` says."""
        return Certificate(epoch=window.epoch, tick=window.tick, base_difference=self.base_difference)

    def memory(self, state: StubState) -> Memory:
        """What a state has committed."""
        return Memory(semantic=np.zeros(1), factors=np.zeros((1, 1)), commits=state.memory)

    def remembering(self, fresh: StubState, memory: Memory) -> StubState:
        """An empty state that has committed so much."""
        return replace(fresh, memory=memory.commits)

    def observe(self, window: Window, state: StubState) -> StubState:
        """Nothing to encode."""
        return state

    def remember(self, window: Window, state: StubState) -> tuple[Telepathy, StubState]:
        """A commit without a chunk."""
        calls = len(self.calls)
        inference, advanced = self.step(window, state, commit=True, settings=AdapterSettings(), chunk_id=-1)
        del self.calls[calls:]
        return inference.telepathy, advanced


# A tiny model for a process of its own, which dies, stops, hangs or fails at the ticks that say so.


FAULTS = {800: "killed", 808: "exit", 816: "stopped", 824: "hang", 832: "failure"}
"""Ticks that plan."""

TICK_OF = {name: tick for tick, name in FAULTS.items()}


class RemoteModel(StubRuntime):
    """The stand-in; `sem_align` tells the mean brightness of the newest pictures."""

    def step(self, window, state, *, left_over=None, **options):
        match FAULTS.get(window.tick):
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(7)
            case "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "hang":
                threading.Event().wait()
            case "failure":
                raise RuntimeError("CUDA out of memory")
        inference, state = super().step(window, state, **options)
        for picture in window.newest.images.values():
            assert not picture.flags.writeable
            inference.chunk.base_rad[0, 0] = np.mean(picture)
        return inference, state

    def check_units(self, positions_rad):
        return ("far away",) if np.abs(positions_rad).max() > 10 else ()


def load(contract: Contract) -> tuple[RemoteModel, dict[str, Any]]:
    """What a new process imports and calls."""
    lock = multiprocessing.RLock()  # as tqdm makes one
    about = {"memory_stride": RemoteModel.memory_stride, "pid": os.getpid(), "lock": vars(lock)["_semlock"].name}
    return RemoteModel(contract), about


def load_nothing(contract: Contract) -> tuple[RemoteModel, dict[str, int]]:
    """A checkpoint that cannot be used."""
    raise CheckpointError("the weights are not finite", where=contract.name)


def shared_memory() -> set[str]:
    """What lies in `/dev/shm` under a name of ours or of `multiprocessing`'s; other programs have theirs there."""
    return {name for name in os.listdir("/dev/shm") if name.startswith(("sigma", "psm_"))}
