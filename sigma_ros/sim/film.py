# SPDX-License-Identifier: Apache-2.0
"""An animation of an episode for documents: the arm from outside, and what the policy's cameras see."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from jaxtyping import Float64, UInt8
from numpy import ndarray
from PIL import Image

from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.scene import BEAUTY

FRAME_TICKS = 4
WIDTH_PX = 480
_COLOURS = 200
_COARSE = np.uint8(0xFC)
_PALETTE_FRAMES = 8


class Filmed(Protocol):
    """An episode that can be drawn: MuJoCo's positions of each tick."""

    @property
    def states(self) -> Float64[ndarray, "ticks nq"]:
        """See the class."""
        ...


def film_frames(arm: SimArm, episode: Filmed) -> Iterator[UInt8[ndarray, "height width 3"]]:
    """Every fourth tick: a smooth picture with shadows, the two cameras side by side below it."""
    height_px = WIDTH_PX * 3 // 4
    half = (WIDTH_PX // 2, height_px // 2)
    with arm.open_beauty(width_px=2 * WIDTH_PX, height_px=2 * height_px) as cameras:
        for state in episode.states[::FRAME_TICKS]:
            outside = cameras.render(state, BEAUTY)
            above = cv2.resize(outside, (WIDTH_PX, height_px), interpolation=cv2.INTER_AREA)
            seen = [arm.draw(state, camera.name) for camera in arm.contract.cameras[:2]]
            below = [cv2.resize(picture, half, interpolation=cv2.INTER_AREA) for picture in seen]
            yield np.concatenate([above, np.concatenate(below, axis=1)])


def write_film(path: Path, arm: SimArm, episode: Filmed) -> None:
    """Writes an endless GIF at real speed, with one palette for all its frames, or nothing.

    Raises:
        MachineError: no OpenGL library works here.
    """
    frames = list(film_frames(arm, episode))
    chosen = frames[:: max(1, len(frames) // _PALETTE_FRAMES)]
    # Colours count by the root of their area, so that a small pink brick keeps its pink.
    colours, pixels = np.unique(np.concatenate(chosen).reshape(-1, 3) & _COARSE, axis=0, return_counts=True)
    sample = np.repeat(colours, np.ceil(np.sqrt(pixels)).astype(int), axis=0)
    palette = Image.fromarray(sample[None]).quantize(_COLOURS, kmeans=1)
    first, *rest = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    frame_ms = round(1000 * FRAME_TICKS / arm.contract.fps)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".tmp")
    first.save(partial, "GIF", save_all=True, append_images=rest, duration=frame_ms, loop=0)
    partial.rename(path)
