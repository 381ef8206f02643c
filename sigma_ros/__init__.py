# SPDX-License-Identifier: Apache-2.0
"""Sigma on an SO-101 arm: a vision-language-action model proposes, a supervisor disposes."""

from pkgutil import extend_path

# The generated messages (`sigma_ros.msg`) may be installed in another folder than the Python package.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
