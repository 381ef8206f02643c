# SPDX-License-Identifier: Apache-2.0
"""The bar that long work over recordings and episodes shows, with the time that is left."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def counted_progress() -> Progress:
    """A bar on stderr that counts finished pieces."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True, markup=False))
