# SPDX-License-Identifier: Apache-2.0
"""ROS 2 message types without a ROS installation: definitions, CDR in and out (by rosbags)."""

from typing import Any

from rosbags.typesys import Stores, get_typestore

from sigma_ros.values import NS_PER_S

ROS_TYPES = get_typestore(Stores.ROS2_JAZZY)
"""Every message type of ROS 2 Jazzy's common interfaces."""


def header(stamp_ns: int, frame_id: str) -> Any:
    """A std_msgs/Header."""
    seconds, nanoseconds = divmod(stamp_ns, NS_PER_S)
    stamp = ROS_TYPES.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return ROS_TYPES.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)
