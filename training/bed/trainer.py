# SPDX-License-Identifier: Apache-2.0
"""Trains one arm on one task: the streams, windows and losses of `training.train`, on scene tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sigma_ros.model.normalise import Normalisation
from sigma_ros.model.telepathy import Recurrence

from ..loop import optimizer_of, refuse_nan, warmup_cosine
from ..losses import LossWeights, SigmaLossModule, carried, total, traf_weights
from ..options import PARTS
from ..streams import Assembler, StreamPlace, Streams, Windows
from .arms import Arm
from .episodes import NOISE, SEEN, BedEpisode, encoder
from .model import BedSigma

_GLANCED_EVERY = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How an arm is trained.

    `streams` episodes are read at once; an arm with shorter pieces reads more of them, so that every arm sees about
    as many windows in a step. The semantic losses are off: here the actions alone decide what is remembered.

    `learning_rate` is that of the telepathy path; the residual learns `residual_gain` times as fast. Adam moves a
    weight by the whole rate however small its gradient: with one rate for all, glance and intent shrank to constants
    within 25 steps, to be rid of the noise of the new layers beside a good base, before these had learned to read them.
    """

    steps: int = 600
    streams: int = 16
    learning_rate: float = 2e-4
    weight_decay: float = 1e-4
    residual_gain: float = 5.0
    warmup_share: float = 0.05
    clip_norm: float = 1.0
    phase_step: int = 2
    losses: LossWeights = field(default_factory=lambda: LossWeights(semantic=0.0, intent=0.0, tau=0.0))


def train_arm(
    model: BedSigma,
    episodes: Sequence[BedEpisode],
    normalisation: Normalisation,
    recipe: Recipe,
    *,
    seed: int,
    goes_on: bool = False,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
) -> float:
    """Trains in place, a model that has been trained if it `goes_on`; the mean loss of the last tenth of the steps."""
    torch.manual_seed(seed)
    if not goes_on:
        _start_glance(model, episodes)
    run = _Run(model, episodes, normalisation, recipe, seed)
    losses = []
    for step in range(recipe.steps):
        losses.append(run.advance(step))
        on_step(step, losses[-1])
    model.eval()
    last = losses[-max(1, recipe.steps // 10) :]
    return sum(last) / len(last)


def unroll_of(arm: Arm) -> int | None:
    """An arm without recurrence learns the same from single windows, all in one batch."""
    return arm.unroll if arm.recurrent else 1


class _Run:
    def __init__(
        self,
        model: BedSigma,
        episodes: Sequence[BedEpisode],
        normalisation: Normalisation,
        recipe: Recipe,
        seed: int,
    ) -> None:
        self._model, self._recipe = model, recipe
        config, unroll = model.config, unroll_of(model.arm)
        sizes = {"stride": config.memory_stride, "phase_step": recipe.phase_step, "seed": seed}
        whole = Streams(episodes, **sizes)
        self._streams = Streams(episodes, **sizes, unroll=unroll)
        self._count = round(recipe.streams * whole.windows_per_piece / self._streams.windows_per_piece)
        self._assembler = Assembler(episodes, normalisation)  # type: ignore[arg-type]  # the same by structure
        self._places = [StreamPlace()] * self._count
        self._memory = Recurrence.start(config, batch=self._count)
        self._trainee = SigmaLossModule(model)
        self._parameters = list(model.trained().values())
        self._optimizer = optimizer_of(
            model.trained(), recipe.weight_decay, gains={PARTS["residual"]: recipe.residual_gain}
        )

    def advance(self, step: int) -> float:
        """One optimiser step; returns its loss."""
        recipe = self._recipe
        self._model.train()
        rate = recipe.learning_rate * warmup_cosine(
            step, total=recipe.steps, warmup=max(1, round(recipe.warmup_share * recipe.steps))
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["gain"]
        loss, names = self._loss(step / recipe.steps)
        refuse_nan(float(loss.detach()), step=step, samples=names)
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, recipe.clip_norm)
        self._optimizer.step()
        return float(loss.detach())

    def _loss(self, progress: float) -> tuple[Tensor, list[str]]:
        taken = [self._streams.next(i, place) for i, place in enumerate(self._places)]
        pieces, self._places = [piece for piece, _ in taken], [place for _, place in taken]
        steps = max(len(piece.rows) for piece in pieces)
        windows = [_noisy(self._assembler.windows(pieces, i)) for i in range(steps)]
        previous = carried(self._memory, [piece.fresh for piece in pieces])
        outcome = self._trainee(windows, previous, sorted(set(windows[0].tasks)))
        self._memory = Recurrence(memory=outcome.memory.detach(), factors=outcome.factors.detach())
        present = torch.cat([window.present for window in windows])
        error = torch.cat([window.base_error for window in windows])
        losses = self._recipe.losses
        weights = traf_weights(error, present, enabled=losses.traf)
        loss, _ = total(outcome.terms, weights, present, losses, progress=progress, count=float(present.sum()))
        return loss, [name for window in windows for name in window.names]


def _noisy(windows: Windows) -> Windows:
    """The same windows seen a little wrong, as the base was taught; what is not there stays zero."""
    there = (windows.pooled != 0.0).any(dim=-1, keepdim=True)
    noise = NOISE * torch.randn(*windows.pooled.shape[:-1], SEEN) @ encoder(windows.pooled.shape[-1])
    states = windows.states + NOISE * torch.randn_like(windows.states) * windows.valid[..., None]
    return replace(windows, pooled=windows.pooled + noise * there, states=states)


def _start_glance(model: BedSigma, episodes: Sequence[BedEpisode]) -> None:
    if model.telepathy is None or model.telepathy.glance is None:
        return
    model.telepathy.glance.start_from(
        (tokens, e.seen.expand(len(tokens), -1))
        for e in episodes
        for tokens in (e.pooled(0, len(e.episode.states))[::_GLANCED_EVERY],)
    )
