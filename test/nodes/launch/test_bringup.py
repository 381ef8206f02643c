# SPDX-License-Identifier: Apache-2.0
"""`bringup.launch.py`: what each stage starts, and the packages of others that arguments ask for."""

import sys
from pathlib import Path

import pytest
from launch_loading import ROOT, started

sys.path.append(str(Path(__file__).parent))
from test_stages import evidence

BRINGUP = ROOT / "launch" / "bringup.launch.py"


def nodes(**given: str) -> dict[str, dict]:
    """Executable -> keywords of its Node."""
    return {node["executable"]: node for node in started(BRINGUP, **given)}


@pytest.fixture
def proven(tmp_path: Path) -> dict[str, str]:
    """Arguments with good evidence of every stage, of now."""
    import time  # noqa: PLC0415

    for stage in ("shadow", "ghost", "slow"):
        evidence(stage, ended_s=time.time() - 60.0).write(tmp_path)
    return {"evidence": str(tmp_path), "checkpoint": "me/pick"}


def test_law_no_stage_before_slow_can_command_the_robot(proven: dict[str, str]) -> None:
    assert set(nodes(stage="shadow")) == {"stage_node", "policy_node"}
    ghost = nodes(stage="ghost", **proven)["supervisor_node"]
    assert ghost["remappings"] == [["forward_position_controller/commands", "sigma/dry_run"]]
    assert ghost["parameters"][0]["check_tracking"] is False
    for stage in ("slow", "full"):
        supervisor = nodes(stage=stage, **proven)["supervisor_node"]
        assert supervisor["remappings"] == []
        assert "check_tracking" not in supervisor["parameters"][0]
        files = [Path(file).name for file in supervisor["parameters"][1:]]
        assert files == (["cautious_supervisor.yaml"] if stage == "slow" else [])


def test_a_stage_without_evidence_starts_nothing_and_waiving_needs_its_name(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="there is no evidence of the stage before"):
        nodes(stage="ghost", evidence=str(tmp_path))
    assert "supervisor_node" in nodes(stage="ghost", evidence=str(tmp_path), waive="shadow")


def test_the_gate_is_told_the_checkpoint_that_the_evidence_speaks_of(proven: dict[str, str]) -> None:
    assert nodes(stage="slow", **proven)["stage_node"]["parameters"][0]["checkpoint_hash"] == "abc"
    assert nodes(stage="shadow")["stage_node"]["parameters"][0]["checkpoint_hash"] == ""


def test_slow_has_its_own_preset(proven: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match="has its own preset"):
        nodes(stage="slow", params_file="research", **proven)


@pytest.mark.parametrize(
    ("package", "executable"), [("usb_cam", "usb_cam_node_exe"), ("v4l2_camera", "v4l2_camera_node")]
)
def test_cameras_are_driven_by_the_named_package_onto_the_contracts_topics(package: str, executable: str) -> None:
    given = {"cameras": package, "camera_devices": "up=/dev/video0,side=/dev/video2", "namespace": "arm1"}
    found = [node for node in started(BRINGUP, **given) if node.get("package") == package]
    assert {node["executable"] for node in found} == {executable}
    assert [node["remappings"] for node in found] == [
        [["image_raw", "up_camera/image_raw"]], [["image_raw", "side_camera/image_raw"]],
    ]  # fmt: skip
    assert [node["parameters"][0]["video_device"] for node in found] == ["/dev/video0", "/dev/video2"]
    assert {node["namespace"] for node in found} == {"arm1"}


@pytest.mark.parametrize("devices", ["", "up=/dev/video0", "up=/dev/video0,side=", "up=a,side=b,third=c"])
def test_each_camera_needs_its_device(devices: str) -> None:
    with pytest.raises(AssertionError, match="each camera of the contract needs its device"):
        nodes(cameras="usb_cam", camera_devices=devices)


def test_the_arms_model_comes_from_its_urdf_and_the_ghost_has_one_of_its_own(
    tmp_path: Path, proven: dict[str, str]
) -> None:
    urdf = tmp_path / "arm.urdf"
    urdf.write_text("<robot name='arm'/>", encoding="utf-8")
    found = [
        node
        for node in started(BRINGUP, stage="ghost", urdf=str(urdf), rviz="true", **proven)
        if node["executable"] in ("robot_state_publisher", "rviz2")
    ]
    publishers = [node for node in found if node["executable"] == "robot_state_publisher"]
    assert [node["parameters"][0]["frame_prefix"] for node in publishers] == ["", "ghost/"]
    assert publishers[1]["remappings"][0] == ["joint_states", "sigma/ghost/joint_states"]
    assert all(node["parameters"][0]["robot_description"] == "<robot name='arm'/>" for node in publishers)
    assert found[-1]["arguments"][0] == "-d"
    assert Path(found[-1]["arguments"][1]).is_file()
    with pytest.raises(AssertionError, match="a URDF is asked for"):
        nodes(urdf=str(tmp_path / "arm.urdf.xacro"))


def test_drivers(tmp_path: Path) -> None:
    assert nodes(driver="so101", calibration="arm.json")["so101_driver"]["parameters"][0]["calibration"] == "arm.json"
    with pytest.raises(AssertionError, match="needs the arm's URDF and controllers"):
        nodes(driver="ros2_control")
    for name in ("arm.urdf", "controllers.yaml"):
        (tmp_path / name).write_text("<robot/>", encoding="utf-8")
    files = {"urdf": str(tmp_path / "arm.urdf"), "controllers": str(tmp_path / "controllers.yaml")}
    found = nodes(driver="ros2_control", **files)
    assert found["ros2_control_node"]["parameters"][1] == files["controllers"]
    assert found["spawner"]["arguments"] == ["joint_state_broadcaster", "forward_position_controller"]
    split = nodes(driver="ros2_control", contract="so101_legalaspro_split", **files)["spawner"]["arguments"]
    assert split == ["joint_state_broadcaster", "arm_trajectory_controller", "gripper_controller"]
