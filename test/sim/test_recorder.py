# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from sigma_ros.bags.episode import Episode
from sigma_ros.bags.reader import open_bag
from sigma_ros.contract import COMMAND_TYPES, CommandType, Contract
from sigma_ros.errors import ContractError, MachineError, UsageError
from sigma_ros.sim import cameras as gl
from sigma_ros.sim.demonstration import Demonstration, demonstrate
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.recorder import (
    FRAME_TICKS,
    START_NS,
    TASK_TOPIC,
    WIDTH_PX,
    BagFormat,
    bag_format,
    check_recordable,
    film_frames,
    write_demonstration,
    write_film,
)
from sigma_ros.sim.setups import SOURCE

pytestmark = pytest.mark.gl

JPEG = BagFormat(jpeg_quality=80)


@pytest.fixture(scope="module")
def small_arm(small_contract: Contract) -> Iterator[SimArm]:
    with SimArm(SOURCE, contract=small_contract) as arm:
        yield arm


@pytest.fixture(scope="module")
def episode(small_arm: SimArm) -> Demonstration:
    return shortened(demonstrate(small_arm, 0), 40)


def shortened(episode: Demonstration, ticks: int) -> Demonstration:
    arrays = ("states", "positions_rad", "velocities_radps", "commands_rad")
    return replace(episode, **{name: getattr(episode, name)[:ticks] for name in arrays})


@pytest.fixture(scope="module")
def bag(small_arm: SimArm, episode: Demonstration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "episode_000000"
    write_demonstration(path, small_arm, episode, JPEG)
    return path


def read(path: Path) -> dict[str, list[tuple[int, object]]]:
    topics: dict[str, list[tuple[int, object]]] = {}
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        for connection, stamp_ns, raw in reader.messages():
            topics.setdefault(connection.topic, []).append((stamp_ns, reader.deserialize(raw, connection.msgtype)))
    return topics


def test_every_stream_lies_exactly_on_the_contracts_grid(bag: Path, small_contract: Contract) -> None:
    grid = [START_NS + small_contract.tick_offset_ns(k) for k in range(40)]
    topics = read(bag)
    for topic in (small_contract.joint_state_topic, small_contract.command_topic):
        assert [stamp_ns for stamp_ns, _ in topics[topic]] == grid
    for camera in small_contract.cameras:
        stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for _, m in topics[camera.topic]]  # type: ignore[attr-defined]
        assert stamps == grid


def test_joints_and_commands_are_the_episodes(bag: Path, episode: Demonstration, small_contract: Contract) -> None:
    topics = read(bag)
    joints = [message for _, message in topics[small_contract.joint_state_topic]]
    assert all(tuple(m.name) == small_contract.joint_names for m in joints)  # type: ignore[attr-defined]
    assert np.array_equal([m.position for m in joints], episode.positions_rad)  # type: ignore[attr-defined]
    commands = [message.data for _, message in topics[small_contract.command_topic]]  # type: ignore[attr-defined]
    assert np.array_equal(commands, episode.commands_rad)


def test_task_and_success_are_in_the_bag(bag: Path, small_contract: Contract) -> None:
    assert [m.data for _, m in read(bag)[TASK_TOPIC]] == [small_contract.tasks[0]]  # type: ignore[attr-defined]
    custom = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]["custom_data"]
    assert custom["sigma.success"] == "true"
    assert custom["sigma.source"] == "simulated"
    assert custom["sigma.setup"] == "source"
    assert custom["sigma.seed"] == "0"


def test_the_same_episode_gives_the_same_bytes(
    small_arm: SimArm, episode: Demonstration, bag: Path, tmp_path: Path
) -> None:
    again = tmp_path / "episode_000000"
    write_demonstration(again, small_arm, episode, JPEG)
    files = sorted(file.name for file in bag.iterdir())
    assert sorted(file.name for file in again.iterdir()) == files
    for name in files:
        assert (again / name).read_bytes() == (bag / name).read_bytes(), name


