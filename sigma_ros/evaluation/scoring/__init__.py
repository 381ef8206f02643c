# SPDX-License-Identifier: Apache-2.0
"""Replay logs to numbers: windows, scores, statistics, verdict. Pure."""
