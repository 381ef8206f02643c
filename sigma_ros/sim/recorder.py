# SPDX-License-Identifier: Apache-2.0
"""Writes demonstrations as bags. Pictures are drawn only here, once success is known; writing overlaps drawing."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
from jaxtyping import Float64, UInt8
from numpy import ndarray
from PIL import Image

from sigma_ros.bags.topics import TASK_TOPIC
from sigma_ros.bags.writer import BagWriter
from sigma_ros.border import whole
from sigma_ros.contract import Contract
from sigma_ros.errors import ContractError
from sigma_ros.sim.cameras import Cameras
from sigma_ros.sim.demonstration import Demonstration
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.scene import BEAUTY
from sigma_ros.values import NS_PER_S

START_NS = 1_735_689_600 * NS_PER_S
"""Stamp of the first tick of every recording (2025-01-01): bags of the same seed are the same bytes."""

Storage = Literal["mcap", "sqlite3"]
DEFAULT_JPEG_QUALITY = 90
_PICTURES_AHEAD = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BagFormat:
    """How a demonstration is written. `jpeg_quality` None: raw pictures."""

    jpeg_quality: int | None = None
    storage: Storage = "mcap"
    overwrite: bool = False


def bag_format(contract: Contract, *, jpeg_quality: int | None, storage: Storage, overwrite: bool) -> BagFormat:
    """The format asked for; a contract whose cameras are compressed gets JPEG pictures in any case."""
    if jpeg_quality is None and any("Compressed" in camera.message_type for camera in contract.cameras):
        jpeg_quality = DEFAULT_JPEG_QUALITY
    return BagFormat(jpeg_quality=jpeg_quality, storage=storage, overwrite=overwrite)


def write_demonstration(
    path: Path,
    arm: SimArm,
    demonstration: Demonstration,
    how: BagFormat,
    on_tick: Callable[[], None] = lambda: None,
) -> None:
    """Draws a demonstration and writes it as one bag at `path`, or nothing at all.

    Raises:
        MachineError: no OpenGL library works here.
        UsageError: `path` exists.
        BagError: the disk refused a write.
    """
    contract = arm.contract
    metadata = {
        "sigma.source": "simulated",
        "sigma.setup": arm.setup.name,
        "sigma.contract": contract.name,
        "sigma.task": contract.tasks[0],
        "sigma.seed": str(demonstration.seed),
        "sigma.success": str(demonstration.success).lower(),
    }
    arm.draw(demonstration.states[0], contract.cameras[0].name)  # a machine that cannot draw leaves no folder
    with (
        BagWriter(path, storage=how.storage, overwrite=how.overwrite, metadata=metadata) as bag,
        _Behind() as behind,
    ):
        behind.do(lambda: bag.text(TASK_TOPIC, START_NS, contract.tasks[0]))
        for tick in range(demonstration.ticks):
            pictures = {c.name: arm.draw(demonstration.states[tick], c.name) for c in contract.cameras}
            write = partial(_write_tick, bag, contract, demonstration, tick=tick, pictures=pictures)
            behind.do(partial(write, jpeg_quality=how.jpeg_quality))
            on_tick()


def _write_tick(
    bag: BagWriter,
    contract: Contract,
    demonstration: Demonstration,
    *,
    tick: int,
    pictures: Mapping[str, UInt8[ndarray, "h w 3"]],
    jpeg_quality: int | None,
) -> None:
    stamp_ns = START_NS + contract.tick_offset_ns(tick)
    bag.joints(
        contract.joint_state_topic,
        stamp_ns,
        contract.joint_names,
        demonstration.positions_rad[tick],
        demonstration.velocities_radps[tick],
    )
    for camera in contract.cameras:
        bag.image(camera.topic, stamp_ns, f"{camera.name}_camera", pictures[camera.name], jpeg_quality=jpeg_quality)
    command_rad = demonstration.commands_rad[tick]
    bag.command(contract.command_topic, contract.command_type, stamp_ns, contract.joint_names, command_rad)


class _Behind:
    """Runs jobs in order on one thread, at most `_PICTURES_AHEAD` of them waiting; leaving waits for all."""

    def __enter__(self) -> "_Behind":
        self._pool = ThreadPoolExecutor(1, "bag writer")
        self._waiting: deque[Future[None]] = deque()
        return self

    def do(self, job: Callable[[], None]) -> None:
        """Queues a job; raises what an earlier one raised."""
        self._waiting.append(self._pool.submit(job))
        while len(self._waiting) > _PICTURES_AHEAD:
            self._waiting.popleft().result()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            for job in self._waiting:
                job.result()


def check_recordable(contract: Contract, cameras: tuple[str, ...]) -> None:
    """Refuses a contract that asks for what the simulator does not have.

    Raises:
        ContractError: a camera is not there.
    """
    missing = [camera.name for camera in contract.cameras if camera.name not in cameras]
    sizes = {(camera.width_px, camera.height_px) for camera in contract.cameras}
    if missing or len(sizes) > 1:
        raise ContractError(
            "the simulator cannot fill this contract's cameras",
            where=contract.name,
            expected=f"cameras named {', '.join(cameras)}, all of one size",
            got=", ".join(f"{c.name} {c.width_px}x{c.height_px}" for c in contract.cameras),
        )


# An animation of an episode for documents: the arm from outside, and what the policy's cameras see.


FRAME_TICKS = 4
WIDTH_PX = 480
_COLOURS = 200
_COARSE = np.uint8(0xFC)
_PALETTE_FRAMES = 8

Picture = UInt8[ndarray, "height width 3"]


class Filmed(Protocol):
    """An episode that can be drawn: MuJoCo's positions of each tick."""

    @property
    def states(self) -> Float64[ndarray, "ticks nq"]:
        """See the class."""


