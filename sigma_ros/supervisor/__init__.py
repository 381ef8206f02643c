# SPDX-License-Identifier: Apache-2.0
"""Chunks to commands: inputs, chunks, scale, certified stop, state machine. No torch, no rclpy."""
