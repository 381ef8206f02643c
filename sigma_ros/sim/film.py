# SPDX-License-Identifier: Apache-2.0
"""Pictures of a demonstration for documents: an animation and a sheet of its phases."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from sigma_ros.sim.demonstration import Demonstration
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.scene import BEAUTY

_SUPERSAMPLED = 2


def beauty_frames(
    arm: SimArm, demonstration: Demonstration, *, every_ticks: int, width_px: int = 640, height_px: int = 480
) -> list[UInt8[ndarray, "height width 3"]]:
    """Smooth pictures of every n-th tick, with shadows."""
    size = (_SUPERSAMPLED * width_px, _SUPERSAMPLED * height_px)
    with arm.open_beauty(width_px=size[0], height_px=size[1]) as cameras:
        large = (cameras.render(state, BEAUTY) for state in demonstration.states[::every_ticks])
        return [cv2.resize(picture, (width_px, height_px), interpolation=cv2.INTER_AREA) for picture in large]


def write_gif(path: Path, frames: list[UInt8[ndarray, "height width 3"]], *, frame_s: float) -> None:
    """An endless animation with one palette for all its frames."""
    palette = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 8)])).quantize(128)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    partial = path.with_name(path.name + ".tmp")
    first, rest = pictures[0], pictures[1:]
    first.save(partial, "GIF", save_all=True, append_images=rest, duration=round(1000 * frame_s), loop=0)
    partial.rename(path)


def write_sheet(path: Path, frames: list[UInt8[ndarray, "height width 3"]], *, columns: int) -> None:
    """One picture with the frames in rows; a last row that is not full is left out."""
    rows = [np.concatenate(frames[i : i + columns], axis=1) for i in range(0, len(frames) - columns + 1, columns)]
    partial = path.with_name(path.name + ".tmp")
    Image.fromarray(np.concatenate(rows)).save(partial, path.suffix.removeprefix("."))
    partial.rename(path)
