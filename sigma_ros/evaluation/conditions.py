# SPDX-License-Identifier: Apache-2.0
"""Under which a report came about: what may differ between machines and days, and nothing else."""

import platform
from importlib.metadata import PackageNotFoundError, version

from sigma_ros import __version__
from sigma_ros.contract import Contract

_PACKAGES = ("torch", "lerobot", "transformers", "numpy", "rosbags", "plotly")


def conditions(command: str, *, checkpoint: str, contract: Contract) -> dict[str, object]:
    """For the report's last section; `checkpoint` is what the user gave."""
    return {
        "command": command,
        "checkpoint given": checkpoint,
        "contract": contract.name,
        "versions": {
            "sigma_ros": __version__,
            "python": platform.python_version(),
            **{package: _installed(package) for package in _PACKAGES},
        },
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
