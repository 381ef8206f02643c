# SPDX-License-Identifier: Apache-2.0
"""A training step on what LeRobot's sampler draws: a frame with its past, for `lerobot-train --policy.type=sigma`.

The memory starts empty and is unrolled through the windows of that past; `training.train` carries it through the whole
episode and computes base chunks once per data set instead of once per sample.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, UInt8
from lerobot.optim.optimizers import AdamWConfig
from lerobot.optim.schedulers import CosineDecayWithWarmupSchedulerConfig
from numpy import ndarray
from torch import Tensor

from sigma_ros.errors import UsageError
from sigma_ros.model.adapter import References
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.model.telepathy import Recurrence
from sigma_ros.model.tokens import camera_patches, pool_tokens
from sigma_ros.values import WINDOW_TICKS

from ..check_data import refuse_relative
from ..held_out import joined, score_window, usual
from ..loop import warmup_cosine
from ..losses import LossWeights, SigmaLossModule, total, traf_weights
from ..options import TrainOptions
from ..sources import TARGET_STEPS
from ..streams import Windows

_KEPT_BATCHES = 8
"""The adapter's references are measured on the windows of so many newest batches."""

_USUAL_STEPS = 100_000
"""LeRobot's own default; it scales a schedule down to a shorter run."""

_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(TrainOptions)}


def optimizer_preset() -> AdamWConfig:
    """The optimiser of `training.train`."""
    rate, decay, norm = (_DEFAULTS[name] for name in ("learning_rate", "weight_decay", "clip_norm"))
    return AdamWConfig(lr=rate, weight_decay=decay, grad_clip_norm=norm)


