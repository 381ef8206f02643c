# SPDX-License-Identifier: Apache-2.0
"""SYNTHETIC replay logs: a made-up arm, camera and policy, to test scores and reports without a model or a bag."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.evaluation.log import BagFacts, PolicyFacts, ReplayLog, RunFacts
from sigma_ros.evaluation.recorder import ReplayRecorder
from sigma_ros.risk import assess, plain_chunk, scale_of
from sigma_ros.values import WINDOW_TICKS, AdapterSettings, Chunk, Frame, Gap, Telepathy, Window

SCHEMA_FILE = Path(__file__).resolve().parents[2] / "docs" / "report.schema.json"
HORIZON = 50
START_NS = 1_700_000_000_000_000_000
SETTINGS = AdapterSettings()


def synthetic_log(
    *,
    ticks: int = 160,
    seed: int = 0,
    base_noise_rad: float = 0.05,
    residual_share: float = 0.3,
    trained: bool = True,
    gaps: tuple[int, ...] = (),
    complete: bool = True,
    contract_name: str = "so101",
    max_scale: float = 1.0,
    name: str = "synthetic",
) -> ReplayLog:
    """A log whose base misses the recording by noise; the residual repairs `residual_share` of the miss."""
    contract = load_contract(contract_name)
    settings = AdapterSettings(max_scale=max_scale)
    rng = np.random.default_rng(seed)
    run = RunFacts(
        mode="offline",
        task=contract.tasks[0],
        settings=settings,
        replan_ticks=8,
        memory_stride=16,
        seed=seed,
        supervised=True,
    )
    recorder = ReplayRecorder(contract, policy_facts(contract, trained=trained), run)
    path = recorded_path(contract, ticks + HORIZON, rng)
    for tick in range(ticks):
        stamp_ns = START_NS + contract.tick_offset_ns(tick)
        if tick in gaps:
            gap = Gap(epoch=0, tick=tick, stamp_ns=stamp_ns, reasons=("camera up is 250 ms old, limit 200 ms",))
            recorder.tick(gap, path[tick])
            continue
        recorder.tick(window(contract, tick, stamp_ns, path), path[tick])
        if tick % 8 == 0:
            miss = (base_noise_rad, residual_share)
            chunk = _chunk(contract, settings, tick, stamp_ns, path=path, rng=rng, miss=miss)
            recorder.inference(chunk, telepathy(chunk), published=True, host_ns=int(rng.integers(80e6, 120e6)))
    _decide(recorder, contract, ticks, path, rng)
    log = recorder.finish(bag_facts(contract, ticks, name), complete=complete, wall_ns=2_000_000_000)
    return following(log, path)


def policy_facts(contract: Contract, *, trained: bool = True) -> PolicyFacts:
    span = contract.upper_rad - contract.lower_rad
    return PolicyFacts(
        checkpoint_hash="5f" * 32,
        trained=trained,
        sigma_trained=trained,
        base_id="synthetic-base",
        action_scale=2.0 / span,
        action_offset=-(contract.upper_rad + contract.lower_rad) / span,
        details={"parameters": 6_000_000, "heads": {"tensors": 95, "mean": 0.002, "std": 0.107, "rms": 0.107}},
    )


def bag_facts(contract: Contract, ticks: int, name: str = "synthetic") -> BagFacts:
    return BagFacts(
        name=name,
        sha256="ab" * 32,
        storage="mcap",
        duration_s=ticks / contract.fps,
        messages=ticks * 4,
        checksummed=True,
        losses={},
    )


def recorded_path(contract: Contract, ticks: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth motion inside 60 % of the limits (at most 1.2 rad either way)."""
    time_s = np.arange(ticks)[:, None] / contract.fps
    middle = 0.5 * (contract.lower_rad + contract.upper_rad)
    reach = np.minimum(0.3 * (contract.upper_rad - contract.lower_rad), 1.2)
    speed = rng.uniform(0.3, 0.9, contract.dof)
    phase = rng.uniform(0.0, 2 * np.pi, contract.dof)
    return middle + reach * np.sin(speed * time_s + phase)


def window(contract: Contract, tick: int, stamp_ns: int, path: np.ndarray) -> Window:
    frames = []
    for age in range(WINDOW_TICKS - 1, -1, -1):
        at = max(0, tick - age)
        frames.append(
            Frame(
                epoch=0,
                tick=at,
                stamp_ns=stamp_ns - contract.tick_offset_ns(tick - at),
                images={camera.name: picture(at, i) for i, camera in enumerate(contract.cameras)},
                positions_rad=path[at],
                image_age_ns={camera.name: 5_000_000 for camera in contract.cameras},
                joint_age_ns=1_000_000,
            )
        )
    mask = np.arange(WINDOW_TICKS) >= WINDOW_TICKS - 1 - tick
    return Window(epoch=0, task=contract.tasks[0], frames=tuple(frames), mask=mask)


