# SPDX-License-Identifier: Apache-2.0
"""From a data set to a checkpoint: preprocess, losses, train, evaluate; pretrain_mini makes the small base."""

import sys
from pathlib import Path

VERBS = {"preprocess": "preprocess", "train": "train", "train-eval": "evaluate", "study": "study"}
"""Verb of `sigma` -> module of this package whose `main(argv)` it calls."""


def program(module: str) -> str:
    """How the running command is called: `sigma train-eval`, or `python -m training.evaluate`."""
    verb = next((verb for verb, name in VERBS.items() if name == module), None)
    return f"sigma {verb}" if verb and Path(sys.argv[0]).name == "sigma" else f"python -m {__package__}.{module}"
