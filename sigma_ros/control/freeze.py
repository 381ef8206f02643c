# SPDX-License-Identifier: Apache-2.0
"""Does a camera hang? A real sensor never gives the same bytes twice; a driver that repeats its last picture does."""

import zlib

from sigma_ros.control.images import ImageMessage

FROZEN_PICTURES = 30
"""So many equal pictures in a row: a second."""

_SAMPLED_BYTES = 4096


class FreezeWatch:
    """Compares a sample of each picture's bytes with the one before; a few microseconds a picture."""

    def __init__(self) -> None:
        self._sum = 0
        self._repeats = 0

    @property
    def is_frozen(self) -> bool:
        """Whether the last second's pictures were all the same."""
        return self._repeats >= FROZEN_PICTURES

    def note(self, image: ImageMessage) -> None:
        """Takes in a picture."""
        data = memoryview(image.data).cast("B")
        sample = zlib.crc32(data[:: max(1, len(data) // _SAMPLED_BYTES)].tobytes(), len(data))
        self._repeats = self._repeats + 1 if sample == self._sum else 0
        self._sum = sample
