# SPDX-License-Identifier: Apache-2.0
"""Both arms on cached windows, episode by episode with their memory: quick scores between steps and for the study.

The functions that believe and correct are the robot's; `training.evaluate` is the slow way through the whole runtime.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy import ndarray

from sigma_ros.evaluation.metrics import SPANS
from sigma_ros.evaluation.statistics import Comparison, compare
from sigma_ros.model.adapter import References
from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.telepathy import Recurrence

from .cache import CachedEpisode
from .plain import PlainFeeder
from .streams import Assembler, Piece
from .trainee import percepts_of

TYPICAL_RESIDUAL = 95.0
"""r_ref is this percentile of the residual's rms over the training windows: what is usual passes undiminished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowScores:
    """Per window: squared normalised errors of both arms, size of the residual, and the two semantic figures."""

    base: Float64[ndarray, "windows steps dof"]
    sigma: Float64[ndarray, "windows steps dof"]
    full: Float64[ndarray, "windows steps dof"]
    scale: Float64[ndarray, " windows"]
    residual_rms: Float64[ndarray, " windows"]
    tau_l2: Float64[ndarray, "windows 2"]
    sem_align: Float64[ndarray, "windows 2"]
    episode: Int64[ndarray, " windows"]

    def means(self, *, adapted: bool = True) -> dict[str, float]:
        """Scores of the base and of Sigma, by the report's names; not `adapted`: with its whole residual."""
        values = {}
        for name, steps in SPANS.items():
            values[f"base_mse_{name}"] = float(self.base[:, :steps].mean())
            values[f"mse_{name}"] = float((self.sigma if adapted else self.full)[:, :steps].mean())
        values["mse_far"] = float((self.sigma if adapted else self.full).mean())
        return values | ({"scale": float(self.scale.mean())} if adapted else {})

    def comparison(self, name: str, *, seed: int = 0) -> Comparison:
        """Sigma against its base on one of the spans."""
        steps = SPANS[name]
        base, sigma = (getattr(self, arm)[:, :steps].mean(axis=(1, 2)) for arm in ("base", "sigma"))
        return compare(base, sigma, self.episode, seed=seed)


@torch.no_grad()
def score_windows(
    model: SigmaTelepathyVLA,
    episodes: Sequence[CachedEpisode],
    assembler: Assembler,
    numbers: Sequence[int],
    feeder: PlainFeeder | None = None,
) -> WindowScores:
    """Every stride window of the episodes `numbers`, all side by side, memory kept from window to window.

    `feeder` is needed for the comparison arm alone; its whole change counts, as plain LoRA is used.
    """
    model.eval()
    stride = model.config.memory_stride
    rows = {n: tuple(row for row in episodes[n].rows if row % stride == 0) for n in numbers}
    pieces = [Piece(n, rows[n], fresh=True) for n in numbers if rows[n]]
    device = model.backbone.device
    previous = Recurrence.start(model.config, batch=len(pieces), device=device)
    found: list[dict[str, ndarray]] = []
    for step in range(max(len(piece.rows) for piece in pieces)):
        windows = assembler.windows(pieces, step).to(device)
        belief = model.believe(percepts_of(model, windows), previous)
        plain = model.believe(percepts_of(model, windows), previous, adapted=False)
        if feeder is None:
            residual = model.correct(belief, windows.states[:, -1], windows.base)
        else:
            ticks = [(piece.episode, piece.rows[min(step, len(piece.rows) - 1)]) for piece in pieces]
            residual = feeder.residual(ticks, windows.base)
        report = model.adapter().assess(
            telepathy_residual=residual.trajectory, telepathy_factors=belief.factors, alignment=belief.alignment
        )
        scale = report.scale if feeder is None else torch.ones_like(report.scale)  # it has no telepathy to judge by
        steps = windows.target.shape[1]
        base, added = windows.base[:, :steps].double(), residual.composite[:, :steps].double()
        values = {
            "base": (base - windows.target).square(),
            "sigma": (base + scale[:, None, None] * added - windows.target).square(),
            "full": (base + added - windows.target).square(),
            "scale": scale,
            "residual_rms": added[:, : model.config.trajectory_steps].square().mean(dim=(1, 2)).sqrt(),
            "tau_l2": torch.stack([plain.tau_l2, belief.tau_l2], dim=1).double(),
            "sem_align": torch.stack([plain.sem_align, belief.sem_align], dim=1).double(),
            "episode": torch.tensor([piece.episode for piece in pieces]),
        }
        present = windows.present.cpu().numpy()
        found.append({name: tensor.cpu().numpy()[present] for name, tensor in values.items()})
        previous = belief.recurrence
    return WindowScores(**{name: np.concatenate([part[name] for part in found]) for name in found[0]})


def usual(scores: WindowScores) -> References:
    """The adapter's references from the training windows: r_ref a percentile, tau_ref the median norm."""
    return References(r_ref=usual_size(scores), tau_ref=float(np.median(scores.tau_l2[:, 1])))


def usual_size(scores: WindowScores) -> float:
    """r_ref: how large a residual usually is."""
    return max(1e-6, float(np.percentile(scores.residual_rms, TYPICAL_RESIDUAL)))
