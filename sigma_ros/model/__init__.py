# SPDX-License-Identifier: Apache-2.0
"""The Sigma model: base path, telepathy path, adapter, checkpoints. Torch, no ROS."""

from sigma_ros.model.pi05.lerobot_symbols import MODEL, check

check(MODEL)
