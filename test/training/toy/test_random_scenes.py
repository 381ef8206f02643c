# SPDX-License-Identifier: Apache-2.0
"""Random scenes repeat with their seed, differ in all that a table can differ in, and say rightly where things are."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from sigma_ros.contract_file import load_contract
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.setups import SOURCE, BrickConfig
from sigma_ros.streams.images import letterbox
from training.toy.random_scenes import PLACES, in_picture, random_scenes, random_setup

SIZE_PX = 112


def first_group(seed):
    return next(random_scenes(SOURCE, load_contract("so101"), seed=seed, per_setup=3, size_px=SIZE_PX))


@pytest.mark.gl
def test_the_same_seed_gives_the_same_scenes_and_another_one_others():
    once, again, other = first_group((3, 0)), first_group((3, 0)), first_group((3, 1))
    for a, b in zip(once, again, strict=True):
        assert np.array_equal(a.images, b.images)
        assert np.array_equal(a.places, b.places)
    assert not np.array_equal(once[0].images, other[0].images)
    assert once[0].images.shape == (2, SIZE_PX, SIZE_PX, 3)
    assert once[0].places.shape == (2, len(PLACES))
    assert np.isfinite([scene.places for scene in once]).all()


def test_a_random_setup_differs_in_cameras_light_brick_and_colours_but_is_the_same_robot():
    drawn = random_setup(SOURCE, np.random.default_rng(0))
    for field in ("cameras", "light", "brick", "box", "start", "printed_rgb", "accent_rgb", "table_rgb"):
        assert getattr(drawn, field) != getattr(SOURCE, field), field
    assert drawn.servo == SOURCE.servo
    assert drawn.camera_names == SOURCE.camera_names


@pytest.mark.gl
@pytest.mark.parametrize("camera", ["up", "side"])
def test_the_brick_is_in_the_picture_where_it_is_said_to_be(camera):
    """A brick that shines in pure green, alone in having that colour, and the middle of its pixels."""
    green = replace(SOURCE, brick=BrickConfig(size_m=(0.03, 0.03, 0.012), rgb=(0.0, 1.0, 0.0)))
    with SimArm(green) as arm:
        data = mujoco.MjData(arm.model)
        for x_m, y_m in ((0.25, 0.1), (0.2, -0.05), (0.3, 0.0)):
            arm.place_brick((x_m, y_m, 0.006), yaw_rad=0.3)
            data.qpos[:] = arm.snapshot()
            mujoco.mj_forward(arm.model, data)
            picture = letterbox(arm.render(camera), SIZE_PX).astype(int)
            found = np.argwhere((picture[..., 1] > 2 * picture[..., 0]) & (picture[..., 1] > 2 * picture[..., 2]))
            assert len(found) > 5
            said = (in_picture(arm, data, camera, arm.brick_position_m()[None])[0] + 1.0) * SIZE_PX / 2
            assert np.abs(found.mean(axis=0)[::-1] + 0.5 - said).max() < 1.0