def film_frames(arm: SimArm, episodes: Mapping[str, Filmed], *, fine: bool = True) -> Iterator[Picture]:
    """Every fourth tick of episodes side by side, each under its name and what it tells (`told`); the last ones stand.

    An empty name writes nothing. `fine`: with shadows and smooth edges, and the two cameras below; slow.
    """
    ticks = max(len(episode.states) for episode in episodes.values())
    with arm.open_beauty(width_px=2 * WIDTH_PX, height_px=WIDTH_PX * 3 // 2) if fine else nullcontext() as cameras:
        shown: dict[str, Picture] = {}
        for tick in range(0, ticks, FRAME_TICKS):
            for name, episode in episodes.items():
                if tick < len(episode.states) or name not in shown:
                    shown[name] = _column(arm, cameras, episode, tick, name)
            yield np.concatenate(list(shown.values()), axis=1)


def _column(arm: SimArm, cameras: Cameras | None, episode: Filmed, tick: int, name: str) -> Picture:
    state = episode.states[tick]
    width_px = WIDTH_PX if cameras is not None else WIDTH_PX * 2 // 3
    outside = arm.draw(state, BEAUTY) if cameras is None else cameras.render(state, BEAUTY)
    column = _scaled(outside, width_px)
    if cameras is not None:
        seen = [_scaled(arm.draw(state, camera.name), width_px // 2) for camera in arm.contract.cameras[:2]]
        column = np.concatenate([column, np.concatenate(seen, axis=1)])
    if name:
        told = getattr(episode, "told", {tick: ""})[tick]
        column[:28] = column[:28] // 4
        cv2.putText(column, f"{name}  {told}", (8, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return column


def _scaled(picture: Picture, width_px: int) -> Picture:
    return cv2.resize(picture, (width_px, width_px * 3 // 4), interpolation=cv2.INTER_AREA).astype(np.uint8)


def write_film(path: Path, arm: SimArm, episodes: Mapping[str, Filmed], *, fine: bool = True) -> None:
    """Writes `film_frames` as an endless GIF at real speed, with one palette for all its frames, or nothing.

    Raises:
        MachineError: no OpenGL library works here.
    """
    frames = list(film_frames(arm, episodes, fine=fine))
    chosen = frames[:: max(1, len(frames) // _PALETTE_FRAMES)]
    # Colours count by the root of their area, so that a small pink brick keeps its pink.
    colours, pixels = np.unique(np.concatenate(chosen).reshape(-1, 3) & _COARSE, axis=0, return_counts=True)
    sample = np.repeat(colours, np.ceil(np.sqrt(pixels)).astype(int), axis=0)
    palette = Image.fromarray(sample[None]).quantize(_COLOURS, kmeans=1)
    first, *rest = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    frame_ms = round(1000 * FRAME_TICKS / arm.contract.fps)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        first.save(partial, "GIF", save_all=True, append_images=rest, duration=frame_ms, loop=0)
