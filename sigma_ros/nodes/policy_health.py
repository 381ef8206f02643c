# SPDX-License-Identifier: Apache-2.0
"""The policy's diagnostics: one task per cause, each a function of what the session has seen."""

from collections import deque
from collections.abc import Mapping
from functools import partial

import numpy as np

from sigma_ros.control.stream import StreamCount
from sigma_ros.nodes.diagnostics import Level, Standing, Task
from sigma_ros.nodes.policy_model import PolicyModel
from sigma_ros.nodes.policy_session import PolicySession
from sigma_ros.nodes.policy_signatures import Signatures
from sigma_ros.policy.job import Failed, Outcome, Proposed, Remembered, Rescaled
from sigma_ros.values import Chunk, Telepathy

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

    def _inference(self) -> Standing:
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
        }
        waits = ", ".join(self._session.clock.missing) or "a complete tick"
        problems = (
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
                return Standing(level, text, values)
        return Standing(Level.OK, f"{p50:.0f} ms", values)

    def _adapter(self) -> Standing:
        chunk = self._chunk
        if chunk is None:
            return Standing(Level.STALE, "no chunk yet")
        values = {
            "scale": f"{chunk.scale:.3f}",
            "risk": f"{chunk.risk.total:.3f}",
            "residual_ratio": f"{chunk.risk.residual_ratio:.3f}",
            "factor_ratio": f"{chunk.risk.factor_ratio:.3f}",
            "alignment": f"{chunk.risk.alignment:.3f}",
            "min_scale": chunk.settings.min_scale,
            "max_scale": chunk.settings.max_scale,
            "risk_temperature": chunk.settings.risk_temperature,
        }
        if not np.isfinite(chunk.risk.total):
            return Standing(Level.ERROR, "risk is not finite, the residual is off", values)
        return Standing(Level.OK, f"scale {chunk.scale:.2f} at risk {chunk.risk.total:.2f}", values)

    def _memory(self) -> Standing:
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
            return Standing(Level.STALE, "no update yet", values)
        values["sem_align"] = f"{self._telepathy.sem_align:.3f}"
        values["tau_l2"] = f"{self._telepathy.tau_l2:.3f}"
        return Standing(Level.OK, f"epoch {self._session.clock.epoch}, {self._committed} commits", values)

    def _units(self) -> Standing:
        blocked = self._session.thread.loop.blocked
        return (
            Standing(Level.ERROR, "; ".join(blocked))
            if blocked
            else Standing(Level.OK, "the pose fits the training data")
        )

    def _stream(self, name: str) -> Standing:
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
            return Standing(Level.STALE, "nothing received yet", values)
        if now.received == before.received:
            return Standing(Level.ERROR, "silent for half a second", values)
        if refused > sum(before.refused.values()):
            return Standing(Level.ERROR, f"refused {refused}: {', '.join(now.refused)}", values)
        if name in self._session.frozen:
            return Standing(Level.WARN, "the camera repeats one picture: it hangs, or nothing moves at all", values)
        return Standing(Level.OK, f"{now.received} received", values)
