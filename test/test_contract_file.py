# SPDX-License-Identifier: Apache-2.0
"""Every wrong field of a contract file is named, all of them at once; a right one means what it says."""

import contextlib
import copy
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sigma_ros.contract_file import load_contract
from sigma_ros.contract_text import is_contract_file, shipped_config_dir
from sigma_ros.errors import ContractError

DOCUMENT = yaml.safe_load((shipped_config_dir() / "so101.yaml").read_text(encoding="utf-8"))
GONE = ...  # with one text in every process


def changed(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """The SO-101's document with one entry replaced, or removed if the value is `GONE`."""
    document = copy.deepcopy(DOCUMENT)
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return document


def dumped(document: object) -> str:
    return str(yaml.dump(document, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))


def problems(tmp_path: Path, document: object) -> str:
    file = tmp_path / "contract.yaml"
    file.write_text(dumped(document), encoding="utf-8")
    with pytest.raises(ContractError) as caught:
        load_contract(file)
    assert caught.value.where == file
    assert caught.value.exit_code == 2
    return str(caught.value.got)


WRONG = [
    (("name",), GONE, "name must be a text"),
    (("name",), "  ", "name must be a text"),
    (("fps",), "fast", "fps must be a finite number, got 'fast'"),
    (("fps",), math.nan, "fps must be a finite number, got nan"),
    (("fps",), True, "fps must be a finite number, got True"),
    (("fps",), 0, "fps must be within [1, 240], got 0"),
    (("fps",), 10**400, "fps must be within [1, 240], got 1000"),
    (("settle_ms",), -1, "settle_ms must be within [0, 1000], got -1"),
    (("tasks",), [], "tasks must be a list with at least one entry"),
    (("tasks",), "pick", "tasks must be a list"),
    (("tasks",), [["pick"]], "tasks must be a list of texts"),
    (("joints", 0, "aliases"), None, "joints[0].aliases must be a list of texts, got None"),
    (("joints", 0, "aliases"), "pan", "joints[0].aliases must be a list of texts, got 'pan'"),
    (("speed",), 3, "speed is not known, expected one of action, cameras"),
    (("joints",), [], "joints must be a list with at least one entry"),
    (("joints", 0), "pan", "joints[0] must be a mapping"),
    (("joints", 0, "name"), 7, "joints[0].name must be a text, got 7"),
    (("joints", 1, "lower_rad"), math.inf, "joints[1].lower_rad must be a finite number, got inf"),
    (("joints", 1, "lower_rad"), 2.0, "joints[1]: lower_rad 2.0 must be below upper_rad 1.74533"),
    (("joints", 2, "upper_rad"), GONE, "joints[2].upper_rad must be a finite number, got None"),
    (("joints", 2, "max_velocity_radps"), 0, "joints[2].max_velocity_radps must be within"),
    (("joints", 2, "max_acceleration_radps2"), -1, "joints[2].max_acceleration_radps2 must be within"),
    (("joints", 2, "max_jerk_radps3"), None, "joints[2].max_jerk_radps3 must be a finite number"),
    (("joints", 3, "policy_unit"), "furlongs", "joints[3].policy_unit is 'furlongs', expected one of range_m100_100"),
    (("joints", 3, "policy_unit"), {"scale": 0.0, "offset": 0.0}, "joints[3].policy_unit.scale must not be 0"),
    (("joints", 3, "policy_unit"), {"scale": 1.0}, "joints[3].policy_unit.offset must be a finite number"),
    (("joints", 3, "policy_unit"), {"scale": 1.0, "offset": 0.0, "bias": 1}, "joints[3].policy_unit.bias is not known"),
    (("joints", 4, "colour"), "red", "joints[4].colour is not known"),
    (("joints", 5, "name"), "shoulder_pan", "joint name or alias used twice: shoulder_pan"),
    (("joints", 5, "aliases"), ["Rotation"], "joint name or alias used twice: Rotation"),
    (("cameras",), GONE, "cameras must be a list with at least one entry"),
    (("cameras", 0), None, "cameras[0] must be a mapping"),
    (("cameras", 0, "topic"), "", "cameras[0].topic must be a text"),
    (("cameras", 0, "type"), "sensor_msgs/msg/Imago", "cameras[0].type is 'sensor_msgs/msg/Imago', expected one of"),
    (("cameras", 0, "width_px"), 1, "cameras[0].width_px must be within [16, 8192]"),
    (("cameras", 0, "height_px"), "480p", "cameras[0].height_px must be a finite number"),
    (("cameras", 0, "max_age_ms"), 0, "cameras[0].max_age_ms must be within"),
    (("cameras", 0, "dataset_key"), GONE, "cameras[0].dataset_key must be a text"),
    (("cameras", 1, "name"), "up", "camera name used twice: up"),
    (("cameras", 1, "topic"), "/up_camera/image_raw", "camera topic used twice: /up_camera/image_raw"),
    (("cameras", 1, "dataset_key"), "observation.images.up", "camera dataset_key used twice"),
    (("state",), GONE, "state must be a mapping with max_age_ms, max_skew_ms, parts, rate_hz, topic"),
    (("state", "topic"), None, "state.topic must be a text"),
    (("state", "max_age_ms"), 1e9, "state.max_age_ms must be within"),
    (("action", "source"), "guess", "source is 'guess', expected one of command, next_state"),
    (("command", "topic"), "joint_states", "command.topic and state.topic are the same"),
    (("command", "type"), "Twist", "type is 'Twist', expected one of std_msgs/msg/Float64MultiArray"),
    (("command", "rate_hz"), 0.0, "command.rate_hz must be within [1, 1000]"),
    (("command", "topic"), 3, "command.topic must be a text, got 3"),
]


@pytest.mark.parametrize(("path", "value", "problem"), WRONG, ids=[f"{w[0]}={w[1]!r}"[:60] for w in WRONG])
def test_a_wrong_field_is_named(tmp_path: Path, path: tuple[str | int, ...], value: object, problem: str) -> None:
    assert problem in problems(tmp_path, changed(path, value))


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    document = changed(("fps",), "fast")
    document["joints"][2]["upper_rad"] = -9.0
    document["cameras"][1]["name"] = "up"
    assert len(problems(tmp_path, document).split(" | ")) == 3


def test_a_name_as_long_as_a_book_does_not_fill_the_message(tmp_path: Path) -> None:
    told = problems(tmp_path, changed(("command", "type"), "g" * 20_000))
    assert "type is 'ggg" in told
    assert len(told) < 1000


@pytest.mark.parametrize("text", ["", "just text", "[1, 2]", "joints: [unclosed", "\x00"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "contract.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ContractError):
        load_contract(file)


def test_a_missing_contract_is_answered_with_the_shipped_ones(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", "so102"):
        with pytest.raises(ContractError, match=r"no such contract.*cr5, cr5_joints, so101"):
            load_contract(path)


def test_shipped_contracts_load_by_name_and_by_path() -> None:
    files = [file for file in shipped_config_dir().glob("*.yaml") if is_contract_file(file)]
    assert {"so101", "cr5"} <= {file.stem for file in files}
    for file in files:
        assert load_contract(file) == load_contract(file.stem)


def test_times_are_converted_to_integer_nanoseconds() -> None:
    contract = load_contract("so101")
    assert contract.settle_ns == 40_000_000
    assert contract.command_period_ns == 20_000_000
    assert contract.joint_state_max_age_ns == 100_000_000
    assert contract.cameras[0].max_age_ns == 200_000_000


def test_own_scale_and_offset_are_taken_as_written(tmp_path: Path) -> None:
    file = tmp_path / "contract.yaml"
    file.write_text(yaml.safe_dump(changed(("joints", 0, "policy_unit"), {"scale": -2.5, "offset": 7})), "utf-8")
    joint = load_contract(file).joints[0]
    assert (joint.policy_scale, joint.policy_offset) == (-2.5, 7.0)


def paths(node: object, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a document, the root left out."""
    entries: list[tuple[str | int, Any]] = []
    if isinstance(node, dict):
        entries = list(node.items())
    elif isinstance(node, list):
        entries = list(enumerate(node))
    return [place for key, value in entries for place in ((*prefix, key), *paths(value, (*prefix, key)))]


ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(path=st.sampled_from(paths(DOCUMENT)), value=ANY_VALUE)
def test_any_value_anywhere_is_either_read_or_refused_as_a_contract_error(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[str | int, ...], value: object
) -> None:
    file = tmp_path_factory.mktemp("contract") / "contract.yaml"
    file.write_text(dumped(changed(path, value)), encoding="utf-8")
    with contextlib.suppress(ContractError):
        contract = load_contract(file)
        assert contract.dof == 6
        assert all(isinstance(alias, str) for joint in contract.joints for alias in joint.aliases)


PRESETS = ("so101_rospai", "so101_legalaspro", "so101_trajectory")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_of_another_stack_differs_from_the_so101_in_topics_alone(name: str) -> None:
    preset, plain = load_contract(name), load_contract("so101")
    assert preset.name == name
    assert preset.joints == plain.joints
    assert (preset.fps, preset.tasks, preset.action_source) == (plain.fps, plain.tasks, plain.action_source)
    assert [camera.dataset_key for camera in preset.cameras] == [camera.dataset_key for camera in plain.cameras]
    topics = {preset.joint_state_topic, preset.command_topic, *(camera.topic for camera in preset.cameras)}
    assert topics != {plain.joint_state_topic, plain.command_topic, *(camera.topic for camera in plain.cameras)}


def test_the_data_sets_of_ros_physical_ai_are_in_degrees_from_zero_at_50_hz() -> None:
    """Law: policy units are plain degrees of the message's radians, on every joint and at both limits."""
    preset, plain = load_contract("so101_rospai_degrees"), load_contract("so101_rospai")
    for pose in (preset.lower_rad, preset.upper_rad):
        assert preset.to_policy(pose).tolist() == pytest.approx([math.degrees(value) for value in pose])
    assert preset.fps == 50
    assert [camera.dataset_key.rsplit(".", 1)[1] for camera in preset.cameras] == ["static", "wrist"]
    assert [camera.topic for camera in preset.cameras] == [camera.topic for camera in plain.cameras]
    assert (preset.joint_names, preset.kinematics) == (plain.joint_names, plain.kinematics)
    for name in ("lower_rad", "upper_rad", "max_velocity_radps", "max_acceleration_radps2", "max_jerk_radps3"):
        assert getattr(preset, name).tolist() == getattr(plain, name).tolist()


def test_rosettas_arm_is_commanded_on_the_leaders_topic() -> None:
    preset, plain = load_contract("so101_rosetta"), load_contract("so101")
    assert (preset.command_topic, preset.command_type) == ("/leader_arm/joint_states", "sensor_msgs/msg/JointState")
    assert {camera.message_type for camera in preset.cameras} == {"sensor_msgs/msg/CompressedImage"}
    assert preset.joint_names[2:] == ("elbow", "wrist_pitch", "wrist_roll", "wrist_yaw")
    assert preset.lower_rad[:5].tolist() == plain.lower_rad[:5].tolist()
    assert preset.kinematics is None


@pytest.mark.parametrize(
    ("text", "said"), [("extends: nobody", "no such contract"), ("extends: so101_rospai", "whole")]
)
def test_only_a_whole_contract_can_be_extended(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ContractError, match=said):
        load_contract(file)


def test_a_robot_without_cameras_says_so_with_an_empty_list() -> None:
    assert load_contract("cr5_joints").cameras == ()
    assert load_contract("cr5_joints").joints == load_contract("cr5").joints


def test_a_file_full_of_problems_is_still_one_message_of_bounded_length(tmp_path: Path) -> None:
    file = tmp_path / "robot.yaml"
    file.write_text("".join(f"entry_{i}: 1\n" for i in range(5000)))
    with pytest.raises(ContractError, match=r"and \d{4} more") as caught:
        load_contract(file)
    assert len(str(caught.value)) < 20_000


# Robots in parts.

BIMANUAL = yaml.safe_load((shipped_config_dir() / "so101_bimanual.yaml").read_text(encoding="utf-8"))
WRONG_PARTS = [
    ("state", 0, "joints", ["left_gripper"], "state.parts must have each joint once"),
    ("state", 1, "prefix", "left_", "state.parts[1]: right_shoulder_pan"),
    ("command", 1, "topic", "left/forward_position_controller/commands", "command.parts topic used twice"),
    ("command", 0, "topic", "left/joint_states", "commands would be taken for measurements"),
    ("command", 0, "type", "std_msgs/msg/Bool", "command.parts[0].type is 'std_msgs/msg/Bool'"),
    ("state", 0, "type", "sensor_msgs/msg/JointState", "state.parts[0].type is not known"),
    ("command", 0, "action", "arm/follow_joint_trajectory", "command.parts[0].action_type is None, expected one of"),
    ("command", 0, "action_type", "control_msgs/action/GripperCommand", "is of a gripper, which has one joint, got 6"),
]


@pytest.mark.parametrize("wrong", WRONG_PARTS, ids=lambda wrong: wrong[-1])
def test_parts_share_the_joints_out_each_once(tmp_path: Path, wrong: tuple[str, int, str, object, str]) -> None:
    key, number, name, value, said = wrong
    document = copy.deepcopy(BIMANUAL)
    document[key]["parts"][number][name] = value
    assert said in problems(tmp_path, document)


def test_how_far_stamps_of_parts_may_lie_apart_is_stated_and_bounded(tmp_path: Path) -> None:
    document = copy.deepcopy(BIMANUAL)
    assert load_contract("so101_bimanual").max_skew_ns == 50_000_000
    document["state"]["max_skew_ms"] = -1
    assert "state.max_skew_ms must be within [0, 1000]" in problems(tmp_path, document)


def test_a_robot_in_parts_is_one_robot_and_each_part_is_one_too() -> None:
    whole = load_contract("so101_bimanual@cell")
    assert whole.dof == 12
    assert [part.topic for part in whole.commands] == [
        f"/cell/{side}/forward_position_controller/commands" for side in ("left", "right")
    ]
    single = load_contract("so101")
    for part in whole.states:
        arm = whole.part(part)
        assert arm.joint_names == single.joint_names
        assert (arm.lower_rad == single.lower_rad).all()
        assert [joint.policy_unit for joint in arm.joints] == [joint.policy_unit for joint in single.joints]
    with pytest.raises(ContractError, match=r"takes a contract without parts.*so101@left"):
        whole.require_whole("the simulator")
    single.require_whole("the simulator")
