# SPDX-License-Identifier: Apache-2.0
"""The policy's diagnostics: one task per cause, each a function of what the session has seen."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from sigma_ros.nodes.policy.model import PolicyModel
from sigma_ros.nodes.policy.session import PolicySession
from sigma_ros.nodes.shared.diagnostics import Level, Task, TaskStatus
from sigma_ros.policy.job import Failed, Outcome, Proposed, Remembered, Rescaled
from sigma_ros.streams.stream import StreamCount
from sigma_ros.values import Chunk, Telepathy, Window

# The three signatures by which a Sigma deployment fails slowly: action error, semantic drift, latency spikes.
#
# Each compares the last planning ticks with what is normal: the epoch's own beginning, or the training statistics.


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

    def action_error(self) -> TaskStatus:
        """What the chunk before planned for this tick against where the arm is: live, the arm is the reference."""
        now, normal = _now_and_normal(self._errors_rad)
        values = {"now_rad": f"{now:.4f}", "normal_rad": f"{normal:.4f}"}
        if math.isnan(normal):
            return TaskStatus(Level.STALE, "not enough chunks yet", values)
        if now > LEAST_ERROR_RAD and now > ERROR_RATIO * normal:
            said = f"the arm is {now:.2f} rad from the plan, {normal:.2f} before: it does not follow, or plans wander"
            return TaskStatus(Level.WARN, said, values)
        return TaskStatus(Level.OK, f"{now:.3f} rad from the plan", values)

    def semantic_drift(self) -> TaskStatus:
        """Alignment of memory and task against the epoch's own, norm of the factors against the training's."""
        now, normal = _now_and_normal(self._aligns)
        factor = math.exp(float(np.median(self._factor_logs))) if self._factor_logs else math.nan
        values = {"sem_align": f"{now:.3f}", "sem_align_before": f"{normal:.3f}", "factors_off_by": f"{factor:.2f}"}
        if not self._factor_logs:
            return TaskStatus(Level.STALE, "no chunk yet", values)
        if math.log(factor) > LARGEST_FACTOR_LOG:
            said = f"the factors' norm is off the training's by a factor of {factor:.1f}: another scene than trained"
            return TaskStatus(Level.WARN, said, values)
        if normal - now > LARGEST_ALIGN_DROP:
            return TaskStatus(Level.WARN, f"sem_align fell from {normal:.2f} to {now:.2f}: reset_memory", values)
        return TaskStatus(Level.OK, f"sem_align {now:.2f}, factors off by {factor:.2f}", values)

    def latency(self) -> TaskStatus:
        """From a tick to its chunk: the worst of now against what is usual."""
        if len(self._delays_ms) < RECENT:
            return TaskStatus(Level.STALE, "not enough chunks yet")
        usual, worst = float(np.median(self._delays_ms)), max(list(self._delays_ms)[-RECENT:])
        values = {"usual_ms": f"{usual:.0f}", "worst_ms": f"{worst:.0f}"}
        if worst > LEAST_SPIKE_MS and worst > SPIKE_RATIO * usual:
            return TaskStatus(
                Level.WARN, f"a chunk took {worst:.0f} ms, usually {usual:.0f}: the machine is busy", values
            )
        return TaskStatus(Level.OK, f"{usual:.0f} ms from tick to chunk", values)


def _now_and_normal(series: Sequence[float]) -> tuple[float, float]:
    """Medians of the newest entries and of those before them; NaN where there are too few."""
    values = np.array(series, dtype=np.float64)
    now = float(np.median(values[-RECENT:])) if values.size else math.nan
    normal = float(np.median(values[:-RECENT])) if values.size >= 2 * RECENT else math.nan
    return now, normal


HANG_NS = 10_000_000_000
"""An inference that takes longer hangs."""

_RECENT = 200


class PolicyHealth:
    """Notes outcomes and answers how each cause stands now."""

    def __init__(self, session: PolicySession, model: PolicyModel) -> None:
        self._session = session
        self._model = model
        self._took_ms: deque[float] = deque(maxlen=_RECENT)
        self._delay_ms: deque[float] = deque(maxlen=_RECENT)
        self._errors = 0
        self._last_error = ""
        self._committed = 0
        self._chunk: Chunk | None = None
        self._telepathy: Telepathy | None = None
        self._seen: dict[str, StreamCount] = {}
        self._signatures = Signatures()

    def note(self, outcome: Outcome) -> None:
        """Takes in what came of a tick."""
        self._signatures.note(outcome)
        if isinstance(outcome, Failed):
            self._errors += 1
            self._last_error = outcome.last_line
        if isinstance(outcome, Proposed | Rescaled):
            self._chunk = outcome.chunk
        if isinstance(outcome, Proposed) and outcome.request.plans:
            self._took_ms.append(outcome.took_ns / 1e6)
            self._delay_ms.append(outcome.delay_ns / 1e6)
        if isinstance(outcome, Proposed | Remembered):
            self._telepathy = outcome.telepathy
            self._committed += outcome.telepathy.committed

    def tasks(self) -> Mapping[str, Task]:
        """The tasks by name."""
        streams = {f"io/camera_{camera.name}": camera.name for camera in self._model.contract.cameras}
        streams["io/joint_states"] = "joints"
        return {
            "policy/inference": self._inference,
            "policy/adapter": self._adapter,
            "policy/memory": self._memory,
            "policy/units": self._units,
            "policy/action_error": self._signatures.action_error,
            "policy/semantic_drift": self._signatures.semantic_drift,
            "policy/latency": self._signatures.latency,
            **{name: partial(self._stream, stream) for name, stream in streams.items()},
        }

    def _inference(self) -> TaskStatus:
        busy_ns, loop = self._session.thread.busy_ns, self._session.thread.loop
        p50, p99 = np.percentile(self._took_ms, [50, 99]) if self._took_ms else (np.nan, np.nan)
        values = {
            "ms_p50": f"{p50:.1f}",
            "ms_p99": f"{p99:.1f}",
            "delay_ms_p99": f"{np.percentile(self._delay_ms, 99) if self._delay_ms else np.nan:.1f}",
            "busy_ms": f"{busy_ns / 1e6:.0f}",
            "skipped_ticks": loop.skipped,
            "overruns": loop.overruns,
            "errors": self._errors,
            "last_error": self._last_error,
            "checkpoint": self._model.facts["checkpoint_hash"],
            "restarts": self._session.thread.mended,
        }
        lost = self._session.thread.problem
        waits = ", ".join(self._session.clock.missing) or "a complete tick"
        problems = (
            (lost, Level.ERROR, lost),
            (busy_ns > HANG_NS, Level.ERROR, f"one inference has been running for {busy_ns / 1e9:.0f} s"),
            (self._errors, Level.ERROR, f"{self._errors} inference(s) failed: {self._last_error}"),
            (
                loop.overruns,
                Level.ERROR,
                "inference is slower than the memory's stride; epochs were cut",
            ),
            (self._session.paused, Level.WARN, "paused"),
            (self._session.clock_stands, Level.ERROR, "the clock stands: /clock is paused, or nobody publishes it"),
            (not self._took_ms, Level.STALE, f"waiting for {waits}"),
        )
        for is_so, level, text in problems:
            if is_so:
                return TaskStatus(level, text, values)
        return TaskStatus(Level.OK, f"{p50:.0f} ms", values)

    def _adapter(self) -> TaskStatus:
        chunk = self._chunk
        if chunk is None:
            return TaskStatus(Level.STALE, "no chunk yet")
        values = {
            "scale": f"{chunk.scale:.3f}",
            "risk": f"{chunk.risk.total:.3f}",
            "residual_ratio": f"{chunk.risk.residual_ratio:.3f}",
            "factor_ratio": f"{chunk.risk.factor_ratio:.3f}",
            "alignment": f"{chunk.risk.alignment:.3f}",
            "min_scale": chunk.settings.min_scale,
            "max_scale": chunk.settings.max_scale,
            "risk_temperature": chunk.settings.risk_temperature,
            "disagreement_rad": f"{chunk.disagreement_rad:.3f}",
        }
        if not np.isfinite(chunk.risk.total):
            return TaskStatus(Level.ERROR, "risk is not finite, the residual is off", values)
        if chunk.alarmed:
            said = "the policy asks for help: a chunk far from the plan before it, or a joint that signals a failure"
            return TaskStatus(Level.WARN, said, values)
        return TaskStatus(Level.OK, f"scale {chunk.scale:.2f} at risk {chunk.risk.total:.2f}", values)

    def _memory(self) -> TaskStatus:
        counters = self._session.clock.counters
        values = {
            "epoch": self._session.clock.epoch,
            "epochs": counters.epochs,
            "commits": self._committed,
            "windows": counters.windows,
            "gaps": counters.gaps,
            "task": self._session.clock.task,
        }
        if self._telepathy is None:
            return TaskStatus(Level.STALE, "no update yet", values)
        values["sem_align"] = f"{self._telepathy.sem_align:.3f}"
        values["tau_l2"] = f"{self._telepathy.tau_l2:.3f}"
        return TaskStatus(Level.OK, f"epoch {self._session.clock.epoch}, {self._committed} commits", values)

    def _units(self) -> TaskStatus:
        blocked = self._session.thread.loop.blocked
        return (
            TaskStatus(Level.ERROR, "; ".join(blocked))
            if blocked
            else TaskStatus(Level.OK, "the pose fits the training data")
        )

    def _stream(self, name: str) -> TaskStatus:
        """A stream against its state at the previous report, half a second ago."""
        now = self._session.clock.counters.streams[name]
        before = self._seen.get(name)
        self._seen[name] = now
        refused = sum(now.refused.values())
        values = {
            "received": now.received,
            "used": now.used,
            "superseded": now.superseded,
            "late": now.late,
            "dropped": now.dropped,
            **{f"refused: {reason}": count for reason, count in now.refused.items()},
        }
        if before is None or now.received == 0:
            return TaskStatus(Level.STALE, "nothing received yet", values)
        if now.received == before.received:
            return TaskStatus(Level.ERROR, "silent for half a second", values)
        if refused > sum(before.refused.values()):
            return TaskStatus(Level.ERROR, f"refused {refused}: {', '.join(now.refused)}", values)
        if name in self._session.frozen:
            return TaskStatus(Level.WARN, "the camera repeats one picture: it hangs, or nothing moves at all", values)
        return TaskStatus(Level.OK, f"{now.received} received", values)
