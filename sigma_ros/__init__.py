# SPDX-License-Identifier: Apache-2.0
"""Sigma on an SO-101 arm: a vision-language-action model proposes, a supervisor disposes."""

from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sigma_ros.model.adapter import SigmaTelepathyAdapter
    from sigma_ros.model.sigma import SigmaTelepathyVLA

__all__ = ["SigmaTelepathyAdapter", "SigmaTelepathyVLA"]

# The generated messages (`sigma_ros.msg`) may be installed in another folder than the Python package.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The model card's two classes, when they are asked for: the supervisor's process must not import torch."""
    if name == "SigmaTelepathyVLA":
        from sigma_ros.model.sigma import SigmaTelepathyVLA  # noqa: PLC0415

        return SigmaTelepathyVLA
    if name == "SigmaTelepathyAdapter":
        from sigma_ros.model.adapter import SigmaTelepathyAdapter  # noqa: PLC0415

        return SigmaTelepathyAdapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
