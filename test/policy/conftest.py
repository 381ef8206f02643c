# SPDX-License-Identifier: Apache-2.0
"""These tests share the small recordings and the stand-in model of the replay's tests."""
