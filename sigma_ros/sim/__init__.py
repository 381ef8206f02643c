# SPDX-License-Identifier: Apache-2.0
"""The simulated SO-101 in MuJoCo, its cameras and the scripted expert. No ROS but its node."""
