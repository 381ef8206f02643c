# SPDX-License-Identifier: Apache-2.0
"""Closed-loop trials of several training seeds: success with intervals over both, and what predicts a failure."""
