# SPDX-License-Identifier: Apache-2.0
"""How far a replay is: a bar for a person at a terminal, a line at each tenth for a log or `ros2 launch`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rclpy.impl.rcutils_logger import RcutilsLogger
from rich.console import Console
from rich.progress import Progress

from sigma_ros.bags.reader import BagInfo

Tell = Callable[[int], None]
"""Takes a time of the recording in nanoseconds."""


@contextmanager
def told(info: BagInfo, logger: RcutilsLogger) -> Iterator[Tell]:
    """Yields what is to be told each tick's stamp."""
    length_ns = max(1, info.end_ns - info.start_ns)
    if not sys.stderr.isatty():
        yield lines(info.start_ns, length_ns, lambda percent: logger.info(f"{info.path.name}: {percent} %"))
        return
    with Progress(console=Console(stderr=True, markup=False), transient=True) as progress:
        bar = progress.add_task(info.path.name, total=length_ns)
        yield lambda at_ns: progress.update(bar, completed=max(0, at_ns - info.start_ns))


def lines(start_ns: int, length_ns: int, say: Callable[[int], object]) -> Tell:
    """Says each tenth once, in percent, when it is reached or passed."""
    said = 0

    def tell(at_ns: int) -> None:
        nonlocal said
        tenth = min(10, 10 * (at_ns - start_ns) // length_ns)
        if tenth > said:
            said = tenth
            say(10 * tenth)

    return tell
