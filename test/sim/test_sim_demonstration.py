# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from sigma_ros.sim.demonstration import Demonstration, demonstrate, demonstrations, episode_seed
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.expert import CLOSED_RAD, OPEN_RAD
from sigma_ros.sim.setups import SOURCE, TARGET
from sigma_ros.values import WINDOW_TICKS


@pytest.fixture(scope="module", params=[SOURCE, TARGET], ids=lambda s: s.name)
def setup_arm(request: pytest.FixtureRequest) -> Iterator[SimArm]:
    with SimArm(request.param) as arm:
        yield arm


@pytest.fixture(scope="module")
def episodes(setup_arm: SimArm) -> list[Demonstration]:
    return [demonstrate(setup_arm, seed) for seed in range(10)]


def test_the_expert_puts_the_brick_into_the_box(episodes: list[Demonstration]) -> None:
    assert [episode.success for episode in episodes] == [True] * 10


def test_an_episode_takes_about_as_long_as_a_recorded_one(episodes: list[Demonstration]) -> None:
    seconds = [episode.ticks / 30 for episode in episodes]  # svla_so101_pickplace: 8.0 s on average
    assert 7.0 < np.mean(seconds) < 9.5


def test_its_commands_keep_the_contracts_limits(episodes: list[Demonstration], setup_arm: SimArm) -> None:
    contract = setup_arm.contract
    for episode in episodes:
        track = episode.commands_rad
        assert np.all(track >= contract.lower_rad)
        assert np.all(track <= contract.upper_rad)
        assert np.all(np.abs(np.diff(track, axis=0)) * 30 <= contract.max_velocity_radps + 1e-9)
        assert np.all(np.abs(np.diff(track, n=2, axis=0)) * 30**2 <= contract.max_acceleration_radps2 + 1e-6)
        assert np.all(np.abs(np.diff(track, n=3, axis=0)) * 30**3 <= contract.max_jerk_radps3 + 1e-3)


def test_it_starts_where_the_arm_is_and_comes_back_there(episodes: list[Demonstration]) -> None:
    for episode in episodes:
        assert np.allclose(episode.commands_rad[0], episode.positions_rad[0], atol=0.01)
        assert np.allclose(episode.positions_rad[-1], episode.positions_rad[0], atol=0.1)


def test_the_fingers_hold_the_brick_while_it_is_carried(setup_arm: SimArm, episodes: list[Demonstration]) -> None:
    episode = episodes[0]
    heights = episode.states[:, setup_arm.brick_state][:, 2]
    assert heights.max() > 0.06
    assert heights[0] < 0.01


def test_an_expert_that_is_disturbed_can_fail_and_physics_says_so(arm: SimArm) -> None:
    arm.reset(4)
    arm.place_brick((0.10, 0.25, 0.006), yaw_rad=0.0)
    arm.step(arm.command_rad, 1.0)
    assert not arm.brick_in_box()


def test_a_recordings_episodes_depend_on_its_seed_alone(arm: SimArm) -> None:
    first, second = (list(islice(demonstrations(arm, seed=5), 2)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one is not None
        assert other is not None
        assert np.array_equal(one.states, other.states)
        assert np.array_equal(one.commands_rad, other.commands_rad)


def test_recordings_with_neighbouring_seeds_share_no_episode() -> None:
    seeds = [episode_seed(seed, attempt) for seed in range(10) for attempt in range(50)]
    assert len(set(seeds)) == len(seeds)


def test_a_disturbed_episode_moves_otherwise_but_keeps_the_experts_own_commands(arm: SimArm) -> None:
    calm, pushed = demonstrate(arm, 1), demonstrate(arm, 1, disturbance_rad=0.2)
    assert np.array_equal(pushed.commands_rad, calm.commands_rad)
    assert np.abs(pushed.positions_rad - calm.positions_rad).max() > 0.05
    gripper = arm.contract.joint_names.index("gripper")
    held = calm.commands_rad[:, gripper] < 0.0
    difference = np.abs(pushed.positions_rad - calm.positions_rad)[:, gripper]
    assert difference[~held].max() < 0.05, "the gripper itself is never pushed"
    assert difference[held].max() < 0.1, "a push while lowering may turn the brick between the fingers"
    assert pushed.success


def test_a_demonstration_after_a_miss_begins_with_fingers_closed_on_nothing_and_ends_in_the_box(arm: SimArm) -> None:
    shown = [d for d in islice(demonstrations(arm, 7000, missed_share=1.0), 8) if d is not None]
    assert sum(d.success for d in shown) >= 4
    gripper = arm.contract.joint_names.index("gripper")
    for miss in shown:
        first = miss.commands_rad[:WINDOW_TICKS, gripper]
        assert first[-1] == first.min() == pytest.approx(CLOSED_RAD + arm.offset_rad[gripper]), "a window of the miss"
        brick = miss.states[:WINDOW_TICKS, arm.brick_state][:, 2]
        assert brick.max() < 0.01, "and the brick lies on the table"
        later = miss.commands_rad[WINDOW_TICKS:, gripper]
        assert later.max() > OPEN_RAD + arm.offset_rad[gripper] - 1e-6, "then the fingers open again"
