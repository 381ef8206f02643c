# SPDX-License-Identifier: Apache-2.0
"""A supervisor of two arms of one task: each gets its own commands, and the silence of one stops both."""

import numpy as np
import pytest
from node_fakes import spin_until
from robot_in_parts import RobotInParts, supervised
from sigma_ros.msg import SupervisorState

pytestmark = pytest.mark.ros


@pytest.fixture
def rig(executor, request):
    name, target = request.param
    return supervised(executor, RobotInParts(name, np.array(target)))


BOTH = ("so101_bimanual", [0.2] * 6 + [-0.2] * 6)
SPLIT = ("so101_split", [0.2] * 5 + [0.4])


@pytest.mark.parametrize("rig", [BOTH, SPLIT], indirect=True, ids=["two arms", "arm and gripper"])
def test_law_each_part_is_led_to_its_own_share_of_the_target(rig, executor) -> None:
    arms, supervisor = rig
    near = lambda: np.allclose(arms.pose_rad, arms.target_rad, atol=0.05)  # noqa: E731
    spin_until(executor, near, what="both at their targets", timeout_s=60.0)
    assert len(arms.heard) == 2
    counts = list(arms.heard.values())
    assert abs(counts[0] - counts[1]) <= 1
    assert supervisor.drive._core.counters.violations == 0


@pytest.mark.parametrize("fault", ["silent", "behind"])
@pytest.mark.parametrize("rig", [BOTH], indirect=True)
def test_law_when_one_arm_falls_silent_or_its_stamps_lag_both_stop(rig, executor, fault) -> None:
    arms, _ = rig
    spin_until(executor, lambda: np.abs(arms.pose_rad).min() > 0.05, what="both in motion", timeout_s=60.0)
    setattr(arms, fault, "/right/joint_states")
    arms.operator.present = False
    spin_until(executor, lambda: arms.state is not None and "JOINTS" in arms.state.reason, what="the reason")
    # where states come late, a hold is given up as too old before the silence is long enough for STOPPED
    at_rest = (SupervisorState.STOPPED, SupervisorState.DISENGAGED)
    spin_until(executor, lambda: arms.state.state in at_rest, what="STOPPED or given up")
    standing = arms.pose_rad.copy()
    spin_until(executor, lambda n=arms._proposed: arms._proposed >= n + 2, what="two more proposals")
    np.testing.assert_array_equal(arms.pose_rad, standing)
