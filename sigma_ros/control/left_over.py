# SPDX-License-Identifier: Apache-2.0
"""What is left of a chunk when the next one is planned: where real-time chunking leads the base on from."""

from sigma_ros.values import Chunk, LeftOver, Window


def left_over(previous: Chunk | None, window: Window, *, delay_ns: int) -> LeftOver | None:
    """What of `previous` is still to come at a window's tick; None for another epoch or where nothing is left.

    Args:
        previous: The chunk in execution.
        window: What the next chunk is planned from.
        delay_ns: From a tick to its chunk's arrival, as last measured. A step counts as consumed once its time
            has come, so the delay in steps is the index that will be consumed on arrival, not an upper bound.
    """
    if previous is None or previous.epoch != window.epoch:
        return None
    steps = previous.base_rad[max(0, window.tick - previous.tick) :]
    delay_steps = max(0, delay_ns // previous.step_period_ns)
    if window.tick < previous.tick or delay_steps >= len(steps):
        return None
    return LeftOver(base_rad=steps, delay_steps=int(delay_steps))
