# SPDX-License-Identifier: Apache-2.0
"""python -m training.trials.readout: how far a coming choice can be read where in Sigma, window after window.

The choice is the side on which an episode ends: in which of two groups the last pose of the joint is that varies
most. A ridge regression on pictures (pooled tokens), glance, memory, intent and factors tells it, cross-validated over
episodes. Half is chance; a cue that is read at first and lost later is one that the memory does not keep.

Example:
    python -m training.trials.readout --checkpoint out/m1/checkpoint --dataset_dir out/shards_m1 --base_model_id mini
"""

import sys
from collections.abc import Mapping, Sequence
from tempfile import TemporaryDirectory

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float
from numpy import ndarray
from rich.console import Console
from torch import Tensor

from sigma_ros.model.telepathy import Recurrence

from .. import exit_code, in_range
from .. import parser as command_parser
from ..losses import telepathy_input_of
from ..options import TrainOptions
from ..run import Run
from ..streams import Segment

FOLDS = 5
RIDGE = 0.1
"""Penalty for each standardised feature, times their number (our choice)."""


def sides(ends: Float[ndarray, "episodes dof"]) -> Bool[ndarray, " episodes"]:
    """In which of two groups the joint ends whose end varies most: they are split where they lie furthest apart.

    argmax_k k (n - k) (mean of the k lowest - mean of the others)^2 (Otsu 1979).
    """
    end = ends[:, int(np.argmax(ends.std(axis=0)))]
    ranked, count = np.sort(end), np.arange(1, len(end))
    below = ranked.cumsum()[:-1]
    apart = count * (len(end) - count) * (below / count - (ranked.sum() - below) / (len(end) - count)) ** 2
    split = int(np.argmax(apart))
    return np.asarray(end > (ranked[split] + ranked[split + 1]) / 2)


def read_right(features: Float[ndarray, "episodes features"], side: Bool[ndarray, " episodes"]) -> float:
    """Share of episodes whose side a ridge regression on the other folds' episodes tells.

    w = X^T (X X^T + lambda I)^-1 (y - mean y), lambda = RIDGE * features: there are more features than episodes.
    """
    spread = features.std(axis=0)
    x = (features - features.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    fold, right = np.arange(len(side)) % FOLDS, 0
    for held_out in range(FOLDS):
        known, asked = fold != held_out, fold == held_out
        y = side[known].astype(np.float64)
        kernel = x[known] @ x[known].T + RIDGE * x.shape[1] * np.eye(known.sum())
        told = x[asked] @ (x[known].T @ np.linalg.solve(kernel, y - y.mean())) + y.mean()
        right += int(((told > 0.5) == side[asked]).sum())
    return right / len(side)


@torch.no_grad()
def readouts(run: Run, windows: int) -> list[dict[str, float]]:
    """For each of the first windows of all episodes, one stride apart: the share read right, part by part."""
    run.model.eval()
    stride = run.model.config.memory_stride
    rows = [tuple(r for r in episode.rows if r % stride == 0)[:windows] for episode in run.episodes]
    pieces = [Segment(number, kept, fresh=True) for number, kept in enumerate(rows) if len(kept) == windows]
    side = sides(np.stack([_end(run, piece.episode) for piece in pieces]))
    previous = Recurrence.start(run.model.config, batch=len(pieces), device=run.model.backbone.device)
    found = []
    for step in range(windows):
        seen = telepathy_input_of(run.model, run.assembler.windows(pieces, step).to(previous.memory.device))
        output = run.model.believe(seen, previous)
        previous = output.recurrence
        parts: Mapping[str, Tensor] = {
            "pictures": seen.pooled[:, -1],
            **{name: getattr(output, name) for name in ("glance", "memory", "intent", "factors")},
        }
        found.append({name: read_right(part.flatten(1).double().cpu().numpy(), side) for name, part in parts.items()})
    return found


def _end(run: Run, number: int) -> Float[ndarray, " dof"]:
    episode = run.data.episodes[number]
    return np.asarray(episode.actions[np.flatnonzero(episode.acted)[-1]], dtype=np.float64)


def table(found: Sequence[Mapping[str, float]], *, seconds: float) -> str:
    """Markdown, a row for each window."""
    names = list(found[0])
    lines = ["| after | " + " | ".join(names) + " |", "| ---: |" + " ---: |" * len(names)]
    for step, row in enumerate(found):
        lines.append(f"| {step * seconds:.1f} s | " + " | ".join(f"{100 * row[name]:.0f} %" for name in names) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Entry point; see `python -m training.trials.readout --help`."""
    parser = command_parser("trials.readout", __doc__)
    parser.add_argument("--checkpoint", required=True, help="folder of a trained Sigma, or mini")
    parser.add_argument("--dataset_dir", required=True, help="shards of preprocess, of one task with two ways")
    parser.add_argument("--base_model_id", default="mini", help="what it was trained on (default: mini)")
    parser.add_argument("--windows", type=in_range(1, 1000), default=14, help="how many, a stride apart (default: 14)")
    given = parser.parse_args(argv)

    def work() -> int:
        with TemporaryDirectory() as place:
            options = TrainOptions(
                base_model_id=given.base_model_id,
                dataset_dir=given.dataset_dir,
                output_dir=place,
                start_from=given.checkpoint,
                phase_step=8,
            )
            run = Run(options, Accelerator())
        seconds = run.model.config.memory_stride / run.data.meta.fps
        Console(markup=False, soft_wrap=True).print(table(readouts(run, given.windows), seconds=seconds))
        return 0

    return exit_code(work, interrupted="interrupted")


if __name__ == "__main__":
    sys.exit(main())
