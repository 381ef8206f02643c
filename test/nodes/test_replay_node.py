# SPDX-License-Identifier: Apache-2.0
"""The replay through the nodes gives the log of the graph-free replay, number by number, whatever is recorded."""

import shutil
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from look_alikes import policy, save_fine_tune, statistics, tokenizer_folder
from node_fakes import TIMEOUT_S, FakeRuntime, fake_model, picture, small_contract, small_so101
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter

from sigma_ros.bags.reader import open_bag
from sigma_ros.bags.writer import BagWriter
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import BagError, ContractError, SigmaError, UsageError
from sigma_ros.evaluation.log import ReplayLog
from sigma_ros.evaluation.replay import ReplayOptions, replay
from sigma_ros.evaluation.scoring.score import score
from sigma_ros.nodes.policy.model import PolicyModel, load_policy
from sigma_ros.nodes.policy_node import Load, PolicyNode
from sigma_ros.nodes.replay.peers import Waiter
from sigma_ros.nodes.replay_node import check_same_robot, replay_bag
from sigma_ros.nodes.shared import topics
from sigma_ros.nodes.shared.node_options import ReplayNodeOptions
from sigma_ros.nodes.supervisor_node import SupervisorNode
from sigma_ros.policy.schedule import Schedule
from sigma_ros.stopping import StopRequest
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.values import AdapterSettings

pytestmark = pytest.mark.ros
CONTRACT = small_contract()
START_NS = 1_700_000_000_000_000_000
MS = 1_000_000


class Recording:
    """Writes a moving arm seen by two cameras; tests leave things out or spoil them."""

    def __init__(self, path: Path, *, ticks: int = 40, jpeg: bool = False) -> None:
        self.path = path
        self.ticks = ticks
        self.jpeg = jpeg
        self.dark: dict[str, range] = {}
        self.still_joints = range(0)
        self.bad_joints = range(0)
        self.tasks: dict[int, str] = {}
        self.still_at_rad: np.ndarray | None = None

    def write(self) -> Path:
        with BagWriter(self.path) as bag:
            for tick in range(self.ticks):
                at_ns = START_NS + CONTRACT.tick_offset_ns(tick)
                if tick in self.tasks:
                    bag.text(f"/{topics.TASK}", at_ns, self.tasks[tick])
                self._cameras(bag, tick, at_ns)
                self._joints(bag, tick, at_ns)
        return self.path

    def _cameras(self, bag: BagWriter, tick: int, at_ns: int) -> None:
        for i, camera in enumerate(CONTRACT.cameras):
            if tick not in self.dark.get(camera.name, range(0)):
                rgb = picture(camera, 40 + 20 * i + tick % 50)
                quality = 90 if self.jpeg else None
                topic = topics.compressed_topic(camera) if self.jpeg else camera.topic
                bag.image(topic, at_ns - (3 + i) * MS, camera.name, rgb, jpeg_quality=quality)

    def _joints(self, bag: BagWriter, tick: int, at_ns: int) -> None:
        q = 0.2 * np.sin(0.05 * tick + np.arange(6)) if self.still_at_rad is None else self.still_at_rad.copy()
        if tick in self.bad_joints:
            q[2] = np.nan
        if tick not in self.still_joints:
            bag.joints(CONTRACT.joint_state_topic, at_ns - 5 * MS, CONTRACT.joint_names, q)
            bag.joints(CONTRACT.joint_state_topic, at_ns + 12 * MS, CONTRACT.joint_names, q)
        bag.array(CONTRACT.command_topic, at_ns - 2 * MS, q + 0.01)


@pytest.fixture
def recording(tmp_path) -> Recording:
    return Recording(tmp_path / "recording")


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(CONTRACT)


