# SPDX-License-Identifier: Apache-2.0
"""Where the arm's parts are: limits of the tool, and what no part may come near."""
