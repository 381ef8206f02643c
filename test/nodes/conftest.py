# SPDX-License-Identifier: Apache-2.0
"""Node tests: real DDS on this host, in a domain of their own. Skipped with the reason where ROS is absent."""

import os
import socket
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

try:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from sigma_ros.nodes.shared.process import use_shipped_dds_profile

    import_module("sigma_ros.msg")
except ImportError:
    # `test_ros_is_here` alone is collected, and reports the skip with its reason.
    collect_ignore = [str(file) for file in Path(__file__).parent.rglob("test_*.py") if file.stem != "test_ros_is_here"]


def free_domain() -> int:
    """A domain id that nobody on this host uses: its first participant's port is free."""
    for attempt in range(100):
        domain = 1 + (os.getpid() + attempt) % 100
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", 7410 + 250 * domain))
            except OSError:
                continue
        return domain
    raise RuntimeError("no free ROS domain id")


@pytest.fixture(scope="session", autouse=True)
def _own_domain() -> None:
    os.environ["ROS_DOMAIN_ID"] = str(free_domain())
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


@pytest.fixture
def executor() -> "Iterator[SingleThreadedExecutor]":
    """A single-threaded executor in an initialised context; nodes left in it are destroyed."""
    use_shipped_dds_profile()
    rclpy.init()
    executor = SingleThreadedExecutor()
    try:
        yield executor
    finally:
        try:
            for node in executor.get_nodes():
                stop = getattr(node, "stop", None)
                if stop is not None:
                    stop()
                executor.remove_node(node)
                node.destroy_node()
        finally:  # one broken node is one broken test
            executor.shutdown(timeout_sec=0)
            rclpy.try_shutdown()
