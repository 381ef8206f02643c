# SPDX-License-Identifier: Apache-2.0
"""Delays that were put into streams are found within a tick; streams that cannot say it are refused."""

from dataclasses import replace

import numpy as np
import pytest
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import SigmaError
from sigma_ros.streams.delays import Motion, measure, rates_hz
from sigma_ros.streams.stream import JOINTS, Stream
from sigma_ros.values import NS_PER_S

FPS, SECONDS = 30.0, 12.0


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract("so101")


def wanted(rng: np.random.Generator, dof: int):
    """A task's motion: from pose to pose with rests in between, smooth, as positions over time."""
    poses = np.cumsum(rng.uniform(-0.6, 0.6, (40, dof)), axis=0)
    stays = np.cumsum(rng.uniform(0.5, 1.1, 40))

    def at(time_s: float) -> ndarray:
        leg = int(np.searchsorted(stays, time_s))
        if leg == 0:
            return poses[0]
        part = np.clip((time_s - stays[leg - 1]) / 0.45, 0.0, 1.0)
        return poses[leg - 1] + (poses[leg] - poses[leg - 1]) * (part**3 * (10 - 15 * part + 6 * part**2))

    return at


def moving(seed: int, contract: Contract, *, camera_s: float, arm_s: float, inference_s: float) -> Motion:
    """Streams with jitter, encoder noise, sag and camera noise, each late by what is asked for."""
    rng = np.random.default_rng(seed)
    path, motion = wanted(rng, contract.dof), Motion()
    command_hz, joint_hz = rng.choice([30.0, 50.0]), rng.choice([30.0, 60.0, 100.0])
    for time_s in np.arange(0.0, SECONDS, 1 / command_hz):
        motion.commands.append((round(time_s * NS_PER_S), path(time_s)))
    commanded = np.array([row for _, row in motion.commands])
    sag = rng.uniform(0.0, 0.05, contract.dof)

    def measured(time_s: float) -> ndarray:
        held = commanded[np.clip(int((time_s - arm_s) * command_hz), 0, len(commanded) - 1)]
        return held - sag * np.abs(np.sin(held))

    for time_s in np.arange(0.0, SECONDS, 1 / joint_hz):
        noise = rng.normal(0.0, 1e-3, contract.dof)
        motion.joints.append((round(time_s * NS_PER_S), measured(time_s) + noise))
    scene = rng.uniform(0, 255, (48, 64, 3))
    for time_s in np.arange(0.0, SECONDS, 1 / FPS) + rng.uniform(0.0, 0.004):
        picture = drawn(scene, measured(time_s - camera_s)) + rng.normal(0.0, 2.0, scene.shape)
        motion.picture("up", round(time_s * NS_PER_S), picture.clip(0, 255).astype(np.uint8))
    motion.chunk_delays_ns = [round((inference_s + rng.exponential(0.01)) * NS_PER_S) for _ in range(40)]
    return motion


def drawn(scene: ndarray, pose: ndarray) -> ndarray:
    """A soft bar for each joint before a background, so that a picture changes as its joints move."""
    picture, columns = scene.copy(), np.arange(scene.shape[1])
    for row, angle in enumerate(pose):
        bar = np.exp(-(((columns - (20 + 8 * angle) % 60) / 2.0) ** 2))
        picture[8 * row : 8 * row + 6] += (255 - picture[8 * row : 8 * row + 6]) * bar[None, :, None]
    return picture


@pytest.mark.parametrize("seed", range(20))
def test_each_delay_is_found_within_a_tick(seed: int, contract: Contract) -> None:
    rng = np.random.default_rng([seed, 1])
    truth = {"camera": rng.uniform(0.0, 0.25), "arm": rng.uniform(0.0, 0.3), "inference": rng.uniform(0.02, 0.6)}
    motion = moving(seed, contract, camera_s=truth["camera"], arm_s=truth["arm"], inference_s=truth["inference"])
    found = measure(motion, contract)
    tick_s = contract.tick_period_ns / NS_PER_S
    assert found.camera_ns / NS_PER_S == pytest.approx(truth["camera"], abs=tick_s)
    assert found.actuator_ns / NS_PER_S == pytest.approx(truth["arm"], abs=tick_s)
    assert found.inference_ns / NS_PER_S == pytest.approx(truth["inference"], abs=tick_s)


def test_what_is_not_there_is_left_out(contract: Contract) -> None:
    motion = moving(0, contract, camera_s=0.1, arm_s=0.1, inference_s=0.1)
    alone = Motion(joints=motion.joints, commands=motion.commands)
    found = measure(alone, contract)
    assert found.camera_ns is None
    assert found.inference_ns is None
    assert found.actuator_ns is not None


def test_an_arm_at_rest_says_nothing(contract: Contract) -> None:
    still = Motion(joints=[(round(i * NS_PER_S / 30), np.zeros(contract.dof)) for i in range(300)])
    with pytest.raises(SigmaError, match="hardly moved"):
        measure(still, contract)


def test_too_short_a_recording_is_refused(contract: Contract) -> None:
    motion = moving(0, contract, camera_s=0.1, arm_s=0.1, inference_s=0.1)
    with pytest.raises(SigmaError, match="too few joint states"):
        measure(Motion(joints=motion.joints[:20]), contract)


def test_commands_of_another_arm_are_no_lag(contract: Contract) -> None:
    motion = moving(0, contract, camera_s=0.1, arm_s=0.1, inference_s=0.1)
    other = moving(7, contract, camera_s=0.1, arm_s=0.1, inference_s=0.1)
    with pytest.raises(SigmaError, match="do not belong together"):
        measure(Motion(joints=motion.joints, commands=other.commands), contract)


def test_joints_of_another_robot_are_refused(contract: Contract) -> None:
    motion = moving(0, contract, camera_s=0.1, arm_s=0.1, inference_s=0.1)
    with pytest.raises(SigmaError, match="cannot be used"):
        measure(motion, replace(contract, joints=contract.joints[:3]))


def test_a_promised_rate_is_one_that_leaves_hardly_a_message_out() -> None:
    rng = np.random.default_rng(0)
    steady = np.arange(300) / 30 + rng.uniform(0.0, 0.008, 300)
    bursts = np.arange(300) / 30 - 0.02 * (np.arange(300) % 4 == 3)
    stamps = {name: np.round((1 + times) * NS_PER_S).astype(int) for name, times in (("up", steady), ("side", bursts))}
    motion = Motion(changes={name: [(int(at), 0.0) for at in of] for name, of in stamps.items()})
    motion.joints.extend((int(at), np.zeros(6)) for at in np.arange(200) * NS_PER_S // 50)
    found = rates_hz(motion)
    assert found == {"up": pytest.approx(30.0, abs=0.5), JOINTS: 50.0}
    stream = Stream(max_age_ns=1, capacity=1000, backward_ns=NS_PER_S, forward_ns=NS_PER_S, rate_hz=found["up"])
    for at in stamps["up"]:
        stream.push(int(at), None, None, 0)
    assert stream.count.superseded <= 3
