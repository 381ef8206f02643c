# SPDX-License-Identifier: Apache-2.0
"""The live path's pure parts: observation, units, chunks, stop plan, supervisor. No torch, no ROS."""
