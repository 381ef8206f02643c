# SPDX-License-Identifier: Apache-2.0
"""Scores to files: JSON, pages, tables, recordings to look at."""
