# SPDX-License-Identifier: Apache-2.0
"""The frozen base: LeRobot's pi0.5 opened at its seams, loaded strictly, and its small version."""
