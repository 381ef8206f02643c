# SPDX-License-Identifier: Apache-2.0
"""A shard through the robot's own runtime: the same windows, memory and scores as a replay of its recording."""

import time
from collections.abc import Iterator
from functools import partial

import numpy as np

from sigma_ros.bags.episode import Tick
from sigma_ros.contract import Contract
from sigma_ros.control.window import WindowHistory
from sigma_ros.evaluation.recorder import ReplayRecorder
from sigma_ros.evaluation.replay import policy_facts
from sigma_ros.evaluation.replay_drive import ReplayDrive
from sigma_ros.evaluation.replay_log import BagFacts, ReplayLog, RunFacts
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.policy.job import execute
from sigma_ros.policy.loop import PolicyLoop, PolicySettings
from sigma_ros.policy.schedule import SCORE_STRIDE_TICKS, Schedule
from sigma_ros.policy.worker import TimedWorker
from sigma_ros.values import NS_PER_S, AdapterSettings, Frame, Gap, Window, frozen_array

from .data import EpisodeRows


def replay_shard(
    episode: EpisodeRows,
    runtime: SigmaRuntime,
    contract: Contract,
    *,
    name: str,
    sha256: str,
    pictures_of: EpisodeRows | None = None,
) -> ReplayLog:
    """The log of one episode; the policy is asked where windows are scored, on the memory's stride.

    With `pictures_of` it is shown that episode's pictures, the last one again where that one has ended.
    """
    settings, started_ns = AdapterSettings(), time.perf_counter_ns()
    run = RunFacts(
        mode="offline",
        task=episode.task,
        settings=settings,
        replan_ticks=SCORE_STRIDE_TICKS,
        memory_stride=runtime.memory_stride,
        seed=runtime.seed,
        supervised=False,
    )
    recorder = ReplayRecorder(contract, policy_facts(runtime), run)
    loop = PolicyLoop(
        contract,
        PolicySettings(schedule=Schedule(SCORE_STRIDE_TICKS, runtime.memory_stride), adapter=settings),
        check_units=runtime.check_units,
        lockstep=True,
    )
    drive = ReplayDrive(TimedWorker(loop, partial(execute, runtime=runtime)), recorder, None)
    for tick in _ticks(episode, contract, pictures_of or episode):
        drive.tick(tick)
    drive.end()
    facts = BagFacts(
        name=name,
        sha256=sha256,
        storage="shard",
        duration_s=contract.tick_offset_ns(episode.ticks) / NS_PER_S,
        messages=episode.ticks,
        checksummed=True,
        losses={},
    )
    return recorder.finish(facts, complete=True, wall_ns=time.perf_counter_ns() - started_ns)


def _ticks(episode: EpisodeRows, contract: Contract, pictures_of: EpisodeRows) -> Iterator[Tick]:
    """The epoch as the frame clock gave it when the shard was made; ages are not kept in shards and are 0."""
    history = WindowHistory()
    positions = contract.to_rad(episode.states.astype(np.float64))
    actions = contract.to_rad(episode.actions.astype(np.float64))
    names = [camera.name for camera in contract.cameras]
    for tick in range(episode.ticks):
        stamp_ns = NS_PER_S + contract.tick_offset_ns(tick)
        item: Window | Gap
        if episode.valid[tick]:
            shown = min(tick, pictures_of.ticks - 1)
            frames = pictures_of.frames(shown, shown + 1)[0]
            frame = Frame(
                epoch=0,
                tick=tick,
                stamp_ns=stamp_ns,
                images={camera: frozen_array(frames[i]) for i, camera in enumerate(names)},
                positions_rad=frozen_array(positions[tick]),
                image_age_ns=dict.fromkeys(names, 0),
                joint_age_ns=0,
            )
            item = history.add(frame, task=episode.task)
        else:
            history.add_gap()
            item = Gap(epoch=0, tick=tick, stamp_ns=stamp_ns, reasons=("invalid when the shard was made",))
        yield Tick(
            item=item,
            action_rad=actions[tick] if episode.acted[tick] else None,
            joint_rad=positions[tick] if episode.valid[tick] else None,
            joint_samples=(),
        )
