# SPDX-License-Identifier: Apache-2.0
"""What of a training step never changes: frame tokens and base chunks of a frozen base, computed once per data set.

One safetensors file per episode in `<data folder>/cache/<key>/`; the key is over data, base, seed and phases, so a
stale cache is never found. Interrupted, it resumes.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors import safe_open
from torch import Tensor

from sigma_ros.model.normalise import Normalisation
from sigma_ros.model.pi05.flow import flow_noise
from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.tokens import CameraMapping, pool_tokens

from .data import EpisodeRows, ShardData, write_tensors
from .loop import counted_progress
from .progress import estimate
from .sources import windows_of

TICKS_AT_ONCE = 16
"""Ticks whose pictures go through the vision tower together."""

_FEW_PIECES = 8
"""Of so little work the time is not told."""

_FORMAT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """What the cached numbers depend on besides data and base: the noise's seed, and every `phase_step`-th tick."""

    seed: int
    phase_step: int


class CachedEpisode:
    """One episode as training sees it. `rows` are the ticks for which there is a base chunk, ascending."""

    def __init__(self, episode: EpisodeRows, path: Path) -> None:
        self.episode = episode
        self._file: Any = safe_open(str(path), framework="pt")
        self.rows: tuple[int, ...] = tuple(self._file.get_tensor("rows").tolist())
        self.seen: Bool[Tensor, " cameras"] = self._file.get_tensor("seen")
        self._place = {row: place for place, row in enumerate(self.rows)}

    def pooled(self, start: int, stop: int) -> Float[Tensor, "ticks cameras pooled width"]:
        """Pooled frame tokens of the ticks [start, stop)."""
        return self._file.get_slice("pooled")[start:stop]

    def base(self, row: int) -> Float[Tensor, "horizon dof"]:
        """The base's normalised chunk at one of `rows`."""
        return self._file.get_slice("base")[self._place[row]]

    def ages(self, row: int, oldest: int) -> tuple[int, ...]:
        """Ages [ticks] up to `oldest` at which a base chunk was cached, seen from one of `rows`; 0 is one of them."""
        return tuple(age for age in range(oldest + 1) if row - age in self._place)


def cache_key(
    data: ShardData,
    model: SigmaTelepathyVLA,
    normalisation: Normalisation,
    settings: CacheSettings,
    *,
    mapping: CameraMapping,
    base_fingerprint: str,
) -> str:
    """Names the folder of a cache: data, base and settings, and how states and pictures come to the base."""
    backbone = model.backbone
    pictures = None if backbone.pictures is None else backbone.pictures.as_dict()
    given = [normalisation.as_dict(), mapping.cameras, pictures, str(backbone.dtype)]
    text = json.dumps([_FORMAT, data.meta.hash, base_fingerprint, settings.seed, settings.phase_step, *given])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cached_episodes(
    data: ShardData,
    model: SigmaTelepathyVLA,
    normalisation: Normalisation,
    settings: CacheSettings,
    *,
    mapping: CameraMapping,
    base_fingerprint: str,
) -> list[CachedEpisode]:
    """Every episode with its cached numbers, in the order of `data.episodes`; makes what is missing."""
    key = cache_key(data, model, normalisation, settings, mapping=mapping, base_fingerprint=base_fingerprint)
    folder = data.folder / "cache" / key
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / episode.path.name for episode in data.episodes]
    missing = [(e, p) for e, p in zip(data.episodes, paths, strict=True) if not p.is_file()]
    if missing:
        given = (model, normalisation, settings, mapping)
        _say_time([episode for episode, _ in missing], lambda one: _compute(one, *given, stop=TICKS_AT_ONCE))
        with counted_progress() as progress:
            for episode, path in progress.track(missing, description="base chunks and frame tokens"):
                if not path.is_file():  # another run on the same data may have made it by now
                    write_tensors(path, _compute(episode, *given))
    return [CachedEpisode(e, p) for e, p in zip(data.episodes, paths, strict=True)]


def _say_time(episodes: Sequence[EpisodeRows], look: Callable[[EpisodeRows], object]) -> None:
    """How long the base will look at the episodes, unless finding that out took as long."""
    pieces = sum(-(-episode.ticks // TICKS_AT_ONCE) for episode in episodes)
    if pieces > _FEW_PIECES:
        took_s = estimate.measured(lambda: look(episodes[0]))
        estimate.say(
            f"estimate: {estimate.span(took_s, pieces)} until the base has looked at {len(episodes)} episodes, "
            f"from {TICKS_AT_ONCE} of their ticks"
        )


@torch.no_grad()
def _compute(
    episode: EpisodeRows,
    model: SigmaTelepathyVLA,
    normalisation: Normalisation,
    settings: CacheSettings,
    mapping: CameraMapping,
    *,
    stop: int | None = None,
) -> dict[str, Tensor]:
    backbone, rows = model.backbone, windows_of(episode, settings.phase_step)
    wanted = set(rows)
    states = normalisation.state.normalise(episode.states)
    sizes = {"horizon": backbone.horizon, "max_dof": backbone.max_dof}
    pooled, chunks = [], []
    for start, tokens in _frame_tokens(episode, model, mapping, stop or episode.ticks):
        flat = pool_tokens(tokens.flatten(0, 1), model.config.pooled_grid)
        pooled.append(flat.unflatten(0, tokens.shape[:2]).to(backbone.dtype).cpu())
        here = [row for row in range(start, start + len(tokens)) if row in wanted]
        if here:
            pairs = [backbone.tokenize(episode.task, states[row : row + 1]) for row in here]
            # epochs of the robot count from 0 too, but no episode may meet the noise it was trained on
            noise = [flow_noise(seed=settings.seed, epoch=1 + episode.episode, tick=row, **sizes) for row in here]
            chosen = tokens[[row - start for row in here]]
            chunk = backbone.base_chunk(
                chosen,
                mapping.mask(len(here), backbone.device),
                torch.cat([tokens for tokens, _ in pairs]),
                torch.cat([mask for _, mask in pairs]),
                torch.cat(noise),
            )
            chunks.append(chunk[..., : model.config.dof].to(torch.float32).cpu())
    empty = torch.zeros(0, backbone.horizon, model.config.dof)
    return {
        "rows": torch.tensor(rows, dtype=torch.int64),
        "seen": mapping.seen,
        "pooled": torch.cat(pooled),
        "base": torch.cat(chunks) if chunks else empty,
    }


def _frame_tokens(
    episode: EpisodeRows, model: SigmaTelepathyVLA, mapping: CameraMapping, stop: int
) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, stop, TICKS_AT_ONCE):
        images = mapping.images(episode.frames(start, start + TICKS_AT_ONCE))
        yield start, mapping.patches(images, model.backbone)
