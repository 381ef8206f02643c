# SPDX-License-Identifier: Apache-2.0
"""The numbers of a report as frozen values, in the order in which a report shows them. NaN: undefined."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from sigma_ros import __version__
from sigma_ros.contract import Contract
from sigma_ros.evaluation.scoring.statistics import Comparison
from sigma_ros.evaluation.scoring.windows import WindowErrors


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorScores:
    """What one arm missed by, on normalised actions; `joint_*` map vec, chk, trj to values per joint."""

    mse_vec: float
    mse_chk: float
    mse_trj: float
    step_mse: tuple[float, ...]
    joint_mse: Mapping[str, tuple[float, ...]]
    joint_rmse_deg: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScores(ErrorScores):
    """A proposing arm, base or Sigma, over all scored windows."""

    tau_l2: float
    sem_align: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandedScores(ErrorScores):
    """What the supervisor commanded, over the scored windows of which every step was commanded (`windows` of them).

    `comparison` holds the commands against the base's chunks in these windows.
    `*_rmse_deg` are over these windows, all their steps and joints.
    """

    windows: int
    baseline_rmse_deg: float
    sigma_rmse_deg: float
    commanded_rmse_deg: float
    comparison: Mapping[str, Comparison]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterScores:
    """The scale that the adapter asked for, over all published chunks, and whether its risk knows about errors.

    `risk_error_rho` is Spearman's correlation of risk with Sigma's window error; `risk_harm_rho` with the
    harm of the full residual (error with scale 1 minus error of the base). `*_p` are their p-values.
    """

    scale_mean: float
    scale_std: float
    scale_min: float
    scale_max: float
    histogram: tuple[int, ...]
    risk_error_rho: float
    risk_error_p: float
    risk_harm_rho: float
    risk_harm_p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepScores:
    """Sigma's errors had every chunk been blended with one fixed scale, from the logged base and residual.

    `best_scale` is the scale in [0, 1] with the least mse_trj on these very windows, so it is what a fixed scale could
    reach with hindsight; NaN where all scales give the same. `adapter_against_best` is the adapter minus that.
    """

    scales: tuple[float, ...]
    mse_vec: tuple[float, ...]
    mse_chk: tuple[float, ...]
    mse_trj: tuple[float, ...]
    best_scale: float
    best_mse_vec: float
    best_mse_chk: float
    best_mse_trj: float
    adapter_against_best: Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorScores:
    """What the supervisor did. `violations` is its own count, `breaches` the report's: both must be 0.

    `held_back_share` is the part of the asked scale that was not applied, in `held_back_ticks`, by
    `held_back_reasons`. `bounded_limits` counts joints and ticks by what bounded them.
    """

    ticks: int
    commanded: int
    clipped: int
    violations: int
    breaches: int
    refused_chunks: int
    holds: int
    engagements: int
    clipped_joints: Mapping[str, int]
    states: Mapping[str, int]
    reasons: Mapping[str, int]
    applied_scale_mean: float
    requested_scale_mean: float
    held_back_share: float
    held_back_ticks: int
    held_back_reasons: Mapping[str, int]
    bounded_limits: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothness:
    """Jumps between consecutive chunks (degrees) and jerk (rad/s^3); NaN where there was none.

    The arms' jerk is that of their chunks as they would be executed, each until the next one, without a supervisor.
    """

    baseline_jump_mean_deg: float
    baseline_jump_max_deg: float
    sigma_jump_mean_deg: float
    sigma_jump_max_deg: float
    baseline_jerk_rms_radps3: float
    sigma_jerk_rms_radps3: float
    command_jerk_rms_radps3: float
    command_jerk_max_radps3: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Measured on this machine; differs from run to run. A tick is one call of the policy."""

    tick_ms_p50: float
    tick_ms_p99: float
    supervisor_ms_p50: float
    supervisor_ms_p99: float
    wall_s: float
    realtime_factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeScores:
    """One recording's row."""

    name: str
    samples: int
    ticks: int
    invalid_ticks: int
    epochs: int
    baseline_mse_vec: float
    baseline_mse_chk: float
    baseline_mse_trj: float
    sigma_mse_vec: float
    sigma_mse_chk: float
    sigma_mse_trj: float
    commanded_mse_vec: float
    commanded_mse_chk: float
    commanded_mse_trj: float
    scale_mean: float
    losses: Mapping[str, int]
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Everything that the report states, and the windows that it was computed from."""

    windows: WindowErrors
    samples: int
    batches: int
    baseline: ArmScores
    sigma: ArmScores
    commanded: CommandedScores
    comparison: Mapping[str, Comparison]
    adapter: AdapterScores
    sweep: SweepScores
    supervisor: SupervisorScores
    smoothness: Smoothness
    timing: Timing
    episodes: tuple[EpisodeScores, ...]
    complete: bool


# Under which a report came about: what may differ between machines and days, and nothing else.


_PACKAGES = ("torch", "lerobot", "transformers", "numpy", "rosbags", "plotly")


def conditions(command: str, *, checkpoint: str, contract: Contract) -> dict[str, object]:
    """For the report's last section; `checkpoint` is what the user gave."""
    return {
        "command": command,
        "checkpoint given": checkpoint,
        "contract": contract.name,
        "versions": {
            "sigma_ros": __version__,
            "python": platform.python_version(),
            **{package: installed(package) for package in _PACKAGES},
        },
        "machine": f"{platform.system()} {platform.machine()}",
    }


def installed(package: str) -> str:
    """A package's version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
