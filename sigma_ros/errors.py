# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can act on: what failed, where, what was expected, what came, what to do."""

import os
import sys


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
    """Prints the error as one block on stderr; parts joined by ` | ` stand one below the other, no line is broken."""
    red, plain = ("\033[1;31m", "\033[0m") if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ("", "")
    lines = [f"{red}error: {error.what}{plain}"]
    for name in ("where", "expected", "got", "remedy"):
        value = getattr(error, name)
        if value is not None:
            parts = str(value).replace(" | ", "\n").splitlines()
            lines.append(f"  {name:<8}  " + ("\n" + " " * 12).join(parts))
    sys.stderr.write("\n".join(lines) + "\n")
