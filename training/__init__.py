# SPDX-License-Identifier: Apache-2.0
"""From a data set to a checkpoint: preprocess, losses, train, evaluate; pretrain_mini makes the small base."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

VERBS = {"preprocess": "preprocess", "train": "train", "train-eval": "evaluate", "study": "study"}
"""Verb of `sigma` -> module of this package whose `main(argv)` it calls."""


def parser(module: str, description: str | None, **more: Any) -> argparse.ArgumentParser:
    """Of a module's command, which is called `sigma train-eval`, or `python -m training.evaluate`."""
    verb = next((verb for verb, name in VERBS.items() if name == module), None)
    called = f"sigma {verb}" if verb and Path(sys.argv[0]).name == "sigma" else f"python -m {__package__}.{module}"
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=called, description=description, formatter_class=form, **more)


def in_range(least: float, most: float = math.inf, *, kind: type = int) -> Callable[[str], Any]:
    """The type of an argument that is a finite number in a range."""

    def number(text: str) -> Any:
        value = kind(text)
        if not least <= value <= most or not math.isfinite(value):
            expected = f"{least} or more" if most == math.inf else f"a number from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text} is not {expected}")
        return value

    number.__name__ = kind.__name__  # "invalid int value" where it is no number at all
    return number


def exit_code(run: Callable[[], int], *, interrupted: str) -> int:
    """What a command leaves with: an error is shown, and Ctrl-C answered with what goes on."""
    from rich.console import Console  # noqa: PLC0415 - this package's name alone is imported for the help

    from sigma_ros.errors import SigmaError, show_error  # noqa: PLC0415
    from sigma_ros.stopping import INTERRUPTED  # noqa: PLC0415

    try:
        return run()
    except SigmaError as error:
        show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        Console(stderr=True, markup=False).print(interrupted)
        return INTERRUPTED
