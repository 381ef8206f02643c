# SPDX-License-Identifier: Apache-2.0
"""The synthetic bags and stand-in policies of test/evaluation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluation"))
