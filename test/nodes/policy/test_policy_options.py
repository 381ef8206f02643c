# SPDX-License-Identifier: Apache-2.0
"""What fits together in the policy node's parameters."""

import pytest

from sigma_ros.nodes.policy.options import PolicyOptions
from sigma_ros.nodes.shared.parameters import problems

pytestmark = pytest.mark.ros


@pytest.mark.parametrize("name", ["/etc/passwd", "../memory", "a/b", "..", "a\0b"])
def test_the_memory_is_kept_inside_its_folder(name: str):
    assert "state_file" in " ".join(problems(PolicyOptions(state_file=name)))
