# SPDX-License-Identifier: Apache-2.0
"""Floods the supervisor's inputs: joint states of an unknown arm and malformed chunks, as fast as Python can.

python -m safety.flood --seconds 3
"""

import argparse
import sys
import time

from rclpy.node import Node
from sensor_msgs.msg import JointState
from sigma_ros.msg import ActionChunk
from std_msgs.msg import Float64MultiArray

from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.process import ros_context


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    with ros_context([sys.argv[0]]):
        node = Node("flood")
        joints = node.create_publisher(JointState, "/joint_states", qos.SENSOR)
        chunks = node.create_publisher(ActionChunk, topics.ACTION_CHUNK, qos.CHUNK)
        other = node.create_publisher(Float64MultiArray, "/sigma/flood", qos.SENSOR)
        joint_state = JointState(name=[f"x{i}" for i in range(6)], position=[0.0] * 6)
        chunk = ActionChunk(horizon=3, joint_names=["a"])
        megabyte = Float64MultiArray(data=[0.0] * 125_000)
        count, end_s = 0, time.monotonic() + options.seconds
        while time.monotonic() < end_s:
            joints.publish(joint_state)
            count += 1
            if count % 50 == 0:
                chunks.publish(chunk)
            if count % 2000 == 0:
                other.publish(megabyte)
        sys.stdout.write(f"{count / options.seconds:.0f} joint states a second\n")
        node.destroy_node()
    return 0


if __name__ == "__main__":
    sys.exit(main())
