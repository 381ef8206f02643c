# SPDX-License-Identifier: Apache-2.0
"""What launch files share. The standard library, launch and yaml alone."""