@pytest.fixture
def through_nodes(executor, runtime, tmp_path) -> Iterator:
    """Policy and supervisor spin in a thread of this process; the replay runs in the test."""
    theirs = SingleThreadedExecutor()
    replay_node = Node("test_replay")
    executor.add_node(replay_node)
    done = threading.Event()

    def spin() -> None:
        while not done.is_set():
            theirs.spin_once(timeout_sec=0.05)

    thread = threading.Thread(target=spin, daemon=True)

    def fake(*_: object) -> PolicyModel:
        return fake_model(CONTRACT, runtime)

    def run(
        bag: Path, *, policy: dict | None = None, contract: str = "so101", load: Load = fake, **options: object
    ) -> ReplayLog:
        file = str(small_so101(tmp_path, contract))
        if not theirs.get_nodes():
            values = {"contract": file, "lockstep": True, "replan_ticks": 8} | (policy or {})
            overrides = [Parameter(name, value=value) for name, value in values.items()]
            theirs.add_node(PolicyNode(overrides, load=load))
            theirs.add_node(SupervisorNode([Parameter("contract", value=file), Parameter("lockstep", value=True)]))
            thread.start()
        given = ReplayNodeOptions(
            **({"bag": str(bag), "out": "-", "contract": file, "start_timeout_s": TIMEOUT_S} | options)
        )
        waiter = Waiter(executor, StopRequest(), timeout_s=TIMEOUT_S)
        with open_bag(bag) as opened:
            log, _ = replay_bag(replay_node, given, waiter, load_contract(file), opened)
        return log

    yield run
    done.set()
    if thread.is_alive():
        thread.join()
    for node in theirs.get_nodes():
        node.stop()
        node.destroy_node()
    theirs.shutdown(timeout_sec=0)


def offline(bag: Path, runtime: FakeRuntime, *, replan_ticks: int = 8, supervised: bool = True) -> ReplayLog:
    options = ReplayOptions(
        settings=AdapterSettings(),
        schedule=Schedule(replan_ticks, runtime.memory_stride),
        supervisor_limits=SupervisorLimits.for_replay() if supervised else None,
    )
    fresh = FakeRuntime(CONTRACT)
    fresh.units_problems = runtime.units_problems
    return replay(bag, contract=CONTRACT, runtime=fresh, options=options)


def assert_same(ours: ReplayLog, theirs: ReplayLog) -> None:
    """Everything but what was measured on this machine's clock, exactly; telepathy travels as float32."""
    assert ours.bag == theirs.bag
    for track in ("ticks", "decisions"):
        for entry in fields(getattr(ours, track)):
            if entry.name != "host_ns":
                a, b = (getattr(getattr(log, track), entry.name) for log in (ours, theirs))
                np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=f"{track}.{entry.name}")
    assert len(ours.inferences) == len(theirs.inferences)
    for a, b in zip(ours.inferences, theirs.inferences, strict=True):
        assert (a.committed, a.published, a.chunk.tick, a.chunk.epoch) == (
            b.committed,
            b.published,
            b.chunk.tick,
            b.chunk.epoch,
        )
        np.testing.assert_array_equal(a.chunk.base_rad, b.chunk.base_rad)
        np.testing.assert_array_equal(a.chunk.residual_rad, b.chunk.residual_rad)
        assert (a.chunk.scale, a.tau_l2, a.sem_align) == (b.chunk.scale, b.tau_l2, b.sem_align)
        np.testing.assert_equal(a.baseline_tau_l2, b.baseline_tau_l2)
    ours_scores, theirs_scores = score(ours), score(theirs)
    assert ours_scores.samples == theirs_scores.samples
    assert ours_scores.sigma == theirs_scores.sigma
    assert ours_scores.baseline == theirs_scores.baseline


def test_raw_cameras(recording, runtime, through_nodes):
    bag = recording.write()
    log = through_nodes(bag)
    assert len(log.inferences) == 5
    assert log.decisions.engagements == 1
    assert_same(log, offline(bag, runtime))


