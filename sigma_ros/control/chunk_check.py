# SPDX-License-Identifier: Apache-2.0
"""Whether a chunk may be executed: present, finite, fresh, plausible, in this order.

The checks trust nothing about the value: whatever is in its fields, the answer is a reason, not an exception.
"""

from dataclasses import dataclass

import numpy as np

from sigma_ros.contract import Contract
from sigma_ros.control.limits import SupervisorLimits
from sigma_ros.control.reasons import Reason
from sigma_ros.values import NS_PER_S, Chunk

MAX_HORIZON_STEPS = 256
MAX_TRAINED_DELAY_S = 5.0

_MIN_HORIZON_STEPS = 2
_STAMP_BOUND_NS = 1 << 62
_PERIOD_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a message: `reason` is OK if it was accepted, `detail` holds the numbers."""

    accepted: bool
    reason: Reason
    detail: str = ""

    @property
    def text(self) -> str:
        """One sentence for people."""
        return self.reason.text(self.detail)


ACCEPTED = Verdict(accepted=True, reason=Reason.OK)


def refused(reason: Reason, detail: str = "") -> Verdict:
    """A refusal with its reason."""
    return Verdict(accepted=False, reason=reason, detail=detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The newest chunk accepted; -1 where there was none. `barrier_ns` refuses stamps before the last stop."""

    chunk_id: int = -1
    epoch: int = -1
    stamp_ns: int = -_STAMP_BOUND_NS
    barrier_ns: int = -_STAMP_BOUND_NS