def test_raw_pictures_are_the_rendered_ones(small_arm: SimArm, episode: Demonstration, tmp_path: Path) -> None:
    write_demonstration(tmp_path / "raw", small_arm, shortened(episode, 3), BagFormat(storage="sqlite3"))
    _, message = read(tmp_path / "raw")["/side_camera/image_raw"][2]
    assert (message.encoding, message.height, message.width, message.step) == ("rgb8", 120, 160, 480)  # type: ignore[attr-defined]
    picture = message.data.reshape(120, 160, 3)  # type: ignore[attr-defined]
    assert np.array_equal(picture, small_arm.draw(episode.states[2], "side"))


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_recording_leaves_nothing(
    small_arm: SimArm, episode: Demonstration, tmp_path: Path, interruption: type[BaseException]
) -> None:
    ticks = iter(range(10))

    def on_tick() -> None:
        if next(ticks) == 5:
            raise interruption

    with pytest.raises(interruption):
        write_demonstration(tmp_path / "half", small_arm, episode, JPEG, on_tick)
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_cannot_draw_leaves_nothing(
    small_contract: Contract, episode: Demonstration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl, "_library", lambda name: None)
    with pytest.raises(MachineError, match="apt-get"):
        write_demonstration(tmp_path / "out" / "bag", SimArm(SOURCE, contract=small_contract), episode, JPEG)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bag_is_kept_unless_asked(small_arm: SimArm, episode: Demonstration, bag: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        write_demonstration(bag, small_arm, episode, JPEG)


def test_compressed_cameras_get_jpeg_pictures_without_asking(contract: Contract) -> None:
    compressed = replace(
        contract,
        cameras=tuple(replace(c, message_type="sensor_msgs/msg/CompressedImage") for c in contract.cameras),
    )
    chosen = bag_format(compressed, jpeg_quality=None, storage="mcap", overwrite=False)
    assert chosen.jpeg_quality == 90
    assert bag_format(contract, jpeg_quality=None, storage="mcap", overwrite=False).jpeg_quality is None


@pytest.mark.parametrize("command_type", COMMAND_TYPES)
def test_law_commands_are_recorded_in_the_contracts_type_and_read_back(
    small_contract: Contract, tmp_path: Path, command_type: CommandType
) -> None:
    contract = replace(small_contract, command_type=command_type)
    with SimArm(SOURCE, contract=contract) as arm:
        short = shortened(demonstrate(arm, 0), 8)
        write_demonstration(tmp_path / "bag", arm, short, JPEG)
    with open_bag(tmp_path / "bag") as opened:
        assert opened.info.types[contract.command_topic] == command_type
        ticks = list(Episode(opened, contract, image_size_px=16))
    np.testing.assert_allclose([tick.action_rad for tick in ticks[:-1]], short.commands_rad[:7])


def test_a_contract_with_other_cameras_is_refused(contract: Contract) -> None:
    with pytest.raises(ContractError, match=r"cameras named up, side.*got: wrist"):
        check_recordable(replace(contract, cameras=(replace(contract.cameras[0], name="wrist"),)), ("up", "side"))


def test_an_animation_shows_the_arm_moving_at_real_speed(arm: SimArm, tmp_path: Path) -> None:
    episode = demonstrate(arm, 0)
    arrays = ("states", "positions_rad", "velocities_radps", "commands_rad")
    episode = replace(episode, **{name: getattr(episode, name)[: 4 * FRAME_TICKS] for name in arrays})
    write_film(tmp_path / "new" / "pick.gif", arm, {"": episode})
    with Image.open(tmp_path / "new" / "pick.gif") as gif:
        assert (gif.n_frames, gif.size) == (4, (WIDTH_PX, WIDTH_PX * 3 // 4 * 3 // 2))  # type: ignore[attr-defined]
        assert gif.info["duration"] == pytest.approx(1000 * FRAME_TICKS / 30, abs=10)  # GIF counts in 10 ms
        first = np.array(gif.convert("RGB"))
        gif.seek(3)
        assert not np.array_equal(np.array(gif.convert("RGB")), first)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["pick.gif"]


def test_a_film_puts_arms_side_by_side_and_one_that_ended_stands_still(arm: SimArm) -> None:
    long = demonstrate(arm, 0)
    short = replace(long, **{n: getattr(long, n)[:2] for n in ("states", "positions_rad", "velocities_radps")})
    first, last = (
        frames := list(film_frames(arm, {"base": short, "sigma": Told(long.states[: 2 * FRAME_TICKS])}, fine=False))
    )[:: len(frames) - 1]
    half = first.shape[1] // 2
    assert np.array_equal(first[:, :half], last[:, :half])
    assert not np.array_equal(first[:, half:], last[:, half:])


@dataclass
class Told:
    """An episode of the closed loop: what it tells is written above its picture."""

    states: np.ndarray

    @property
    def told(self) -> list[str]:
        return [f"RUN, scale {tick}" for tick in range(len(self.states))]
