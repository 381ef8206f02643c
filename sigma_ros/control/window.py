# SPDX-License-Identifier: Apache-2.0
"""The last 16 ticks of an epoch, and the window they make."""

from collections import deque

import numpy as np

from sigma_ros.values import WINDOW_TICKS, Frame, Window


class WindowHistory:
    """Frames of the newest ticks; None stands for a gap."""

    def __init__(self) -> None:
        self._entries: deque[Frame | None] = deque(maxlen=WINDOW_TICKS)

    def clear(self) -> None:
        """Begins an epoch."""
        self._entries.clear()

    def add_gap(self) -> None:
        """A tick that cannot be used: masked in the windows that contain it."""
        self._entries.append(None)

    def add(self, frame: Frame, *, task: str) -> Window:
        """Adds a valid tick and returns its window.

        Masked places hold the frame before them, or the first valid one where there is none before.
        """
        self._entries.append(frame)
        entries = [*([None] * (WINDOW_TICKS - len(self._entries))), *self._entries]
        mask = np.array([entry is not None for entry in entries])
        mask.flags.writeable = False
        neighbour = next(entry for entry in entries if entry is not None)
        frames = []
        for entry in entries:
            neighbour = neighbour if entry is None else entry
            frames.append(neighbour)
        return Window(epoch=frame.epoch, task=task, frames=tuple(frames), mask=mask)
