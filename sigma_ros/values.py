# SPDX-License-Identifier: Apache-2.0
"""What travels between the stages: frozen values in SI units, stamps in integer nanoseconds.

Axis words used in shapes: `dof` joints in contract order, `horizon` action steps, `h w` pixels.
Arrays inside a value are read-only; `frozen_array` makes them so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from numpy import ndarray

WINDOW_TICKS = 16
"""Ticks in the rolling observation window (model card: horizon T = 16)."""

NS_PER_S = 1_000_000_000


def frozen_array(array: ndarray) -> ndarray:
    """Returns `array` itself if read-only, else a read-only view of it."""
    if not array.flags.writeable:
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def fitted_px(height_px: int, width_px: int, side_px: int) -> tuple[slice, slice]:
    """Rows and columns that a picture takes when it is fitted into a square, centred, as LeRobot does it."""
    ratio = max(width_px / side_px, height_px / side_px)
    height, width = int(height_px / ratio), int(width_px / ratio)
    top, left = (side_px - height) // 2, (side_px - width) // 2
    return slice(top, top + height), slice(left, left + width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One valid tick of the frame clock: what the robot saw and where its joints were.

    `images` maps a camera's contract name to RGB at the model's resolution. The ages say how
    much older than the tick the newest message of each stream was.
    """

    epoch: int
    tick: int
    stamp_ns: int
    images: Mapping[str, UInt8[ndarray, "h w 3"]]
    positions_rad: Float64[ndarray, " dof"]
    image_age_ns: Mapping[str, int]
    joint_age_ns: int

    @property
    def age_ns(self) -> int:
        """Age of the oldest stream at this tick."""
        return max((self.joint_age_ns, *self.image_age_ns.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A tick that cannot be used, with one reason per stream that was missing or too old."""

    epoch: int
    tick: int
    stamp_ns: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The last 16 ticks, oldest first. Where `mask` is False the frame is padding and must not count.

    Padding repeats a neighbouring frame: the first tick at an epoch's start, the tick before a gap.
    """

    epoch: int
    task: str
    frames: tuple[Frame, ...]
    mask: Bool[ndarray, " ticks"]

    def __post_init__(self) -> None:
        if len(self.frames) != WINDOW_TICKS or self.mask.shape != (WINDOW_TICKS,):
            raise ValueError(f"a window has {WINDOW_TICKS} frames and mask entries, got {len(self.frames)}")
        if not self.mask[-1]:
            raise ValueError("the newest frame of a window must be a valid tick")

    @property
    def newest(self) -> Frame:
        """The frame of the tick this window belongs to."""
        return self.frames[-1]

    @property
    def tick(self) -> int:
        """Tick of the newest frame, counted from the epoch's first tick."""
        return self.frames[-1].tick

    @property
    def stamp_ns(self) -> int:
        """Stamp of the newest frame."""
        return self.frames[-1].stamp_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """What a user can turn: `scale` is between `min_scale` and `max_scale`, both in [0, 1]."""

    min_scale: float = 0.0
    max_scale: float = 1.0
    risk_temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("min_scale", "max_scale", "risk_temperature"):
            if not np.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {getattr(self, name)}")
        if not 0.0 <= self.min_scale <= self.max_scale <= 1.0:
            raise ValueError(
                "0 <= min_scale <= max_scale <= 1 must hold, "
                f"got min_scale {self.min_scale}, max_scale {self.max_scale}"
            )
        if self.risk_temperature <= 0.0:
            raise ValueError(f"risk_temperature must be above 0, got {self.risk_temperature}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """Why the adapter's scale is what it is: three measured ratios and the three terms they give.

    `residual_ratio` = rms(residual) / r_ref, `factor_ratio` = ||tau|| / tau_ref,
    `alignment` = cosine of intent and factors. See `sigma_ros.risk` for the formula.
    """

    residual_ratio: float
    factor_ratio: float
    alignment: float
    residual_term: float
    factor_term: float
    alignment_term: float

    @property
    def total(self) -> float:
        """Sum of the three terms; 0 is the calmest."""
        return self.residual_term + self.factor_term + self.alignment_term


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What the policy proposes from one tick on: step i is meant for `stamp_ns + i * step_period_ns`.

    Base and residual travel apart, so that the supervisor can form `base + scale * residual` itself.
    `crossfade_steps`: over so many steps it asks to be faded in. `trained_delay_s`: the delay from stamp to arrival for
    which the residual was trained. `disagreement_rad`: how far it is from what the chunk before had planned for the
    same ticks; `alarmed`: that, or a joint, is beyond the policy's threshold (`policy.alarm`).
    """

    chunk_id: int
    epoch: int
    tick: int
    stamp_ns: int
    joint_names: tuple[str, ...]
    step_period_ns: int
    base_rad: Float64[ndarray, "horizon dof"]
    residual_rad: Float64[ndarray, "horizon dof"]
    scale: float
    risk: Risk
    settings: AdapterSettings
    tau_l2: float
    sem_align: float
    observation_age_ns: int
    inference_ns: int
    checkpoint_hash: str
    crossfade_steps: int = 0
    trained_delay_s: float = 0.0
    disagreement_rad: float = 0.0
    alarmed: bool = False

    @property
    def horizon(self) -> int:
        """Number of action steps."""
        return int(self.base_rad.shape[0])

    def blended_rad(self, scale: float) -> Float64[ndarray, "horizon dof"]:
        """The actions `base + scale * residual`; scale 0 is the base, bit for bit."""
        if scale == 0.0:
            return self.base_rad
        return self.base_rad + scale * self.residual_rad


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOver:
    """Base steps of the previous chunk from a new tick on; the first `delay_steps` will be gone on arrival."""

    base_rad: Float64[ndarray, "steps dof"]
    delay_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What Sigma carries from one committed update to the next: its semantic memory, and the factors it had then."""

    semantic: Float32[ndarray, " memory_width"]
    factors: Float32[ndarray, "factor_count factor_width"]
    commits: int


EngineName = Literal["plain", "cuda_graph", "onnx"]
"""What runs the model's tensor functions: torch as it is, a CUDA graph of them, or ONNX Runtime."""

ENGINES: tuple[EngineName, ...] = get_args(EngineName)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Whether what runs is what was trained, measured on one observation of the robot.

    `base_difference`: of the base's chunk, which scale 0 gives, from LeRobot's own `predict_action_chunk`, in
    normalised numbers; only 0 will do. Base and residual of the `engine` are `engine_rad` from the plain model's;
    beyond `bound_rad`, or with an `engine_problem`, the plain model goes on without it.
    """

    epoch: int
    tick: int
    base_difference: float
    engine: str = "plain"
    engine_rad: float = 0.0
    bound_rad: float = 0.0
    engine_problem: str = ""

    @property
    def holds(self) -> bool:
        """Whether the policy may act."""
        return self.base_difference == 0.0

    @property
    def keeps_engine(self) -> bool:
        """Whether the engine, if there is one, goes on."""
        return not self.engine_problem and self.engine_rad <= self.bound_rad

    @property
    def line(self) -> str:
        """One sentence for logs and reports."""
        end = f"at epoch {self.epoch}, tick {self.tick}"
        if self.engine != "plain":
            found = self.engine_problem or f"{self.engine_rad:.1e} rad off, {self.bound_rad:.0e} allowed"
            end += f"; engine {self.engine}: {found}"
            end += "" if self.keeps_engine else ", the plain model goes on without it"
        if self.holds:
            return f"scale 0 equals LeRobot's predict_action_chunk bit for bit {end}"
        return f"REFUSED: scale 0 is {self.base_difference:.1e} off LeRobot's predict_action_chunk {end}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Telepathy:
    """What Sigma believes at a tick, to look at and to record. `memory_l2` etc. are its norms.

    `baseline_*` are those of the arm without LoRA; NaN unless they were asked for.
    """

    epoch: int
    tick: int
    stamp_ns: int
    semantic_memory: Float64[ndarray, " memory_width"]
    intent: Float64[ndarray, " intent_width"]
    factors: Float64[ndarray, "factor_count factor_width"]
    tau_l2: float
    sem_align: float
    baseline_tau_l2: float
    baseline_sem_align: float
    committed: bool
