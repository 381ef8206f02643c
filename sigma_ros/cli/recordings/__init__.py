# SPDX-License-Identifier: Apache-2.0
"""The verbs about what was recorded, and the contract it is read with."""
