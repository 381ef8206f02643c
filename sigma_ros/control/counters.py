# SPDX-License-Identifier: Apache-2.0
"""What became of the messages that a frame clock was given."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCount:
    """What became of a stream's messages.

    `received` counts all. `used` were the newest at some tick, `superseded` had a newer one in their interval,
    `late` came after a tick they belonged to, `dropped` did not fit while ticks waited. `refused` counts by reason.
    """

    received: int
    used: int
    superseded: int
    late: int
    dropped: int
    refused: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCounters:
    """Snapshot of a frame clock: per stream (camera name, `joints`), and what came out."""

    streams: Mapping[str, StreamCount]
    windows: int
    gaps: int
    epochs: int

    @property
    def refused(self) -> int:
        """Messages refused in all streams."""
        return sum(sum(count.refused.values()) for count in self.streams.values())