def test_jpeg_cameras_under_a_raw_contract(tmp_path, runtime, through_nodes):
    bag = Recording(tmp_path / "jpeg", jpeg=True).write()
    assert_same(through_nodes(bag), offline(bag, runtime))


def test_a_schedule_that_does_not_divide_the_stride(recording, runtime, through_nodes):
    bag = recording.write()
    log = through_nodes(bag, policy={"replan_ticks": 10})
    assert [entry.published for entry in log.inferences] == [True, True, False, True, True, False]
    assert_same(log, offline(bag, runtime, replan_ticks=10))


def test_without_a_supervisor(recording, runtime, through_nodes):
    bag = recording.write()
    log = through_nodes(bag, supervised=False)
    assert len(log.decisions) == 0
    assert_same(log, offline(bag, runtime, supervised=False))


def test_a_camera_that_is_dark_for_a_while(tmp_path, runtime, through_nodes):
    recording = Recording(tmp_path / "dark", ticks=70)
    recording.dark = {"side": range(10, 34)}
    bag = recording.write()
    log = through_nodes(bag)
    assert not log.ticks.valid.all()
    assert log.ticks.epoch.max() == 1
    assert_same(log, offline(bag, runtime))


def test_unusable_ticks_are_losses_as_they_are_without_the_nodes(tmp_path, runtime, through_nodes):
    recording = Recording(tmp_path / "dark", ticks=70)
    recording.dark = {"side": range(10, 34)}
    bag = recording.write()
    log = through_nodes(bag)
    assert log.losses == offline(bag, runtime).losses
    assert log.losses["invalid_ticks"] > 0
    with pytest.raises(BagError, match="invalid_ticks"):
        through_nodes(bag, strict=True)


def test_a_camera_that_is_dark_for_longer_than_the_frame_clock_waits(tmp_path, runtime, through_nodes):
    recording = Recording(tmp_path / "long", ticks=150)
    recording.dark = {"up": range(20, 110)}
    bag = recording.write()
    assert_same(through_nodes(bag), offline(bag, runtime))


def test_joints_that_fall_silent_or_are_not_finite(tmp_path, runtime, through_nodes):
    recording = Recording(tmp_path / "joints", ticks=120)
    recording.still_joints = range(20, 60)
    recording.bad_joints = range(80, 86)
    bag = recording.write()
    log = through_nodes(bag)
    assert "HOLD" in log.decisions.state or "STOPPED" in log.decisions.state
    assert_same(log, offline(bag, runtime))


def test_a_task_that_changes_in_the_middle(tmp_path, runtime, through_nodes):
    recording = Recording(tmp_path / "tasks", ticks=60)
    recording.tasks = {0: "pick", 30: "place"}
    bag = recording.write()
    log = through_nodes(bag)
    assert log.ticks.epoch.max() == 1
    assert_same(log, offline(bag, runtime))


def test_foreign_units_give_no_inference_and_one_clear_error(recording, runtime, through_nodes):
    runtime.units_problems = ("elbow_flex: 57.3 rad",)
    with pytest.raises(SigmaError, match="no tick of the recording"):
        through_nodes(recording.write())


def test_two_replays_through_the_same_nodes_are_the_same(recording, through_nodes):
    bag = recording.write()
    one, two = through_nodes(bag), through_nodes(bag)
    assert_same(one, two)


def test_a_failing_model_ends_the_replay_with_its_error(recording, runtime, through_nodes):
    runtime.fail_at = 8
    with pytest.raises(SigmaError, match="CUDA out of memory"):
        through_nodes(recording.write())


def test_without_nodes_the_replay_says_what_to_start(executor, recording):
    node = Node("test_replay")
    executor.add_node(node)
    options = ReplayNodeOptions(bag="b", out="o", start_timeout_s=1.0)
    waiter = Waiter(executor, StopRequest(), timeout_s=1.0)
    with open_bag(recording.write()) as bag, pytest.raises(SigmaError, match=r"sigma_policy.*lockstep"):
        replay_bag(node, options, waiter, CONTRACT, bag)


