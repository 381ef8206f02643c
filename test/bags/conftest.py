# SPDX-License-Identifier: Apache-2.0
"""The synthetic bags and stand-in policies of test/evaluation."""
