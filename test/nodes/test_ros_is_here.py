# SPDX-License-Identifier: Apache-2.0
"""Reports in one line why the node tests did not run, where they could not."""

import pytest

pytestmark = pytest.mark.ros


@pytest.mark.parametrize("module", ["rclpy", "sigma_ros.msg"])
def test_the_nodes_can_be_tested(module):
    pytest.importorskip(module, reason=f"no node is tested: {module} does not import; make setup, then . ./env.sh")