def picture(tick: int, camera: int) -> np.ndarray:
    """A letterboxed test picture: a brick that moves with the tick."""
    image = np.zeros((224, 224, 3), np.uint8)
    image[28:196] = (70 + 40 * camera, 80, 90)
    left = 20 + tick % 160
    image[100:130, left : left + 30] = (230, 80, 130)
    return image


def telepathy(chunk: Chunk) -> Telepathy:
    return Telepathy(
        epoch=chunk.epoch,
        tick=chunk.tick,
        stamp_ns=chunk.stamp_ns,
        semantic_memory=np.zeros(4),
        intent=np.zeros(4),
        factors=np.zeros((2, 2)),
        tau_l2=chunk.tau_l2,
        sem_align=chunk.sem_align,
        baseline_tau_l2=chunk.tau_l2 * 1.01,
        baseline_sem_align=chunk.sem_align - 0.01,
        committed=chunk.tick % 16 == 0,
    )


def _chunk(
    contract: Contract,
    settings: AdapterSettings,
    tick: int,
    stamp_ns: int,
    *,
    path: np.ndarray,
    rng: np.random.Generator,
    miss: tuple[float, float],
) -> Chunk:
    target = path[tick : tick + HORIZON]
    drift = np.linspace(0.3, 1.0, HORIZON)[:, None]
    base = target + miss[0] * drift * rng.normal(size=contract.dof)
    residual = miss[1] * (target - base)
    residual[20:] = 0.0
    risk = assess(residual_ratio=float(rng.gamma(4.0, 0.3)), factor_ratio=float(rng.uniform(0.7, 1.4)), alignment=0.9)
    said = {"tau_l2": float(51.6 + rng.normal()), "sem_align": float(0.13 + 0.02 * rng.normal())}
    return plain_chunk(
        contract,
        base,
        stamp_ns=stamp_ns,
        chunk_id=tick // 8,
        tick=tick,
        residual_rad=residual,
        scale=scale_of(risk, settings),
        risk=risk,
        settings=settings,
        observation_age_ns=5_000_000,
        inference_ns=90_000_000,
        checkpoint_hash="5f" * 32,
        **said,
    )


def _decide(
    recorder: ReplayRecorder, contract: Contract, ticks: int, path: np.ndarray, rng: np.random.Generator
) -> None:
    count = int(contract.tick_offset_ns(ticks) / contract.command_period_ns)
    for k in range(count):
        now_ns = k * contract.command_period_ns
        at = now_ns * contract.fps / 1e9
        low = int(at)
        command = path[low] + (at - low) * (path[low + 1] - path[low])
        running = k >= 10
        recorder.decision(
            stamp_ns=START_NS + now_ns,
            state="RUN" if running else "DISENGAGED",
            reason="OK" if running else "NO_CHUNK",
            command_rad=command if running else None,
            requested_scale=0.8,
            scale_ceiling=1.0,
            applied_scale=0.8 if running else 0.0,
            clipped_joints=("gripper",) if running and k % 50 == 0 and contract.name == "so101" else (),
            chunk_id=int(at) // 8,
            host_ns=int(rng.integers(2e5, 6e5)),
        )
    recorder.supervisor_counters(violations=0, refused_chunks=0, holds=0, engagements=1)


def following(log: ReplayLog, path: np.ndarray | None = None) -> ReplayLog:
    """The same log with commands that miss the recording by as much as the chunks do at the scale that was applied.

    Each scored window's miss is held for 12 ticks and led over to the next one's in 4, so that no limit is broken.
    """
    chunks = [entry.chunk for entry in log.inferences if entry.chunk.tick % 16 == 0]
    if not chunks:
        return log
    path = log.ticks.action_rad if path is None else path
    applied = float(log.decisions.applied_scale.max(initial=0.0))
    misses = [chunk.blended_rad(applied)[8] - path[chunk.tick + 8] for chunk in chunks]
    known = np.array([[chunk.tick, chunk.tick + 11] for chunk in chunks]).ravel()
    at = (log.decisions.stamp_ns - START_NS) * log.contract.fps / 1e9
    miss = np.stack([np.interp(at, known, np.repeat(column, 2)) for column in np.array(misses).T], axis=1)
    return replace(log, decisions=replace(log.decisions, command_rad=log.decisions.command_rad + miss))


def with_scale(log: ReplayLog, scale: float) -> ReplayLog:
    """The same log with every chunk's scale replaced."""
    entries = tuple(replace(entry, chunk=replace(entry.chunk, scale=scale)) for entry in log.inferences)
    return replace(log, inferences=entries)
