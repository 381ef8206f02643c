# SPDX-License-Identifier: Apache-2.0
import threading

import numpy as np
import pytest

from sigma_ros.errors import MachineError, UsageError
from sigma_ros.sim import cameras as gl
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.scene import BEAUTY
from sigma_ros.sim.setups import SOURCE, TARGET, SceneConfig

pytestmark = pytest.mark.gl


def pink(picture: np.ndarray) -> int:
    """Pixels that are clearly more red and blue than green, as the brick is and nothing else."""
    red, green, blue = (picture[..., i].astype(int) for i in range(3))
    return int(np.sum((red > green + 60) & (blue > green + 20) & (red > blue)))


@pytest.mark.parametrize("setup", [SOURCE, TARGET], ids=lambda s: s.name)
def test_both_cameras_see_the_brick_at_the_start_of_every_episode(setup: SceneConfig) -> None:
    with SimArm(setup) as arm:
        for seed in range(8):
            arm.reset(seed)
            for camera in setup.camera_names:
                assert pink(arm.render(camera)) > 60, (seed, camera)


def test_without_a_brick_nothing_is_pink(arm: SimArm) -> None:
    arm.reset(0)
    arm.place_brick((-3.0, 0.0, -0.6), yaw_rad=0.0)
    assert [pink(arm.render(camera)) for camera in ("up", "side")] == [0, 0]


def test_a_picture_has_the_contracts_size_and_is_its_own_copy(arm: SimArm) -> None:
    arm.reset(0)
    first = arm.render("up")
    kept = first.copy()
    arm.render("side")
    assert first.shape == (480, 640, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, kept)


def test_the_same_state_gives_the_same_picture(arm: SimArm) -> None:
    arm.reset(0)
    before = arm.snapshot()
    first = arm.render("side")
    arm.step(arm.command_rad + 0.4, 0.5)
    assert not np.array_equal(arm.render("side"), first)
    assert np.array_equal(arm.draw(before, "side"), first)


def test_another_thread_draws_with_cameras_of_its_own(arm: SimArm) -> None:
    arm.reset(0)
    here, there = arm.render("up"), []

    def draw() -> None:
        with arm.open_cameras() as cameras:
            there.append(cameras.render(arm.snapshot(), "up"))

    thread = threading.Thread(target=draw)
    thread.start()
    thread.join()
    assert np.array_equal(there[0], here)


def test_an_unknown_camera_is_refused_with_the_valid_names(arm: SimArm) -> None:
    with pytest.raises(UsageError, match="up or side"):
        arm.render("wrist")


def test_the_picture_for_documents_shows_the_arm_in_its_colours(arm: SimArm) -> None:
    arm.reset(0)
    with arm.open_beauty(width_px=320, height_px=240) as cameras:
        picture = cameras.render(arm.snapshot(), BEAUTY).astype(int)
    orange = (picture[..., 0] > 150) & (picture[..., 1] < 0.6 * picture[..., 0]) & (picture[..., 2] < 60)
    dark = picture.max(axis=-1) < 45
    assert orange.mean() > 0.01
    assert dark.mean() > 0.01


def test_a_machine_without_gl_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl, "_library", lambda name: None)
    with pytest.raises(MachineError, match=r"apt-get install .*libosmesa6"):
        gl.open_context(16, 16)


def test_without_an_egl_device_osmesa_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl, "_egl_devices", lambda: 0)
    monkeypatch.setattr(gl, "_library", lambda name: object() if name == "OSMesa" else None)
    assert gl.chosen_backend() == "osmesa"


@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_the_users_choice_of_backend_wins(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setenv("MUJOCO_GL", backend.upper())
    assert gl.chosen_backend() == backend
