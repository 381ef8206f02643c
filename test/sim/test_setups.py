# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

import sigma_ros
from sigma_ros.errors import UsageError
from sigma_ros.sim.setups import BUMPED, SETUPS, SOURCE, TARGET, ServoConfig, setup_named


def test_the_target_differs_from_the_source_in_all_that_a_real_table_differs_in() -> None:
    same = {"shadows"}
    for field in fields(SOURCE):
        equal = getattr(SOURCE, field.name) == getattr(TARGET, field.name)
        assert equal == (field.name in same), field.name


def test_the_bumped_set_up_is_the_target_but_for_cameras_light_and_box() -> None:
    differing = {f.name for f in fields(TARGET) if getattr(TARGET, f.name) != getattr(BUMPED, f.name)}
    assert differing == {"name", "cameras", "light", "box"}


def test_a_launch_file_knows_the_set_ups_by_name() -> None:
    """As text: launch itself is not needed to run the tests."""
    text = (Path(sigma_ros.__file__).parent / "nodes/launch/arguments.py").read_text()
    assert f'"setup": ({", ".join(json.dumps(name) for name in SETUPS)}),' in text


def test_all_setups_have_the_cameras_of_the_data_set() -> None:
    assert all(setup.camera_names == ("up", "side") for setup in SETUPS.values())


def test_an_unknown_setup_is_refused_with_the_valid_names() -> None:
    with pytest.raises(UsageError, match=r"source or target.*got: kitchen"):
        setup_named("kitchen")


def test_a_servo_that_cannot_be_is_refused_with_every_problem_at_once() -> None:
    with pytest.raises(UsageError, match=r"stiffness.*bus_delay_s.*counts_per_turn"):
        ServoConfig(stiffness_nm_per_rad=-1.0, bus_delay_s=0.2, lag_s=0.1, counts_per_turn=1)


@pytest.mark.parametrize("nonsense", [float("nan"), 0.0, -1.0])
def test_a_servo_without_a_speed_is_refused(nonsense: float) -> None:
    with pytest.raises(UsageError, match="max_speed_radps"):
        ServoConfig(max_speed_radps=nonsense)


@pytest.mark.parametrize("offsets", [(0.0,) * 5, (0.0,) * 5 + (0.5,), (0.0,) * 5 + (float("nan"),)])
def test_joint_offsets_that_no_calibration_gives_are_refused(offsets: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="joint"):
        replace(SOURCE, joint_offset_rad=offsets)
