# SPDX-License-Identifier: Apache-2.0
"""Both arms on cached windows, episode by episode with their memory: quick scores between steps and for the study.

The functions that believe and correct are the robot's; `training.evaluate` is the slow way through the whole runtime.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy import ndarray

from sigma_ros.bags.episode import Tick
from sigma_ros.contract import Contract
from sigma_ros.evaluation.audit.channels import with_pictures_of
from sigma_ros.evaluation.drive import ReplayDrive
from sigma_ros.evaluation.log import BagFacts, ReplayLog
from sigma_ros.evaluation.recorder import ReplayRecorder
from sigma_ros.evaluation.replay import ReplayOptions, policy_facts, policy_loop, run_facts
from sigma_ros.evaluation.scoring.metrics import SPANS
from sigma_ros.model.adapter import References
from sigma_ros.model.residual import Residual
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.telepathy import Recurrence
from sigma_ros.policy.job import execute
from sigma_ros.policy.schedule import SCORE_STRIDE_TICKS, Schedule
from sigma_ros.policy.worker import TimedWorker
from sigma_ros.streams.frame_clock import WindowHistory
from sigma_ros.values import NS_PER_S, AdapterSettings, Frame, Gap, Window, frozen_array

from .cache import CachedEpisode
from .data import EpisodeRows
from .losses import telepathy_input_of, where_present
from .plain import PlainFeeder
from .streams import Assembler, Segment, Windows

TYPICAL_RESIDUAL = 95.0
"""r_ref is this percentile of the residual's rms over the training windows: what is usual passes undiminished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowScores:
    """Per window: squared normalised errors of both arms, size of the residual, and the two semantic figures."""

    base: Float64[ndarray, "windows steps dof"]
    sigma: Float64[ndarray, "windows steps dof"]
    full: Float64[ndarray, "windows steps dof"]
    scale: Float64[ndarray, " windows"]
    residual_rms: Float64[ndarray, " windows"]
    tau_l2: Float64[ndarray, "windows 2"]
    sem_align: Float64[ndarray, "windows 2"]
    episode: Int64[ndarray, " windows"]

    def means(self, *, adapted: bool = True) -> dict[str, float]:
        """Scores of the base and of Sigma, by the report's names; not `adapted`: with its whole residual."""
        values = {}
        for name, steps in SPANS.items():
            values[f"base_mse_{name}"] = float(self.base[:, :steps].mean())
            values[f"mse_{name}"] = float((self.sigma if adapted else self.full)[:, :steps].mean())
        values["mse_far"] = float((self.sigma if adapted else self.full).mean())
        return values | ({"scale": float(self.scale.mean())} if adapted else {})


@torch.no_grad()
def score_windows(
    model: SigmaTelepathyVLA,
    episodes: Sequence[CachedEpisode],
    assembler: Assembler,
    numbers: Sequence[int],
    feeder: PlainFeeder | None = None,
) -> WindowScores:
    """Every stride window of the episodes `numbers`, all side by side, memory kept from window to window.

    `feeder` is needed for the comparison arm alone; its whole change counts, as plain LoRA is used.
    """
    model.eval()
    stride = model.config.memory_stride
    rows = {n: tuple(row for row in episodes[n].rows if row % stride == 0) for n in numbers}
    pieces = [Segment(n, rows[n], fresh=True) for n in numbers if rows[n]]
    device = model.backbone.device
    previous = Recurrence.start(model.config, batch=len(pieces), device=device)
    found: list[dict[str, ndarray]] = []
    for step in range(max(len(piece.rows) for piece in pieces)):
        windows = assembler.windows(pieces, step).to(device)
        ticks = [(piece.episode, piece.rows[min(step, len(piece.rows) - 1)]) for piece in pieces]
        plain = None if feeder is None else feeder.residual(ticks, windows.base)
        values, previous = score_window(model, windows, previous, plain=plain)
        episodes_of = np.array([piece.episode for piece in pieces])
        found.append({**values, "episode": episodes_of[windows.present.cpu().numpy()]})
    return joined(found)