def scheduler_preset(peak: float) -> CosineDecayWithWarmupSchedulerConfig:
    """Its schedule: linear up, a cosine down."""
    return CosineDecayWithWarmupSchedulerConfig(
        num_warmup_steps=round(_DEFAULTS["warmup_share"] * _USUAL_STEPS),
        num_decay_steps=_USUAL_STEPS,
        peak_lr=peak,
        decay_lr=peak * warmup_cosine(_USUAL_STEPS, total=_USUAL_STEPS, warmup=1),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A batch of LeRobot's sampler: `ticks` of past up to the drawn frame, actions from the first window's tick on.

    Pictures are in the contract's order of cameras, states and actions in policy units. Where `valid` or `acted` is
    False the episode had not begun or had ended, and LeRobot repeats its first or last row.
    """

    pictures: UInt8[ndarray, "batch ticks cameras h w 3"]
    states: Float32[ndarray, "batch ticks dof"]
    valid: Bool[Tensor, "batch ticks"]
    actions: Float32[ndarray, "batch steps dof"]
    acted: Bool[Tensor, "batch steps"]
    tasks: Sequence[str]


class DrawnLosses:
    """Losses of drawn batches, and the references of the adapter afterwards.

    Args:
        runtime: Its model is trained in place.
        late_ticks: Largest latency that is drawn for a window.
        gradient_checkpointing: Less memory for more time.
    """

    def __init__(self, runtime: SigmaRuntime, *, late_ticks: int, gradient_checkpointing: bool) -> None:
        self.model, self._runtime = runtime.model, runtime
        config = self.model.config
        if config.memory_stride != WINDOW_TICKS or self.model.plain is not None:
            raise UsageError("only training.train trains this model", expected=f"Sigma, memory stride {WINDOW_TICKS}")
        refuse_relative(runtime.units.relative, where=runtime.info.base.source)
        self._late_ticks = min(late_ticks, config.residual_steps - 1)
        self.model.config = replace(config, trained_delay_s=round(self._late_ticks / runtime.contract.fps, 6))
        self._losses = SigmaLossModule(self.model, gradient_checkpointing=gradient_checkpointing)
        self._kept: deque[list[Windows]] = deque(maxlen=_KEPT_BATCHES)

    def loss(self, drawn: Drawn) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch and its parts. Heads and adapters are float32 whatever LeRobot's autocast says."""
        with torch.autocast(self.model.backbone.device.type, enabled=False):
            windows = self.windows(drawn)
            if self.model.training:
                self._kept.append([window.to(torch.device("cpu")) for window in windows])
            outcome = self._losses(windows, self._empty(len(drawn.tasks)), sorted(set(drawn.tasks)))
            present = torch.cat([window.present for window in windows])
            weights = traf_weights(torch.cat([window.base_error for window in windows]), present)
            count = max(1.0, float(present.sum()))
            loss, parts = total(outcome.terms, weights, present, LossWeights(), progress=1.0, count=count)
        return loss, {name: float(part) for name, part in parts.items()}

    @torch.no_grad()
    def windows(self, drawn: Drawn) -> list[Windows]:
        """The consecutive windows of a batch, oldest first, each with the base's chunk from fresh noise."""
        count = drawn.states.shape[1] // WINDOW_TICKS
        return [self._window(drawn, place) for place in range(count)]

    def references(self) -> References:
        """What is usual on the newest batches, each with its memory."""
        found = []
        for windows in self._kept:
            previous = self._empty(len(windows[0].tasks))
            for window in windows:
                scores, previous = score_window(self.model, window.to(previous.memory.device), previous)
                found.append(scores)
        return usual(joined(found)) if found else self.model.references

    def _empty(self, batch: int) -> Recurrence:
        return Recurrence.start(self.model.config, batch=batch, device=self.model.backbone.device)

    def _window(self, drawn: Drawn, place: int) -> Windows:
        model, device = self.model, self.model.backbone.device
        first, normalisation = place * WINDOW_TICKS, self._runtime.normalisation
        ticks = slice(first, first + WINDOW_TICKS)
        valid = drawn.valid[:, ticks].to(device)
        states = torch.from_numpy(normalisation.state.normalise(drawn.states[:, ticks])).to(device)
        seen = valid[:, :, None] & self._runtime.inputs.mapping.seen.to(device)
        pooled, patches = self._tokens(drawn.pictures[:, ticks], seen)
        base = self._chunks(patches, drawn.tasks, states[:, -1], valid[:, -1])
        target = normalisation.action.normalise(drawn.actions[:, first : first + model.config.residual_steps])
        batch = len(valid)
        return Windows(
            pooled=pooled,
            seen=seen,
            states=states * valid[:, :, None],
            valid=valid,
            base=base,
            old_base=base,
            age=torch.zeros(batch, device=device),
            delay=torch.randint(self._late_ticks + 1, (batch,)).to(device),
            target=torch.from_numpy(target).to(device),
            known=torch.ones(target.shape[:2], dtype=torch.bool, device=device),
            corrected=torch.zeros(batch, dtype=torch.bool, device=device),
            present=valid[:, -1] & drawn.acted[:, first : first + TARGET_STEPS].all(dim=1).to(device),
            tasks=tuple(drawn.tasks),
            names=("",) * batch,
        )

    def _tokens(
        self, pictures: UInt8[ndarray, "batch ticks cameras h w 3"], seen: Bool[Tensor, "batch ticks cameras"]
    ) -> tuple[Tensor, Tensor]:
        """Pooled tokens of all ticks, and the newest tick's whole ones; one row at a time, for the memory it takes."""
        mapping, pooled, newest = self._runtime.inputs.mapping, [], []
        for row, there in zip(pictures, seen, strict=True):
            tokens = camera_patches(self.model.backbone, mapping.images(row), there, per_call=int(there.sum()))
            flat = pool_tokens(tokens.flatten(0, 1), self.model.config.pooled_grid)
            pooled.append(flat.unflatten(0, tokens.shape[:2]))
            newest.append(tokens[-1])
        return torch.stack(pooled), torch.stack(newest)

    def _chunks(
        self,
        patches: Float[Tensor, "batch cameras patches width"],
        tasks: Sequence[str],
        states: Float[Tensor, "batch dof"],
        there: Bool[Tensor, " batch"],
    ) -> Float[Tensor, "batch horizon dof"]:
        """The base's chunks, of the rows that are there."""
        backbone, rows = self.model.backbone, there.nonzero()[:, 0]
        chunks = torch.zeros(len(there), backbone.horizon, self.model.config.dof, device=backbone.device)
        if len(rows):
            noise = torch.randn(len(rows), backbone.horizon, backbone.max_dof).to(backbone.device)
            mask = self._runtime.inputs.mapping.mask(len(rows), backbone.device)
            prompts = self.model.prompts([tasks[row] for row in rows.tolist()], states[rows])
            chunk = backbone.base_chunk(patches[rows], mask, *prompts, noise)
            chunks[rows] = chunk[..., : self.model.config.dof].to(chunks.dtype)
        return chunks
