# SPDX-License-Identifier: Apache-2.0
"""A data set of another rate, robot or unit is one sentence before a checkpoint is looked for."""

import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from look_alikes import IMAGES, SO101_JOINTS, statistics

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


NAMED, FRONT_UP = "--policy.path=there is none", {IMAGES + "front": IMAGES + "up"}


def refusal(*words: str, there: tuple[str, ...], **config: Any) -> str:
    """What lerobot-train says to these words and a data set with these cameras; without a checkpoint it always ends."""
    made = SigmaPolicyConfig(device="cpu", **config)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["lerobot-train", *words])
        with pytest.raises(SigmaError) as said:
            SigmaPolicy(made, dataset_meta=meta(cameras=there))
    return str(said.value)


def option(said: str, name: str) -> Any:
    """The value of an option in a remedy, as a shell would hand it on."""
    (word,) = shlex.split(said.split("for example ")[1])
    return json.loads(word.removeprefix(f"--{name}="))


@pytest.mark.parametrize("cameras", [("front", "wrist"), ("wrist", "up"), ("top", "front", "wrist")])
def test_cameras_of_other_names_are_refused_with_the_option_that_mends_it(cameras: tuple[str, ...]) -> None:
    said = refusal(there=cameras, checkpoint="there is none")
    assert said.startswith("the data set has other names for the contract's cameras; where: a/set: no ")
    mended = option(said, "policy.cameras")
    assert mended.keys() == {"up", "side"}
    assert "there is none" in refusal(there=cameras, checkpoint="there is none", cameras=mended)


@pytest.mark.parametrize("given", [{}, FRONT_UP, {IMAGES + "elsewhere": IMAGES + "side"}])
def test_a_trained_policys_option_is_lerobots_rename_map(given: dict[str, str]) -> None:
    """Which LeRobot refuses where there is none, and never tells to a policy."""
    pretrained, cameras = {"pretrained_path": Path("there is none")}, ("front", "wrist")
    words = [f"--rename_map={json.dumps(given)}"] if given else []
    mended = option(refusal(NAMED, *words, there=cameras, **pretrained), "rename_map")
    assert mended == FRONT_UP | {IMAGES + "wrist": IMAGES + "side"}
    for words in ([f"--rename_map={json.dumps(mended)}"], ["--rename_map", json.dumps(mended)]):
        assert "there is none" in refusal(NAMED, *words, there=cameras, **pretrained)
    for unknown in ([], [NAMED, "--config_path=run.yaml"]):  # from Python, or in a run's own file
        assert "there is none" in refusal(*unknown, there=cameras, **pretrained)
    assert "fewer cameras" in refusal(there=("wrist",), **pretrained)


@pytest.mark.parametrize("names", [{"motors": JOINTS}, [f"main_{name.removesuffix('.pos')}" for name in JOINTS]])
def test_joints_are_known_by_lerobots_other_ways_to_name_them(names: Any) -> None:
    assert checked_statistics(meta(names=names), load_contract("so101")).state.dof == 6


@pytest.mark.parametrize(("without", "mode"), [((), "QUANTILES"), (("q01",), "MEAN_STD")])
def test_the_statistics_are_the_data_sets(without: tuple[str, ...], mode: str) -> None:
    found = checked_statistics(meta(without=without), load_contract("so101"))
    assert found.state.mode == mode
    np.testing.assert_array_equal(found.action.statistics["std"], statistics()["std"].double())
