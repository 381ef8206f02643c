# SPDX-License-Identifier: Apache-2.0
"""Verbs for a moving arm: start everything, operate it, look at it."""
