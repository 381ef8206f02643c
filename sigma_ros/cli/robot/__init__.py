# SPDX-License-Identifier: Apache-2.0
"""The verbs that look at or move a robot."""
