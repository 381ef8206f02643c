# SPDX-License-Identifier: Apache-2.0
"""The three signatures by which a Sigma deployment fails slowly: action error, semantic drift, latency spikes.

Each compares the last planning ticks with what is normal: the epoch's own beginning, or the training statistics.
"""

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from sigma_ros.nodes.diagnostics import Level, Standing
from sigma_ros.policy.job import Outcome, Proposed
from sigma_ros.values import Chunk, Window

RECENT, NORMAL = 10, 30
"""Planning ticks that count as now, and as normal before them."""

ERROR_RATIO, LEAST_ERROR_RAD = 2.0, 0.05
LARGEST_FACTOR_LOG = math.log(2.0)
LARGEST_ALIGN_DROP = 0.3
SPIKE_RATIO, LEAST_SPIKE_MS = 3.0, 100.0


class Signatures:
    """Notes outcomes; each public method is a diagnostics task."""

    def __init__(self) -> None:
        self._errors_rad: deque[float] = deque(maxlen=RECENT + NORMAL)
        self._aligns: deque[float] = deque(maxlen=RECENT + NORMAL)
        self._factor_logs: deque[float] = deque(maxlen=RECENT)
        self._delays_ms: deque[float] = deque(maxlen=RECENT + NORMAL)
        self._chunk: Chunk | None = None

    def note(self, outcome: Outcome) -> None:
        """Takes in what came of a planning tick."""
        item = outcome.request.item
        if not isinstance(outcome, Proposed) or not outcome.request.plans or not isinstance(item, Window):
            return
        chunk = outcome.chunk
        if self._chunk is not None and self._chunk.epoch != chunk.epoch:
            for series in (self._errors_rad, self._aligns):
                series.clear()
        elif self._chunk is not None:
            self._note_error(self._chunk, item)
        self._chunk = chunk
        self._aligns.append(outcome.telepathy.sem_align)
        self._factor_logs.append(abs(math.log(max(chunk.risk.factor_ratio, 1e-9))))
        self._delays_ms.append(outcome.delay_ns / 1e6)

    def _note_error(self, before: Chunk, window: Window) -> None:
        step = window.tick - before.tick
        if 0 <= step < before.horizon:
            planned = before.blended_rad(before.scale)[step]
            self._errors_rad.append(float(np.sqrt(np.mean((planned - window.newest.positions_rad) ** 2))))

    def action_error(self) -> Standing:
        """What the chunk before planned for this tick against where the arm is: live, the arm is the reference."""
        now, normal = _now_and_normal(self._errors_rad)
        values = {"now_rad": f"{now:.4f}", "normal_rad": f"{normal:.4f}"}
        if math.isnan(normal):
            return Standing(Level.STALE, "not enough chunks yet", values)
        if now > LEAST_ERROR_RAD and now > ERROR_RATIO * normal:
            said = f"the arm is {now:.2f} rad from the plan, {normal:.2f} before: it does not follow, or plans wander"
            return Standing(Level.WARN, said, values)
        return Standing(Level.OK, f"{now:.3f} rad from the plan", values)

    def semantic_drift(self) -> Standing:
        """Alignment of memory and task against the epoch's own, norm of the factors against the training's."""
        now, normal = _now_and_normal(self._aligns)
        factor = math.exp(float(np.median(self._factor_logs))) if self._factor_logs else math.nan
        values = {"sem_align": f"{now:.3f}", "sem_align_before": f"{normal:.3f}", "factors_off_by": f"{factor:.2f}"}
        if not self._factor_logs:
            return Standing(Level.STALE, "no chunk yet", values)
        if math.log(factor) > LARGEST_FACTOR_LOG:
            said = f"the factors' norm is off the training's by a factor of {factor:.1f}: another scene than trained"
            return Standing(Level.WARN, said, values)
        if normal - now > LARGEST_ALIGN_DROP:
            return Standing(Level.WARN, f"sem_align fell from {normal:.2f} to {now:.2f}: reset_memory", values)
        return Standing(Level.OK, f"sem_align {now:.2f}, factors off by {factor:.2f}", values)

    def latency(self) -> Standing:
        """From a tick to its chunk: the worst of now against what is usual."""
        if len(self._delays_ms) < RECENT:
            return Standing(Level.STALE, "not enough chunks yet")
        usual, worst = float(np.median(self._delays_ms)), max(list(self._delays_ms)[-RECENT:])
        values = {"usual_ms": f"{usual:.0f}", "worst_ms": f"{worst:.0f}"}
        if worst > LEAST_SPIKE_MS and worst > SPIKE_RATIO * usual:
            return Standing(
                Level.WARN, f"a chunk took {worst:.0f} ms, usually {usual:.0f}: the machine is busy", values
            )
        return Standing(Level.OK, f"{usual:.0f} ms from tick to chunk", values)


def _now_and_normal(series: Sequence[float]) -> tuple[float, float]:
    """Medians of the newest entries and of those before them; NaN where there are too few."""
    values = np.array(series, dtype=np.float64)
    now = float(np.median(values[-RECENT:])) if values.size else math.nan
    normal = float(np.median(values[:-RECENT])) if values.size >= 2 * RECENT else math.nan
    return now, normal
