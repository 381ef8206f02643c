# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can act on: what failed, where, what was expected, what came, what to do."""


class SigmaError(Exception):
    """A failure with a remedy; the command line turns it into one message and `exit_code`.

    Args:
        what: One clause, without a full stop: what went wrong.
        where: File, topic, field or tensor concerned.
        expected: What would have been accepted.
        got: What was found.
        remedy: What the user can do now.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        got: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.got = got
        self.remedy = remedy
        super().__init__(self._text())

    def _text(self) -> str:
        parts = [self.what]
        if self.where is not None:
            parts.append(f"where: {self.where}")
        if self.expected is not None:
            parts.append(f"expected: {self.expected}")
        if self.got is not None:
            parts.append(f"got: {self.got}")
        if self.remedy is not None:
            parts.append(f"remedy: {self.remedy}")
        return "; ".join(parts)


class UsageError(SigmaError):
    """The command or its arguments cannot be right (exit code 2)."""

    exit_code = 2


class ContractError(UsageError):
    """A contract file, or a recording that does not fit its contract."""


class BagError(SigmaError):
    """A bag that cannot be read, or a write that could not be completed."""


class DatasetError(SigmaError):
    """A LeRobot data set that cannot be read, or does not hold what the contract asks for."""


class CheckpointError(SigmaError):
    """A model or Sigma checkpoint that is incomplete, foreign, hostile or not finite."""


class MachineError(SigmaError):
    """Something is missing on this machine: a library, a driver, a Python version, a free port."""


def show_error(error: SigmaError) -> None:
    """Prints the error as one block on stderr; parts joined by ` | ` stand one below the other."""
    from rich.console import Console  # noqa: PLC0415 - the supervisor's process needs none of it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

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
