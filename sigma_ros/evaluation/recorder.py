# SPDX-License-Identifier: Apache-2.0
"""`ReplayRecorder`: the one mutable thing of a replay; fed tick by tick, it ends as a frozen `ReplayLog`.

Used by the graph-free replay and by the replay node. It keeps numbers, never frames, except small
pictures of the few worst scored windows and of some ticks: its memory grows by about 5 kB per chunk and nothing else.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.contract import Camera, Contract
from sigma_ros.errors import SigmaError
from sigma_ros.evaluation.log import (
    SCORED_STEPS,
    BagFacts,
    DecisionTrack,
    InferenceEntry,
    PolicyFacts,
    ReplayLog,
    RunFacts,
    Shot,
    Strip,
    TickTrack,
    scored,
)
from sigma_ros.evaluation.scoring.metrics import TRJ
from sigma_ros.evaluation.scoring.windows import missed
from sigma_ros.policy.schedule import SCORE_STRIDE_TICKS
from sigma_ros.streams.images import as_jpeg
from sigma_ros.values import WINDOW_TICKS, Chunk, Gap, Telepathy, Window

WORST_WINDOWS = 4
STRIP_WIDTH_PX = 160
STRIP_AGES_TICKS = (15, 10, 5, 0)

_TOLD = ("tau_l2", "sem_align", "baseline_tau_l2", "baseline_sem_align", "committed")

MAX_SHOTS = 96
SHOT_STRIDE_TICKS = 4
SHOT_WIDTH_PX = 288
SHOT_JPEG_QUALITY = 70


@dataclass(slots=True)
class _Pending:
    """A scored tick whose next recorded actions are still to come."""

    epoch: int
    tick: int
    images: Mapping[str, tuple[ndarray, ...]]
    sigma_rad: Float64[ndarray, "steps dof"] | None = None
    actions: list[ndarray | None] = field(default_factory=list)


class ReplayRecorder:
    """Collects a replay as it happens: a `tick`, then its `inference` if there is one; a `decision` any time.

    Args:
        contract: The robot.
        policy: The checkpoint.
        run: How it is replayed.
        pictures: Whether small pictures are kept, which only a page shows.
    """

    def __init__(self, contract: Contract, policy: PolicyFacts, run: RunFacts, *, pictures: bool = True) -> None:
        self._contract = contract
        self._pictures = pictures
        self._policy = policy
        self._run = run
        self._ticks: list[tuple[int, int, int, bool, ndarray, ndarray]] = []
        self._reasons: Counter[str] = Counter()
        self._inferences: list[InferenceEntry] = []
        self._decisions: list[tuple[int, str, str, ndarray, float, float, float, ndarray, int, int]] = []
        self._counters = {"violations": 0, "refused_chunks": 0, "holds": 0, "engagements": 0}
        self._pending: list[_Pending] = []
        self._worst: list[Strip] = []
        self._shots: list[Shot] = []
        self._shot_stride = SHOT_STRIDE_TICKS
        self._missing = np.full(contract.dof, np.nan)

    def tick(self, item: Window | Gap, action_rad: Float64[ndarray, " dof"] | None) -> None:
        """Adds the next tick of the frame clock and the action recorded for it, if there is one."""
        action = self._missing if action_rad is None else action_rad
        if isinstance(item, Gap):
            self._reasons.update(item.reasons)
            self._ticks.append((item.epoch, item.tick, item.stamp_ns, False, self._missing, action))
        else:
            self._ticks.append((item.epoch, item.tick, item.stamp_ns, True, item.newest.positions_rad, action))
            if self._pictures:
                self._keep_pictures(item)
        self._settle(item.epoch, action_rad)

    def inference(self, chunk: Chunk, telepathy: Telepathy, *, published: bool, host_ns: int) -> None:
        """Adds what the policy gave for the newest tick; `host_ns` is how long this machine took.

        Raises:
            SigmaError: the chunk's step is not one tick long, so it cannot be compared with the recording.
        """
        if abs(chunk.step_period_ns - self._contract.tick_period_ns) > 1:
            raise SigmaError(
                "a chunk's step period differs from the contract's tick",
                where=f"chunk {chunk.chunk_id}",
                expected=f"{self._contract.tick_period_ns} ns",
                got=f"{chunk.step_period_ns} ns",
                remedy="use the contract with which the policy was started",
            )
        told = {name: getattr(telepathy, name) for name in _TOLD}
        self._inferences.append(InferenceEntry(chunk=chunk, published=published, host_ns=host_ns, **told))
        for pending in self._pending:
            if (pending.epoch, pending.tick) == (chunk.epoch, chunk.tick):
                pending.sigma_rad = scored(chunk.blended_rad(chunk.scale))

    def decision(
        self,
        *,
        stamp_ns: int,
        state: str,
        reason: str,
        command_rad: Float64[ndarray, " dof"] | None,
        requested_scale: float,
        scale_ceiling: float,
        applied_scale: float,
        clipped_joints: tuple[str, ...],
        chunk_id: int,
        host_ns: int,
    ) -> None:
        """Adds one supervisor tick; `chunk_id` is -1 before the first chunk."""
        command = self._missing if command_rad is None else command_rad
        clipped = np.array([name in clipped_joints for name in self._contract.joint_names])
        self._decisions.append(
            (
                stamp_ns,
                state,
                reason,
                command,
                requested_scale,
                scale_ceiling,
                applied_scale,
                clipped,
                chunk_id,
                host_ns,
            )
        )

    def supervisor_counters(self, *, violations: int, refused_chunks: int, holds: int, engagements: int) -> None:
        """Sets the supervisor's own counters as of now; the last call counts."""
        self._counters = {
            "violations": violations,
            "refused_chunks": refused_chunks,
            "holds": holds,
            "engagements": engagements,
        }

    def finish(self, bag: BagFacts, *, complete: bool, wall_ns: int) -> ReplayLog:
        """The frozen log of everything so far."""
        return ReplayLog(
            contract=self._contract,
            bag=bag,
            policy=self._policy,
            run=self._run,
            ticks=self._tick_track(),
            inferences=tuple(self._inferences),
            decisions=self._decision_track(),
            strips=tuple(self._worst),
            complete=complete,
            wall_ns=wall_ns,
            shots=tuple(self._shots),
        )

    def _keep_pictures(self, window: Window) -> None:
        """Every so many ticks a shot; where there are too many, every second one goes and the next are rarer.

        A scored window's strip is kept until it is known whether the window is one of the worst.
        """
        if window.tick % SCORE_STRIDE_TICKS == 0:
            self._pending.append(_Pending(window.epoch, window.tick, _strip_images(window, self._contract)))
        if len(self._ticks) % self._shot_stride != 1:
            return
        frame = window.newest
        jpegs = {
            camera.name: as_jpeg(
                _thumbnail(frame.images[camera.name], camera, SHOT_WIDTH_PX), SHOT_JPEG_QUALITY, where=camera.name
            ).tobytes()
            for camera in self._contract.cameras
        }
        self._shots.append(Shot(stamp_ns=frame.stamp_ns, jpegs=jpegs))
        if len(self._shots) > MAX_SHOTS:
            del self._shots[1::2]
            self._shot_stride *= 2

    def _settle(self, epoch: int, action_rad: ndarray | None) -> None:
        """Gives the tick's action to the windows that wait for it; a full window becomes a strip or is forgotten."""
        self._pending = [pending for pending in self._pending if pending.epoch == epoch]
        for pending in self._pending:
            pending.actions.append(action_rad)
        for pending in [p for p in self._pending if len(p.actions) == SCORED_STEPS]:
            self._pending.remove(pending)
            self._keep_if_worst(pending)

    def _keep_if_worst(self, pending: _Pending) -> None:
        actions = [action for action in pending.actions if action is not None]
        if pending.sigma_rad is None or len(actions) < SCORED_STEPS:
            return
        errors = missed(pending.sigma_rad[None], np.stack(actions)[None], self._policy.normalise)
        strip = Strip(
            epoch=pending.epoch,
            tick=pending.tick,
            error=float(errors.spans[0, TRJ]),
            images=pending.images,
            age_ticks=STRIP_AGES_TICKS,
        )
        self._worst = sorted([*self._worst, strip], key=lambda s: (-s.error, s.epoch, s.tick))[:WORST_WINDOWS]

    def _tick_track(self) -> TickTrack:
        dof = self._contract.dof
        columns = list(zip(*self._ticks, strict=True)) or [(), (), (), (), (), ()]
        return TickTrack(
            epoch=np.array(columns[0], dtype=np.int64),
            tick=np.array(columns[1], dtype=np.int64),
            stamp_ns=np.array(columns[2], dtype=np.int64),
            valid=np.array(columns[3], dtype=bool),
            joints_rad=np.array(columns[4], dtype=np.float64).reshape(-1, dof),
            action_rad=np.array(columns[5], dtype=np.float64).reshape(-1, dof),
            reasons=dict(sorted(self._reasons.items())),
        )

    def _decision_track(self) -> DecisionTrack:
        dof = self._contract.dof
        columns = list(zip(*self._decisions, strict=True)) or [() for _ in range(10)]
        return DecisionTrack(
            stamp_ns=np.array(columns[0], dtype=np.int64),
            state=tuple(columns[1]),
            reason=tuple(columns[2]),
            command_rad=np.array(columns[3], dtype=np.float64).reshape(-1, dof),
            requested_scale=np.array(columns[4], dtype=np.float64),
            scale_ceiling=np.array(columns[5], dtype=np.float64),
            applied_scale=np.array(columns[6], dtype=np.float64),
            clipped=np.array(columns[7], dtype=bool).reshape(-1, dof),
            chunk_id=np.array(columns[8], dtype=np.int64),
            host_ns=np.array(columns[9], dtype=np.int64),
            **self._counters,
        )


def _strip_images(window: Window, contract: Contract) -> dict[str, tuple[ndarray, ...]]:
    frames = [window.frames[WINDOW_TICKS - 1 - age] for age in STRIP_AGES_TICKS]
    return {
        camera.name: tuple(_thumbnail(frame.images[camera.name], camera) for frame in frames)
        for camera in contract.cameras
    }


def _thumbnail(image: ndarray, camera: Camera, width_px: int = STRIP_WIDTH_PX) -> ndarray:
    """The camera's picture without the bars that letterboxing added, `width_px` wide."""
    side = image.shape[0]
    shrink = side / max(camera.width_px, camera.height_px)
    height, width = round(camera.height_px * shrink), round(camera.width_px * shrink)
    top, left = (side - height) // 2, (side - width) // 2
    picture = image[top : top + height, left : left + width]
    size = (width_px, max(1, round(width_px * height / width)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
