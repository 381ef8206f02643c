# SPDX-License-Identifier: Apache-2.0
"""The policy loop: which tick plans, commits and is scored; one for every driver. No rclpy."""
