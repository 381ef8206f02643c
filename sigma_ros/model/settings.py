# SPDX-License-Identifier: Apache-2.0
"""Sigma's sizes and switches as one frozen value, with a strict JSON form.

Most sizes of the paper are unpublished; these defaults are our choices. `full()` is for
pi0.5 as published, `small()` for the model that ships with the package; both run the same code.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from sigma_ros.errors import CheckpointError

if TYPE_CHECKING:
    from sigma_ros.model.pi05.backbone import Backbone

LORA_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""Where the adapters sit in each attention layer (model card: key projections q, k, v, o)."""

_LARGEST = 1 << 16
_CHUNK_STEPS, _TRAJECTORY_STEPS = 8, 16
"""Of the paper; a base whose chunks are shorter has fewer."""

_HORIZON = 50
_LONGEST_DELAY_S = 5.0
_FADE = "fade_steps"

_ADDED = {"memory_gate_bias": 0.0, "smoothed_steps": 1}
"""Settings that older checkpoints lack, and what they were made with."""

BRANCHES = ("vector", "chunk", "trajectory", "late")
"""The residual's three time scales, shortest first, and what is added for steps and base chunks that come late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigmaConfig:
    """Sizes of every part. `width`, `cameras`, `dof`, `horizon` belong to the base, the rest is Sigma's.

    Attributes:
        width: Language-model width.
        cameras: Cameras of a tick, in the order of the contract.
        dof: Joints of state and action.
        horizon: Action steps of the base's chunk.
        pooled_grid: Image tokens are average-pooled to `pooled_grid` x `pooled_grid`.
        glance_width: Numbers that are kept of a pooled token of the newest tick, past the language model.
        resampler_width: Width inside the perceiver resampler and of the FiLM modulation.
        resampler_queries: Learned queries, the number of vision tokens.
        resampler_layers: Cross-attention layers.
        state_hidden: Hidden width of the state encoder.
        state_tokens: Tokens the states of the window become.
        text_tokens: Task-text tokens read, so that shapes are static; a longer text is cut.
        readouts: Readout queries appended for the language model.
        lora_rank: Rank of the adapters (0 only with `use_lora` off).
        lora_alpha: Adapter gain, applied as alpha / rank.
        lora_dropout: Dropout in front of the adapters, in training only.
        memory_width: Semantic memory m_t.
        memory_stride: Ticks between two commits of the memory.
        memory_gate_bias: Where the memory's gate starts in a new model: below 0 it keeps.
        intent_width: Intent z_intent.
        factor_count: Telepathy factors.
        factor_width: Width of one telepathy factor.
        align_width: Space in which intent and factors are compared.
        head_hidden: Hidden width of the intent and factor heads.
        residual_hidden: Hidden width of a residual branch.
        chunk_steps: Steps of the chunk branch.
        trajectory_steps: Steps of the trajectory branch; its last correction is held behind them.
        residual_steps: Steps of the late branch, which the residual was trained on; its last one is held likewise.
        smoothed_steps: Widest part of the smoothing of base and residual together, an odd number; 1: none.
        trained_delay_s: Delay from a picture to its chunk for which the residual was trained [s]; 0: for none.
        corrected_joints: Joints that may be corrected; the others always keep the base's actions.
        use_memory: Off: every update starts from an empty memory.
        use_glance: Off: pictures reach the residual through the language model and the factors alone.
        use_film: Off: the previous factors do not modulate the vision tokens.
        use_lora: Off: the telepathy path runs the language model as it is.
        use_vector: Off: no residual on the first step alone.
        use_chunk: Off: no residual on the chunk scale.
        use_trajectory: Off: no residual on the trajectory scale.
        use_late: Off: no residual of its own for steps behind the trajectory and bases that have got old.
        plain_lora: Comparison arm: no telepathy path; adapters in the base's own prefix, with the rank
            that gives as many trained parameters, and the residual is what they change.
    """

    width: int = 2048
    cameras: int = 2
    dof: int = 6
    horizon: int = _HORIZON
    pooled_grid: int = 4
    glance_width: int = 16
    resampler_width: int = 512
    resampler_queries: int = 32
    resampler_layers: int = 2
    resampler_heads: int = 8
    state_hidden: int = 512
    state_tokens: int = 4
    text_tokens: int = 32
    readouts: int = 4
    lora_rank: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.05
    memory_width: int = 512
    memory_stride: int = 16
    memory_gate_bias: float = -2.0
    intent_width: int = 256
    factor_count: int = 8
    factor_width: int = 256
    align_width: int = 256
    head_hidden: int = 512
    residual_hidden: int = 512
    chunk_steps: int = _CHUNK_STEPS
    trajectory_steps: int = _TRAJECTORY_STEPS
    residual_steps: int = _HORIZON
    smoothed_steps: int = 1
    trained_delay_s: float = 0.0
    corrected_joints: tuple[bool, ...] = (True,) * 6
    use_memory: bool = True
    use_glance: bool = True
    use_film: bool = True
    use_lora: bool = True
    use_vector: bool = True
    use_chunk: bool = True
    use_trajectory: bool = True
    use_late: bool = True
    plain_lora: bool = False

    def __post_init__(self) -> None:
        problems = _wrong_types(self) or self._wrong_sizes()
        if problems:
            raise CheckpointError(
                "Sigma's settings cannot be right",
                where="SigmaConfig",
                got=" | ".join(problems),
                remedy="start from SigmaConfig.full() or SigmaConfig.small() and change single fields",
            )

    def _wrong_sizes(self) -> list[str]:
        problems = []
        if self.resampler_width % self.resampler_heads:
            problems.append(f"resampler_width {self.resampler_width} is no multiple of {self.resampler_heads} heads")
        if not 1 <= self.chunk_steps <= self.trajectory_steps <= self.residual_steps <= self.horizon:
            problems.append(
                "1 <= chunk_steps <= trajectory_steps <= residual_steps <= horizon must hold, "
                f"got {self.chunk_steps}, {self.trajectory_steps}, {self.residual_steps}, {self.horizon}"
            )
        if self.smoothed_steps not in range(1, self.horizon + 1, 2):
            problems.append(f"smoothed_steps must be odd and at most {self.horizon}, got {self.smoothed_steps}")
        if not 0.0 <= self.trained_delay_s <= _LONGEST_DELAY_S:
            problems.append(f"trained_delay_s must be in [0, {_LONGEST_DELAY_S:g}], got {self.trained_delay_s}")
        if len(self.corrected_joints) != self.dof:
            problems.append(f"corrected_joints needs {self.dof} entries, got {len(self.corrected_joints)}")
        if not 0.0 <= self.lora_dropout < 1.0:
            problems.append(f"lora_dropout must be in [0, 1), got {self.lora_dropout}")
        if self.plain_lora and not self.use_lora:
            problems.append("plain_lora needs use_lora")
        return problems

    @property
    def glance_size(self) -> int:
        """Numbers of a glance: of each camera and pooled place `glance_width`."""
        return self.cameras * self.pooled_grid**2 * self.glance_width if self.use_glance else 0

    @classmethod
    def full(cls, **changes: Any) -> Self:
        """The default sizes; `corrected_joints` follows `dof` and `residual_steps` the horizon unless given."""
        changes.setdefault("corrected_joints", (True,) * changes.get("dof", 6))
        changes.setdefault("residual_steps", changes.get("horizon", _HORIZON))
        return cls(**changes)

    @classmethod
    def small(cls, **changes: Any) -> Self:
        """Sizes for the small pi0.5 that ships with the package."""
        small: dict[str, Any] = {
            "width": 192,
            "resampler_width": 96,
            "resampler_queries": 12,
            "text_tokens": 24,
            "resampler_heads": 4,
            "state_hidden": 64,
            "lora_rank": 8,
            "lora_alpha": 16.0,
            "memory_width": 128,
            "intent_width": 64,
            "factor_width": 32,
            "align_width": 32,
            "head_hidden": 256,
            "residual_hidden": 256,
        }
        return cls.full(**{**small, **changes})

    @classmethod
    def for_backbone(cls, backbone: "Backbone", **changes: Any) -> Self:
        """Settings that fit a base: full sizes from a width of 1024 on, small ones below.

        No branch is longer than the base's chunk.
        """
        features = backbone.policy.config.output_features["action"]
        fit = {
            "width": backbone.width,
            "horizon": backbone.horizon,
            "cameras": len(backbone.camera_keys),
            "dof": features.shape[0],
        }
        fit |= {"chunk_steps": min(_CHUNK_STEPS, backbone.horizon)}
        fit |= {"trajectory_steps": min(_TRAJECTORY_STEPS, backbone.horizon)}
        sizes = cls.full if backbone.width >= 1024 else cls.small
        return sizes(**{**fit, **changes})

    @property
    def factor_size(self) -> int:
        """Numbers in all telepathy factors together."""
        return self.factor_count * self.factor_width

    @property
    def branch_steps(self) -> dict[str, int]:
        """Steps of each residual branch that is switched on, shortest first."""
        return {name: steps for name, steps in self.all_branch_steps.items() if getattr(self, f"use_{name}")}

    @property
    def all_branch_steps(self) -> dict[str, int]:
        """Steps of each residual branch, shortest first."""
        steps = (1, self.chunk_steps, self.trajectory_steps, self.residual_steps)
        return dict(zip(BRANCHES, steps, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Plain values for `sigma_config.json`."""
        values = dataclasses.asdict(self)
        values["corrected_joints"] = list(self.corrected_joints)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: object = None) -> Self:
        """Reads what `to_json` wrote, and settings from before the late branch: with the steps they were trained on.

        Raises:
            CheckpointError: a field is unknown, missing, or of the wrong type or size.
        """
        if _FADE in values:
            values = _before_late(values)
        names = {field.name for field in dataclasses.fields(cls)}
        values = {**_ADDED, **values}
        unknown, missing = sorted(set(values) - names), sorted(names - set(values))
        if unknown or missing:
            raise CheckpointError(
                "Sigma's settings do not fit this version",
                where=where,
                expected="every known field and no other",
                got=f"unknown: {', '.join(unknown) or 'none'}; missing: {', '.join(missing) or 'none'}",
                remedy="use the version of the package that wrote the file",
            )
        joints = values["corrected_joints"]
        return cls(**{**values, "corrected_joints": tuple(joints) if isinstance(joints, list) else joints})


def _before_late(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose residual faded into the base behind its trajectory: the last correction is held there now."""
    kept = {name: value for name, value in values.items() if name != _FADE}
    return {**kept, "residual_steps": values.get("trajectory_steps", 1), "trained_delay_s": 0.0, "use_late": False}


def _wrong_types(config: SigmaConfig) -> list[str]:
    problems = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.type is bool:
            good = isinstance(value, bool)
        elif field.type is int:
            good = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST
        elif field.type is float:
            good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        else:
            good = isinstance(value, tuple) and all(isinstance(entry, bool) for entry in value)
        if not good:
            problems.append(f"{field.name} is {value!r}")
    return problems
