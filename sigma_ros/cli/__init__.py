# SPDX-License-Identifier: Apache-2.0
"""The `sigma` command, one module per verb; each imports what it needs when it runs."""
