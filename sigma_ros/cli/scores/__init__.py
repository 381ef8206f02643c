# SPDX-License-Identifier: Apache-2.0
"""The verbs that run a policy and say what it was worth."""
