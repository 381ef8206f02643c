# SPDX-License-Identifier: Apache-2.0
"""Recordings in and out: rosbag2 bags and LeRobot data sets as ticks. No ROS, no torch, no report."""
