# SPDX-License-Identifier: Apache-2.0
"""What a logged episode (`sigma sim --log-chunks`) says plan by plan: each signal is larger where it is worse.

What a signal costs stands in `COSTS`: those of the chunks alone are free.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from safetensors import SafetensorError, safe_open

from sigma_ros.errors import UsageError
from sigma_ros.policy.alarm import disagreement
from sigma_ros.values import NS_PER_S

COSTS = {
    "three-term risk": "free",
    "residual ratio": "free",
    "small norm of tau": "free",
    "disagreement": "free",
    "reversals": "free",
    "closed on nothing": "free, for tasks that grasp",
    "noise spread": "a base chunk of four rows a plan",
    "novelty": "embeddings of calibration episodes",
    "together": "that of its parts",
}
"""Signal -> what it costs beside the policy itself."""

_FPS, _COMMAND_HZ = 30.0, 50.0
GRIPPER = -1
"""The joint that closes: the last one of an SO-101. Fingers around an object stand open by its width."""
_STILL_RAD = 1e-3
"""A joint that a command moves by less has no direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedEpisode:
    """One logged episode. `signals` [n] and `embedding` [n, width] belong to the plans that arrived at `times_s`."""

    name: str
    seed: int
    success: bool
    times_s: Float64[ndarray, " plans"]
    signals: Mapping[str, Float64[ndarray, " plans"]]
    embedding: Float64[ndarray, "plans width"]


def read_episode(file: Path) -> LoggedEpisode:
    """A log as its signals.

    Raises:
        UsageError: it is no log of an episode of Sigma.
    """
    try:
        with safe_open(str(file), framework="np") as opened:
            result = json.loads((opened.metadata() or {}).get("result", "null"))
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UsageError("the log cannot be read", where=file, got=error) from error
    if not isinstance(result, dict) or "factors" not in arrays:
        raise UsageError("this is no log of an episode of Sigma", where=file)
    times_s = arrays["tick"] / _FPS + arrays["delay_ns"] / NS_PER_S
    return LoggedEpisode(
        name=f"{file.parent.parent.name}/{file.stem}",
        seed=int(result["seed"]),
        success=bool(result["success"]),
        times_s=times_s,
        signals=signals_of(arrays, times_s),
        embedding=np.concatenate([arrays["intent"], arrays["factors"]], axis=1).astype(np.float64),
    )


def signals_of(arrays: Mapping[str, Any], times_s: Float64[ndarray, " plans"]) -> dict[str, Float64[ndarray, " plans"]]:
    """Every signal that needs no other episode."""
    blended = arrays["base_rad"] + arrays["scale"][:, None, None] * arrays["residual_rad"]
    ticks = arrays["tick"]
    apart = [disagreement(blended[i - 1], blended[i], ticks=int(ticks[i] - ticks[i - 1])) for i in range(1, len(ticks))]
    found = {
        "three-term risk": arrays["risk.total"],
        "residual ratio": arrays["risk.residual_ratio"],
        "small norm of tau": -arrays["tau_l2"],
        "disagreement": np.array([0.0, *apart]),
        "reversals": np.array([reversals(arrays["commands_rad"], float(time_s)) for time_s in times_s]),
        "closed on nothing": -np.array([arrays["positions_rad"][tick, GRIPPER] for tick in ticks]),
    }
    if "spread" in arrays:
        found["noise spread"] = arrays["spread"]
    return {name: np.asarray(values, dtype=np.float64) for name, values in found.items()}


def reversals(commands_rad: Float64[ndarray, "commands dof"], until_s: float) -> float:
    """Share of a second's commands before a time at which a joint turns round, over joints that move."""
    last = min(len(commands_rad), round(until_s * _COMMAND_HZ))
    steps = np.diff(commands_rad[max(0, last - round(_COMMAND_HZ)) : last], axis=0)
    turns = moving = 0
    for column in steps.T:
        signs = np.sign(column[np.abs(column) > _STILL_RAD])
        turns += int(np.count_nonzero(signs[1:] != signs[:-1]))
        moving += max(0, len(signs) - 1)
    return turns / moving if moving else 0.0
