# SPDX-License-Identifier: Apache-2.0
"""`sigma delays`: how late camera, policy and arm are."""

from sigma_ros.cli.delays.command import app

__all__ = ["app"]