class ChunkCheck:
    """Judges chunks for one robot. Holds constants only."""

    def __init__(self, contract: Contract, limits: SupervisorLimits) -> None:
        self._names = contract.joint_names
        self._period_ns = contract.tick_period_ns
        self._span = contract.upper_rad - contract.lower_rad
        self._low, self._high = contract.lower_rad - self._span, contract.upper_rad + self._span
        self._limits = limits
        oldest = max((contract.joint_state_max_age_ns, *(camera.max_age_ns for camera in contract.cameras)))
        self.max_observation_age_ns = round(limits.max_observation_age_s * NS_PER_S) or oldest

    def judge(self, chunk: Chunk, seen: Seen, observation_now_ns: int) -> Verdict:
        """Whether the chunk may be executed now, on the observation clock."""
        try:
            return (
                self._present(chunk)
                or self._finite(chunk)
                or self._fresh(chunk, seen, observation_now_ns)
                or self._plausible(chunk)
                or ACCEPTED
            )
        except (TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
            return refused(Reason.CHUNK_MALFORMED, f"{type(error).__name__}: {error}")

    def _present(self, chunk: Chunk) -> Verdict | None:
        counts = (chunk.chunk_id, chunk.epoch, chunk.tick)
        times = (chunk.stamp_ns, chunk.step_period_ns, chunk.observation_age_ns, chunk.inference_ns)
        numbers = (*counts, *times)
        if not all(isinstance(n, int) and abs(n) < _STAMP_BOUND_NS for n in numbers):
            return refused(Reason.CHUNK_MALFORMED, f"integers expected, got {numbers}")
        for name, array in (("base", chunk.base_rad), ("residual", chunk.residual_rad)):
            if not isinstance(array, np.ndarray) or array.dtype != np.float64:
                return refused(Reason.CHUNK_MALFORMED, f"{name} is not an array of float64")
        if tuple(chunk.joint_names) != self._names:
            return refused(Reason.CHUNK_NAMES, f"got {', '.join(map(str, chunk.joint_names))}")
        return self._shapes(chunk)

    def _shapes(self, chunk: Chunk) -> Verdict | None:
        shape, other = chunk.base_rad.shape, chunk.residual_rad.shape
        if len(shape) != 2 or shape != other or shape[1] != len(self._names):
            return refused(Reason.CHUNK_SHAPE, f"base {shape}, residual {other}, {len(self._names)} joints")
        if not _MIN_HORIZON_STEPS <= shape[0] <= MAX_HORIZON_STEPS:
            allowed = f"{_MIN_HORIZON_STEPS} to {MAX_HORIZON_STEPS}"
            return refused(Reason.CHUNK_SHAPE, f"{shape[0]} steps, {allowed} are allowed")
        if abs(chunk.step_period_ns - self._period_ns) > _PERIOD_TOLERANCE * self._period_ns:
            return refused(Reason.CHUNK_PERIOD, f"{chunk.step_period_ns / 1e6:.3f} ms, not {self._period_ns / 1e6:.3f}")
        return None

    def _finite(self, chunk: Chunk) -> Verdict | None:
        for name, array in (("base", chunk.base_rad), ("residual", chunk.residual_rad)):
            bad = ~np.isfinite(array)
            if bad.any():
                step, joint = (int(i) for i in np.argwhere(bad)[0])
                return refused(Reason.CHUNK_NOT_FINITE, f"{name}, step {step}, {self._names[joint]}")
        for name in ("scale", "trained_delay_s"):
            if not np.isfinite(getattr(chunk, name)):
                return refused(Reason.CHUNK_NOT_FINITE, f"{name} {getattr(chunk, name)}")
        return None

    def _fresh(self, chunk: Chunk, seen: Seen, now_ns: int) -> Verdict | None:
        if chunk.epoch < seen.epoch:
            return refused(Reason.CHUNK_OLD_EPOCH, f"epoch {chunk.epoch}, now {seen.epoch}")
        if chunk.chunk_id <= seen.chunk_id or chunk.stamp_ns <= seen.stamp_ns:
            return refused(Reason.CHUNK_OUT_OF_ORDER, f"id {chunk.chunk_id} after {seen.chunk_id}")
        if chunk.stamp_ns < seen.barrier_ns:
            return refused(Reason.CHUNK_BEFORE_STOP, f"{(seen.barrier_ns - chunk.stamp_ns) / 1e6:.0f} ms before it")
        return self._young(chunk, now_ns)

    def _young(self, chunk: Chunk, now_ns: int) -> Verdict | None:
        limits = self._limits
        age_s = (now_ns - chunk.stamp_ns) / NS_PER_S
        if age_s > limits.max_chunk_delay_s:
            return refused(Reason.CHUNK_STALE, f"{age_s:.3f} s, limit {limits.max_chunk_delay_s:g} s")
        if -age_s > limits.max_stamp_lead_s:
            return refused(Reason.CHUNK_FROM_FUTURE, f"{-age_s:.3f} s ahead, limit {limits.max_stamp_lead_s:g} s")
        if not 0 <= chunk.observation_age_ns <= self.max_observation_age_ns:
            limit_ms = self.max_observation_age_ns / 1e6
            return refused(
                Reason.OBSERVATION_STALE, f"{chunk.observation_age_ns / 1e6:.0f} ms, limit {limit_ms:.0f} ms"
            )
        return None

    def _plausible(self, chunk: Chunk) -> Verdict | None:
        if not 0.0 <= chunk.scale <= 1.0:
            return refused(Reason.CHUNK_IMPLAUSIBLE, f"scale {chunk.scale}")
        if not 0.0 <= chunk.trained_delay_s <= MAX_TRAINED_DELAY_S:
            return refused(Reason.CHUNK_IMPLAUSIBLE, f"trained for a delay of {chunk.trained_delay_s} s")
        outside = ((chunk.base_rad < self._low) | (chunk.base_rad > self._high)).any(axis=0)
        if outside.any():
            joint = int(np.argmax(outside))
            worst = float(np.max(np.abs(chunk.base_rad[:, joint])))
            return refused(Reason.CHUNK_IMPLAUSIBLE, f"{self._names[joint]} at up to {worst:.3g} rad")
        largest = np.max(np.abs(chunk.residual_rad), axis=0)
        if (largest > self._span).any():
            joint = int(np.argmax(largest - self._span))
            return refused(Reason.CHUNK_IMPLAUSIBLE, f"residual of {self._names[joint]} is {largest[joint]:.3g} rad")
        return None
