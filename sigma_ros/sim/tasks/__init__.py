# SPDX-License-Identifier: Apache-2.0
"""Tasks of the test bed: scenes in which memory and language decide, an expert of verbs, and what counts as done."""
