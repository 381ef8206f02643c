# SPDX-License-Identifier: Apache-2.0
"""What a failed command says on stderr, and the exit code it leaves with."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sigma_ros.errors import MachineError, SigmaError
from sigma_ros.stopping import INTERRUPTED

_REMEDIES = {
    "rclpy": "make setup, then . ./env.sh; or source a ROS 2 installation",
    "sigma_ros.msg": "build the messages: make setup, then . ./env.sh; or colcon build and source install/setup.bash",
    "ray": 'pip install "sigma_ros[fleet]"',
    "mujoco": 'pip install "sigma_ros[sim]", or make setup',
}


@contextmanager
def explained() -> Iterator[None]:
    """Turns a `SigmaError`, a missing package and Ctrl-C into one message and an exit code."""
    try:
        yield
    except SigmaError as error:
        show(error)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if _is_ours(error.name):
            raise
        missing = missing_package(error.name or str(error))
        show(missing)
        sys.exit(missing.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def missing_package(name: str) -> MachineError:
    """The error for a package that does not import, with the extra that brings it."""
    package = name.partition(".")[0]
    remedy = _REMEDIES.get(name) or _REMEDIES.get(package) or "install the package again, or run make setup"
    return MachineError(f"the Python package {name} is not installed", where=sys.executable, remedy=remedy)


def show(error: SigmaError) -> None:
    """Prints the error as one block on stderr; parts joined by ` | ` stand one below the other."""
    console = Console(stderr=True, highlight=False, soft_wrap=False, markup=False)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name in ("where", "expected", "got", "remedy"):
        value = getattr(error, name)
        if value is not None:
            grid.add_row(f"  {name}", Text("\n".join(str(value).split(" | "))))
    console.print(Text(f"error: {error.what}", style="bold red"))
    if grid.row_count:
        console.print(grid)


def _is_ours(name: str | None) -> bool:
    return name is not None and name.partition(".")[0] == "sigma_ros" and name != "sigma_ros.msg"
