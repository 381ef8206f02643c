# SPDX-License-Identifier: Apache-2.0
"""The offline path: bag, episode, replay, metrics, statistics, report. No ROS graph."""
