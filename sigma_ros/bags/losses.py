# SPDX-License-Identifier: Apache-2.0
"""What could not be used of a recording, by reason: one account from the first byte to the last tick."""

from collections import Counter
from collections.abc import Mapping

from sigma_ros.border import one_line
from sigma_ros.errors import BagError

WITH_LOSSES = 3
"""Exit code of a verb that has read a recording of which something could not be used."""


def refuse_losses(where: object, losses: Mapping[str, int], *, strict: bool) -> None:
    """Raises a BagError in strict mode when anything of a recording was lost."""
    if strict and losses:
        raise BagError(
            "the recording has losses",
            where=where,
            got=described(losses),
            remedy="leave --strict out to go on and count them",
        )


def described(losses: Mapping[str, int]) -> str:
    """Losses in one line."""
    return ", ".join(f"{reason} {count}" for reason, count in losses.items())


class Losses:
    """Counts by reason; in strict mode the first loss is an error.

    Args:
        where: The recording, for the error.
        strict: Raise instead of counting.
    """

    def __init__(self, where: object, *, strict: bool) -> None:
        self._where = where
        self._strict = strict
        self._counts: Counter[str] = Counter()

    def add(self, reason: str, count: int = 1) -> None:
        """Counts a loss.

        Raises:
            BagError: in strict mode.
        """
        reason = one_line(reason)
        self._counts[reason] += count
        if self._strict:
            raise BagError(
                f"the bag has losses: {reason}",
                where=self._where,
                got=f"{count} lost",
                remedy="read it without strict to go on and count them",
            )

    def once(self, reason: str, count: int = 1) -> None:
        """Counts a loss that is found again on every reading."""
        if one_line(reason) not in self._counts:
            self.add(reason, count)

    def snapshot(self) -> dict[str, int]:
        """Counts so far."""
        return dict(self._counts)
