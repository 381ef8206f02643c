# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma_ros.contract_file import load_contract
from sigma_ros.sim.motion import Waypoint, joint_path

CONTRACT = load_contract("so101")
POSES = st.lists(st.tuples(*[st.floats(j.lower_rad, j.upper_rad) for j in CONTRACT.joints]), min_size=2, max_size=5)


@settings(deadline=None)
@given(POSES, st.floats(0.3, 1.0), st.floats(0.0, 0.3), st.sampled_from([30.0, 50.0, 200.0]))
def test_a_path_keeps_the_contracts_limits_at_any_sampling(
    poses: list[tuple[float, ...]], speed: float, pause_s: float, rate_hz: float
) -> None:
    path = joint_path(
        [Waypoint(phase="x", angles_rad=np.array(p), pause_s=pause_s) for p in poses], CONTRACT, speed=speed
    )
    times = np.arange(-0.1, path.duration_s + 0.1, 1 / rate_hz)
    track = np.array([path.at(t) for t in times])
    slack = 1.0 + 1e-6
    assert np.all(np.abs(np.diff(track, axis=0)) * rate_hz <= speed * CONTRACT.max_velocity_radps * slack + 1e-9)
    assert np.all(
        np.abs(np.diff(track, n=2, axis=0)) * rate_hz**2 <= speed * CONTRACT.max_acceleration_radps2 * slack + 1e-6
    )
    assert np.all(np.abs(np.diff(track, n=3, axis=0)) * rate_hz**3 <= speed * CONTRACT.max_jerk_radps3 * slack + 1e-3)
    assert np.all(track >= np.min(poses, axis=0) - 1e-9)
    assert np.all(track <= np.max(poses, axis=0) + 1e-9)


@settings(deadline=None)
@given(POSES)
def test_a_path_passes_through_its_waypoints_and_holds_its_ends(poses: list[tuple[float, ...]]) -> None:
    path = joint_path(
        [Waypoint(phase=str(i), angles_rad=np.array(p)) for i, p in enumerate(poses)], CONTRACT, speed=1.0
    )
    for pose, arrive_s in zip(poses, path.arrive_s, strict=True):
        assert path.at(arrive_s) == pytest.approx(np.array(pose), abs=1e-9)
    assert np.array_equal(path.at(-1.0), np.array(poses[0]))
    assert np.array_equal(path.at(path.duration_s + 5.0), np.array(poses[-1]))
    assert path.phase(path.duration_s + 5.0) == str(len(poses) - 1)
