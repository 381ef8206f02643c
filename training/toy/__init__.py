# SPDX-License-Identifier: Apache-2.0
"""The small base's own pretraining: simulated demonstrations and places in pictures."""
