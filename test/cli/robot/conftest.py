# SPDX-License-Identifier: Apache-2.0
import os

import pytest

from sigma_ros.cli.processes import free_domain


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(free_domain()))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return os.environ["ROS_DOMAIN_ID"]
