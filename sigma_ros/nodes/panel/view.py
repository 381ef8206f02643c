# SPDX-License-Identifier: Apache-2.0
"""What the page shows of one moment, as plain JSON: numbers are finite or null."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.kinematics import ForwardKinematics, ToolPoint
from sigma_ros.msg import ActionChunk, TelepathyState
from sigma_ros.nodes.shared.listen import STATES, MonitorView

_BASE_POINT = [0.0, 0.0, 0.0]
_TASKS_KEPT = 8


class Skeleton:
    """The arm as lines: from the base over the places of its joints to the tool's points; none without kinematics."""

    def __init__(self, contract: Contract) -> None:
        self._kinematics: ForwardKinematics | None = None
        found = contract.kinematics
        if found is None:
            return
        origins = tuple(ToolPoint(name=f"at {k.joint}", joint=k.joint, position_m=(0.0, 0.0, 0.0)) for k in found.links)
        self._kinematics = ForwardKinematics(replace(found, points=(*origins, *found.points)), contract.joint_names)
        names = self._kinematics.names
        self._chain = [names.index(point.name) for point in origins]
        self._tips = [(names.index(f"at {point.joint}"), names.index(point.name)) for point in found.points]

    def lines(self, positions_rad: Float64[ndarray, " dof"]) -> list[list[list[float]]]:
        """Polylines of points x, y, z [m] in the base's frame: the chain, then one to each tool point."""
        if self._kinematics is None:
            return []
        points = np.round(self._kinematics.points_m(positions_rad[None])[0].T, 4).tolist()
        return [[_BASE_POINT, *(points[i] for i in self._chain)], *([points[a], points[b]] for a, b in self._tips)]

    def path(self, positions_rad: Float64[ndarray, "steps dof"]) -> list[list[float]]:
        """The way of the middle of the tool's points [m]."""
        if self._kinematics is None:
            return []
        tips = self._kinematics.points_m(positions_rad)[:, :, [tip for _, tip in self._tips]]
        return list(np.round(tips.mean(axis=2), 4).tolist())


class KnownMemories:
    """What the memory held under each task that was heard, as its mean: what a memory is like is seen against them."""

    def __init__(self) -> None:
        self._sums: dict[str, Float64[ndarray, " width"]] = {}
        self._last: tuple[int, int] | None = None

    def alike(self, told: TelepathyState | None) -> dict[str, float]:
        """Takes in what was told, once; gives by task, the newest last, the cosine of this memory to that one."""
        memory = np.array(() if told is None else told.semantic_memory, dtype=np.float64)
        if told is None or not told.valid or not memory.size or not np.isfinite(memory).all():
            return {}
        if told.committed and self._last != (told.epoch, told.tick):
            self._last = told.epoch, told.tick
            self._sums[told.task] = self._sums.pop(told.task, 0.0) + memory
            self._sums = dict(list(self._sums.items())[-_TASKS_KEPT:])
        return {task: _cosine(known, memory) for task, known in self._sums.items() if known.shape == memory.shape}


def _cosine(one: Float64[ndarray, " width"], other: Float64[ndarray, " width"]) -> float:
    """NaN where one of them is zero."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else math.nan


def plans(chunk: ActionChunk, skeleton: Skeleton) -> dict[str, Any]:
    """Base's and Sigma's plan (at the scale that was asked for): the tool's way, and the arm at its end."""
    base = np.array(chunk.base_positions).reshape(chunk.horizon, -1)
    sigma = base + chunk.scale * np.array(chunk.residual_positions).reshape(base.shape)
    return {
        name: {"path": skeleton.path(rows), "arm": skeleton.lines(rows[-1])}
        for name, rows in (("base", base), ("sigma", sigma))
    }


def page_view(
    seen: MonitorView, contract: Contract, skeleton: Skeleton, joints_rad: Mapping[str, float], now_s: float
) -> dict[str, Any]:
    """The whole view of one moment; `joints_rad` is the measured position by joint, empty before the first."""
    measured = np.array([joints_rad[name] for name in contract.joint_names]) if joints_rad else None
    told, chunk, telepathy = seen.supervisor, seen.chunk, seen.telepathy
    view = {
        "rates": {name: round(rate.hz(now_s), 1) for name, rate in seen.rates.items()},
        "reasons": list(seen.reasons),
        "troubles": [f"{name}: {text}" for name, text in sorted(seen.troubles.items())],
        "incidents": seen.incidents,
        "arm": [] if measured is None else skeleton.lines(measured),
        "joints": [
            {"name": joint.name, "rad": joints_rad.get(joint.name), "low": joint.lower_rad, "high": joint.upper_rad}
            for joint in contract.joints
        ],
        "supervisor": None if told is None or not seen.is_fresh(now_s) else _supervisor(told),
        "policy": None if chunk is None else _policy(chunk) | {"plans": plans(chunk, skeleton)},
        "telepathy": None if telepathy is None else _telepathy(telepathy),
    }
    shown: dict[str, Any] = finite(view)
    return shown


def _supervisor(told: Any) -> dict[str, Any]:
    names = ("reason", "reason_text", "requested_scale", "scale_ceiling", "applied_scale", "holds", "violations")
    return {name: getattr(told, name) for name in names} | {
        "state": STATES[told.state],
        "bounded": list(told.clipped_joints),
        "refused_chunks": told.refused_chunks,
    }


def _policy(chunk: Any) -> dict[str, Any]:
    names = ("scale", "min_scale", "max_scale", "risk_temperature", "residual_risk", "factor_risk", "alignment_risk")
    inference_s = chunk.inference_time.sec + chunk.inference_time.nanosec * 1e-9
    return {name: getattr(chunk, name) for name in names} | {"inference_ms": 1e3 * inference_s}


def _telepathy(told: Any) -> dict[str, Any]:
    return {name: getattr(told, name) for name in ("task", "valid", "memory_l2", "intent_l2", "tau_l2", "sem_align")}


def finite(value: Any) -> Any:
    """A value for JSON: what is not finite becomes null, which the page shows as unknown."""
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
