# SPDX-License-Identifier: Apache-2.0
"""What a frozen telepathy path believes at every cached window, computed once: a residual alone is then cheap to train.

Each phase of the stride has a memory of its own, as in a stream; a second pass sees the joints as if they had stood
still, so that `hide_motion` needs no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.telepathy import Recurrence, TelepathyOutput

from .losses import telepathy_input_of, without_motion
from .streams import Assembler, Segment, Windows

_DRAW_SEED = 6
_KEPT = ("factors", "intent", "glance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Believed:
    """Windows with what is believed there; `places` are their (episode, row), `hidden` the beliefs without motion."""

    telepathy_outputs: dict[str, Float[Tensor, "windows ..."]]
    hidden: dict[str, Float[Tensor, "windows ..."]]
    places: Int64[ndarray, "windows 2"]

    def draw(self, count: int, place: Sequence[int], *, hide_motion: float) -> tuple[list[int], list[bool]]:
        """Windows of a step and whether their motion is hidden: a pure function of `place` (seed, step, ...)."""
        rng = np.random.default_rng([_DRAW_SEED, *place])
        chosen = rng.integers(len(self.places), size=count)
        return chosen.tolist(), (rng.random(count) < hide_motion).tolist()

    def telepathy_output(
        self, model: SigmaTelepathyVLA, chosen: Sequence[int], hidden: Sequence[bool]
    ) -> TelepathyOutput:
        """What is believed at the chosen windows; what the residual does not read is blank."""
        flag = torch.tensor(hidden)
        parts = {
            name: torch.where(flag.reshape(-1, *[1] * (seen.ndim - 1)), self.hidden[name][chosen], seen[chosen])
            for name, seen in self.telepathy_outputs.items()
        }
        device = model.backbone.device
        blank = TelepathyOutput.blank(model.config, batch=len(chosen), device=device)
        return replace(blank, **{name: part.to(device) for name, part in parts.items()})


def believed(model: SigmaTelepathyVLA, assembler: Assembler, rows: Sequence[tuple[int, tuple[int, ...]]]) -> Believed:
    """Both passes over the given episodes' rows (`CachedEpisode.rows`); leaves the model in evaluation mode."""
    stride = model.config.memory_stride
    pieces = [
        Segment(number, kept, fresh=True)
        for number, all_rows in rows
        for phase in range(stride)
        if (kept := tuple(row for row in all_rows if row % stride == phase))
    ]
    telepathy_outputs, places = _pass(model, assembler, pieces, hide=False)
    return Believed(
        telepathy_outputs=telepathy_outputs, hidden=_pass(model, assembler, pieces, hide=True)[0], places=places
    )


@torch.no_grad()
def _pass(
    model: SigmaTelepathyVLA, assembler: Assembler, pieces: Sequence[Segment], *, hide: bool
) -> tuple[dict[str, Tensor], Int64[ndarray, "windows 2"]]:
    model.eval()
    previous = Recurrence.start(model.config, batch=len(pieces), device=model.backbone.device)
    found: list[dict[str, Tensor]] = []
    places: list[tuple[int, int]] = []
    for step in range(max(len(piece.rows) for piece in pieces)):
        windows: Windows = assembler.windows(pieces, step).to(model.backbone.device)
        telepathy_input = telepathy_input_of(model, windows)
        if hide:
            telepathy_input = replace(telepathy_input, states=without_motion(telepathy_input, share=1.0))
        telepathy_output = model.believe(telepathy_input, previous)
        previous = telepathy_output.recurrence
        found.append({name: getattr(telepathy_output, name)[windows.present].cpu() for name in _KEPT})
        places += [(piece.episode, piece.rows[step]) for piece in pieces if step < len(piece.rows)]
    return {name: torch.cat([part[name] for part in found]) for name in _KEPT}, np.array(places)
