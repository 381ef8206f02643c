# SPDX-License-Identifier: Apache-2.0
"""Sigma's checkpoint folder: manifest, tensors, and what it is in words."""
