# SPDX-License-Identifier: Apache-2.0
"""These tests share the small recordings and the stand-in model of the replay's tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluation"))
