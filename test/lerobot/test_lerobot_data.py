# SPDX-License-Identifier: Apache-2.0
"""A data set of another rate, robot or unit is one sentence before a checkpoint is looked for."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from look_alikes import SO101_JOINTS, statistics

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import SigmaError
from sigma_ros.lerobot.configuration_sigma import SigmaPolicyConfig
from sigma_ros.lerobot.data import checked_statistics
from sigma_ros.lerobot.modeling_sigma import SigmaPolicy

JOINTS = list(SO101_JOINTS)


def meta(
    *,
    fps: int = 30,
    scale: float = 1.0,
    dof: int = 6,
    without: tuple[str, ...] = (),
    names: Any = JOINTS,
    actions: Any = JOINTS,
    action_key: str = "action",
    cameras: tuple[str, ...] = ("up", "side"),
    stats: bool = True,
) -> Any:
    """What LeRobot says of a data set, as far as it is asked."""
    known = {name: scale * value.numpy() for name, value in statistics(dof).items() if name not in without}
    features = {"observation.state": {"names": names}, action_key: {"names": actions}}
    features |= {f"observation.images.{camera}": {} for camera in cameras}
    found = {"observation.state": known, "action": known} if stats else None
    return SimpleNamespace(repo_id="a/set", fps=fps, stats=found, features=features)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"fps": 15}, "another rate.*30.*15 fps"),
        ({"scale": 3.0}, "cannot be in the contract's units"),
        ({"scale": 0.03}, r"cannot be in the contract's units.*radians, or -1 .. 1"),
        ({"dof": 7}, "other joints"),
        ({"without": ("q01", "mean")}, "no statistics of observation.state"),
        ({"names": JOINTS[::-1]}, r"one by one.*observation\.state.*got: gripper, wrist_roll"),
        ({"actions": JOINTS[::-1]}, r"one by one.*: action"),
        ({"names": None}, "one by one.*no names"),
        ({"names": JOINTS + JOINTS}, "one by one"),
        ({"action_key": "actions"}, "has no action.*actions.*--rename actions=action"),
        ({"cameras": ("side",)}, r"fewer cameras.*no up \(observation\.images\.up\).*observation\.images\.side"),
        ({"cameras": ()}, "fewer cameras.*got: none"),
        ({"stats": False}, "no statistics of observation.state.*augment_dataset"),
        ({"names": [f"motor_{i}" for i in range(6)]}, "one by one.*motor_0"),
    ],
)
def test_another_convention_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(SigmaError, match=text):
        SigmaPolicy(SigmaPolicyConfig(checkpoint="there is none", device="cpu"), dataset_meta=meta(**change))


def test_cameras_of_other_names_are_left_to_the_rename_map() -> None:
    with pytest.raises(SigmaError, match="there is none"):
        SigmaPolicy(
            SigmaPolicyConfig(checkpoint="there is none", device="cpu"), dataset_meta=meta(cameras=("front", "wrist"))
        )


@pytest.mark.parametrize("names", [{"motors": JOINTS}, [f"main_{name.removesuffix('.pos')}" for name in JOINTS]])
def test_joints_are_known_by_lerobots_other_ways_to_name_them(names: Any) -> None:
    assert checked_statistics(meta(names=names), load_contract("so101")).state.dof == 6


@pytest.mark.parametrize(("without", "mode"), [((), "QUANTILES"), (("q01",), "MEAN_STD")])
def test_the_statistics_are_the_data_sets(without: tuple[str, ...], mode: str) -> None:
    found = checked_statistics(meta(without=without), load_contract("so101"))
    assert found.state.mode == mode
    np.testing.assert_array_equal(found.action.statistics["std"], statistics()["std"].double())
