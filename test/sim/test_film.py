# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sigma_ros.sim.demonstration import demonstrate
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.recorder import FRAME_TICKS, WIDTH_PX, write_film

pytestmark = pytest.mark.gl


def test_an_animation_shows_the_arm_moving_at_real_speed(arm: SimArm, tmp_path: Path) -> None:
    episode = demonstrate(arm, 0)
    arrays = ("states", "positions_rad", "velocities_radps", "commands_rad")
    episode = replace(episode, **{name: getattr(episode, name)[: 4 * FRAME_TICKS] for name in arrays})
    write_film(tmp_path / "new" / "pick.gif", arm, episode)
    with Image.open(tmp_path / "new" / "pick.gif") as gif:
        assert (gif.n_frames, gif.size) == (4, (WIDTH_PX, WIDTH_PX * 3 // 4 * 3 // 2))  # type: ignore[attr-defined]
        assert gif.info["duration"] == pytest.approx(1000 * FRAME_TICKS / 30, abs=10)  # GIF counts in 10 ms
        first = np.array(gif.convert("RGB"))
        gif.seek(3)
        assert not np.array_equal(np.array(gif.convert("RGB")), first)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["pick.gif"]