@torch.no_grad()
def score_window(
    model: SigmaTelepathyVLA, windows: Windows, previous: Recurrence, *, plain: Residual | None = None
) -> tuple[dict[str, ndarray], Recurrence]:
    """The fields of `WindowScores` for the present ones of some windows, and the memory behind them.

    `plain` is the comparison arm's whole change, which has no telepathy to be judged by.
    """
    telepathy_output = model.believe(telepathy_input_of(model, windows), previous)
    without = model.believe(telepathy_input_of(model, windows), previous, adapted=False)
    residual = plain or model.correct(telepathy_output, windows.states[:, -1], windows.base)
    report = model.adapter().assess(
        telepathy_residual=residual.trajectory,
        telepathy_factors=telepathy_output.factors,
        alignment=telepathy_output.alignment,
    )
    scale = report.scale if plain is None else torch.ones_like(report.scale)
    steps = windows.target.shape[1]
    base, added = windows.base[:, :steps].double(), residual.composite[:, :steps].double()
    values = {
        "base": (base - windows.target).square(),
        "sigma": (base + scale[:, None, None] * added - windows.target).square(),
        "full": (base + added - windows.target).square(),
        "scale": scale,
        "residual_rms": added[:, : model.config.trajectory_steps].square().mean(dim=(1, 2)).sqrt(),
        "tau_l2": torch.stack([without.tau_l2, telepathy_output.tau_l2], dim=1).double(),
        "sem_align": torch.stack([without.sem_align, telepathy_output.sem_align], dim=1).double(),
        "episode": torch.zeros(len(windows.present), dtype=torch.int64),
    }
    present = windows.present.cpu().numpy()
    after = where_present(windows.present, telepathy_output.recurrence, previous)
    return {name: tensor.cpu().numpy()[present] for name, tensor in values.items()}, after


def joined(found: Sequence[Mapping[str, ndarray]]) -> WindowScores:
    """Scores of several calls as one."""
    return WindowScores(**{name: np.concatenate([part[name] for part in found]) for name in found[0]})


def usual(scores: WindowScores) -> References:
    """The adapter's references from the training windows: r_ref a percentile, tau_ref the median norm."""
    return References(r_ref=usual_size(scores), tau_ref=float(np.median(scores.tau_l2[:, 1])))


def usual_size(scores: WindowScores) -> float:
    """r_ref: how large a residual usually is."""
    return max(1e-6, float(np.percentile(scores.residual_rms, TYPICAL_RESIDUAL)))


# A shard through the robot's own runtime: the same windows, memory and scores as a replay of its recording.


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
    started_ns, schedule = time.perf_counter_ns(), Schedule(SCORE_STRIDE_TICKS, runtime.memory_stride)
    options = ReplayOptions(settings=AdapterSettings(), schedule=schedule, supervisor_limits=None, task=episode.task)
    recorder = ReplayRecorder(contract, policy_facts(runtime), run_facts(episode.task, runtime, options))
    loop = policy_loop(contract, runtime, options, lockstep=True)
    drive = ReplayDrive(TimedWorker(loop, partial(execute, runtime=runtime)), recorder, None)
    ticks = _ticks(episode, contract)
    if pictures_of is not None:
        ticks = with_pictures_of(ticks, _ticks(pictures_of, contract))
    for tick in ticks:
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


def _ticks(episode: EpisodeRows, contract: Contract) -> Iterator[Tick]:
    """The epoch as the frame clock gave it when the shard was made; ages are not kept in shards and are 0."""
    history = WindowHistory()
    positions = contract.to_rad(episode.states.astype(np.float64))
    actions = contract.to_rad(episode.actions.astype(np.float64))
    names = [camera.name for camera in contract.cameras]
    for tick in range(episode.ticks):
        stamp_ns = NS_PER_S + contract.tick_offset_ns(tick)
        item: Window | Gap
        if episode.valid[tick]:
            frames = episode.frames(tick, tick + 1)[0]
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
