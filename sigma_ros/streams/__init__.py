# SPDX-License-Identifier: Apache-2.0
"""Messages to windows: pictures, joints, stamps and the frame clock. No torch, no rclpy."""