def test_a_policy_with_another_contract_is_refused():
    facts = {"contract": "cr5", "joint_names": ["joint1"]}
    with pytest.raises(UsageError, match="another contract"):
        check_same_robot(facts, CONTRACT)


START_DEG = np.array([48.0, -52.0, 45.0, 50.0, 82.0, 40.0])
GOAL_DEG = np.array([57.0, -44.0, 36.0, 59.0, 74.0, 52.0])
"""Five joints [degrees] from the middle of their range as LeRobot counts them, and the gripper [%]."""


def as_the_arm_stands(so101_deg: np.ndarray) -> np.ndarray:
    """Radians of a pose in LeRobot's degrees, by hand: no contract's map is asked."""
    low, high = CONTRACT.lower_rad, CONTRACT.upper_rad
    rad = np.radians(so101_deg) + (low + high) / 2
    rad[5] = low[5] + (high[5] - low[5]) * so101_deg[5] / 100
    return rad


@pytest.fixture(scope="module")
def degrees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pi0.5 by LeRobot's own classes, fine-tuned on degrees (MEAN_STD): whatever it sees, it wants `GOAL_DEG`."""
    folder = tmp_path_factory.mktemp("degrees")
    state = statistics()
    state["std"][4], state["max"][4] = 80.0, 155.0
    goal = {"mean": torch.tensor(GOAL_DEG).float(), "std": torch.full((6,), 0.01)}
    goal |= {"min": goal["mean"] - 0.05, "max": goal["mean"] + 0.05}
    modes = {"ACTION": "MEAN_STD", "STATE": "MEAN_STD", "VISUAL": "IDENTITY"}
    stats = {"observation.state": state, "action": goal}
    return save_fine_tune(
        folder / "policy", policy(normalization_mapping=modes), tokenizer_folder(folder / "tokenizer"), stats=stats
    )


def real(checkpoint: Path) -> dict[str, Any]:
    return {"policy": {"checkpoint": str(checkpoint)}, "contract": "so101_degrees", "load": load_policy}


def test_what_a_policy_says_in_degrees_leaves_the_supervisor_in_radians(tmp_path, degrees, through_nodes):
    recording = Recording(tmp_path / "degrees", ticks=60)
    recording.still_at_rad = as_the_arm_stands(START_DEG)
    log = through_nodes(recording.write(), **real(degrees))
    goal = as_the_arm_stands(GOAL_DEG)
    for inference in log.inferences:
        np.testing.assert_allclose(inference.chunk.base_rad, np.tile(goal, (50, 1)), atol=5e-3)
    commands = log.decisions.command_rad
    np.testing.assert_allclose(commands[np.isfinite(commands).all(axis=1)][0], recording.still_at_rad, atol=5e-3)
    np.testing.assert_allclose(commands[-1], goal, atol=5e-3)


def test_an_arm_whose_driver_sends_lerobots_degrees_is_named_before_anything_moves(tmp_path, degrees, through_nodes):
    recording = Recording(tmp_path / "driver", ticks=40)
    recording.still_at_rad = START_DEG
    with pytest.raises(ContractError, match=r"shoulder_pan in radians.*got: 48;.*degrees, percent\?"):
        through_nodes(recording.write(), **real(degrees))


def test_a_policy_in_degrees_on_the_other_contract_is_named_before_its_weights(tmp_path, degrees, executor, capfd):
    copy = Path(shutil.copytree(degrees, tmp_path / "without_weights"))
    (copy / "model.safetensors").unlink()
    given = {"contract": "so101", "checkpoint": str(copy), "autostart": False}
    node = PolicyNode([Parameter(name, value=value) for name, value in given.items()])
    executor.add_node(node)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert node.exit_code == ContractError.exit_code
    said = " ".join(capfd.readouterr().err.split())
    assert "state of wrist_roll" in said
    assert "so101_degrees for degrees" in said
