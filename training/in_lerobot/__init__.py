# SPDX-License-Identifier: Apache-2.0
"""Sigma's losses inside LeRobot's own training loop."""
