# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sigma_ros.sim.demonstration import demonstrate
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.film import beauty_frames, write_gif, write_sheet

pytestmark = pytest.mark.gl


def test_an_animation_and_a_sheet_show_the_arm_moving(arm: SimArm, tmp_path: Path) -> None:
    episode = demonstrate(arm, 0)
    arrays = ("states", "positions_rad", "velocities_radps", "commands_rad")
    episode = replace(episode, **{name: getattr(episode, name)[:120] for name in arrays})
    frames = beauty_frames(arm, episode, every_ticks=30, width_px=160, height_px=120)
    assert [frame.shape for frame in frames] == [(120, 160, 3)] * 4
    assert not np.array_equal(frames[0], frames[-1])
    write_gif(tmp_path / "pick.gif", frames, frame_s=0.1)
    write_sheet(tmp_path / "pick.png", frames, columns=2)
    with Image.open(tmp_path / "pick.gif") as gif:
        assert (gif.n_frames, gif.size) == (4, (160, 120))  # type: ignore[attr-defined]
    with Image.open(tmp_path / "pick.png") as sheet:
        assert sheet.size == (320, 240)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pick.gif", "pick.png"]
