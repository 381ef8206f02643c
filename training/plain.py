# SPDX-License-Identifier: Apache-2.0
"""The comparison arm: pi0.5's own loss through adapters in its prefix, on the same windows as Sigma."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sigma_ros.model.normalise import Normalisation
from sigma_ros.model.pi05.flow import flow_noise
from sigma_ros.model.residual import Residual
from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.tokens import CameraMapping

from .cache import CachedEpisode

Tick = tuple[int, int]
"""Episode (by place in the data set) and row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseInputs:
    """What the base reads at some ticks."""

    image_tokens: Float[Tensor, "batch cameras patches width"]
    image_mask: Tensor
    tokens: Tensor
    mask: Tensor


class PlainFeeder:
    """Reads pictures, prompts and chunks of actions of single ticks; nothing of it is cached."""

    def __init__(
        self,
        model: SigmaTelepathyVLA,
        episodes: Sequence[CachedEpisode],
        normalisation: Normalisation,
        *,
        mapping: CameraMapping,
        cache_seed: int,
    ) -> None:
        self._model = model
        self._episodes = episodes
        self._normalisation = normalisation
        self._mapping = mapping
        self._cache_seed = cache_seed
        self._states = [normalisation.state.normalise(e.episode.states) for e in episodes]

    @torch.no_grad()
    def inputs(self, ticks: Sequence[Tick]) -> BaseInputs:
        """The base's inputs."""
        backbone = self._model.backbone
        frames = np.concatenate([self._episodes[n].episode.frames(row, row + 1) for n, row in ticks])
        pairs = [backbone.tokenize(self._episodes[n].episode.task, self._states[n][row : row + 1]) for n, row in ticks]
        return BaseInputs(
            image_tokens=self._mapping.patches(self._mapping.images(frames), backbone),
            image_mask=self._mapping.mask(len(ticks), backbone.device),
            tokens=torch.cat([tokens for tokens, _ in pairs]),
            mask=torch.cat([mask for _, mask in pairs]),
        )

    def actions(self, ticks: Sequence[Tick]) -> Float[Tensor, "batch horizon max_dof"]:
        """Normalised recorded actions over the base's horizon, padded to its action size."""
        backbone = self._model.backbone
        rows = [self._episodes[n].episode.actions_from(row, backbone.horizon) for n, row in ticks]
        actions = torch.from_numpy(self._normalisation.action.normalise(np.stack(rows)))
        return nn.functional.pad(actions, (0, backbone.max_dof - actions.shape[2])).to(backbone.device)

    @torch.no_grad()
    def residual(self, ticks: Sequence[Tick], base: Float[Tensor, "batch horizon dof"]) -> Residual:
        """What the adapters change of the base's chunk, from the same noise as the cached one."""
        backbone, plain = self._model.backbone, self._model.plain
        assert plain is not None
        sizes = {"horizon": backbone.horizon, "max_dof": backbone.max_dof}
        noise = torch.cat(
            [
                flow_noise(seed=self._cache_seed, epoch=1 + self._episodes[n].episode.episode, tick=row, **sizes)
                for n, row in ticks
            ]
        )
        given = self.inputs(ticks)
        chunk = plain.adapted.base_chunk(given.image_tokens, given.image_mask, given.tokens, given.mask, noise)
        return Residual(composite=chunk[..., : base.shape[2]] - base, config=self._model.config)


class PlainLossModule(nn.Module):
    """Flow-matching loss of the adapted base; a module, so that Accelerate can wrap it."""

    def __init__(self, model: SigmaTelepathyVLA, feeder: PlainFeeder) -> None:
        super().__init__()
        self.model = model
        self._feeder = feeder

    def forward(self, ticks: Sequence[Tick], generator: torch.Generator) -> Float[Tensor, " batch"]:
        """Loss per tick over the robot's joints."""
        model, given = self.model, self._feeder.inputs(ticks)
        assert model.plain is not None
        core, device = model.backbone.policy.model, model.backbone.device
        noise = torch.randn(len(ticks), model.backbone.horizon, model.backbone.max_dof, generator=generator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(1 << 62, (1,), generator=generator)))
            time = core.sample_time(len(ticks), torch.device("cpu"))
        adapted = model.plain.adapted
        losses = adapted.flow_loss(
            adapted.prefix(given.image_tokens, given.image_mask, given.tokens, given.mask),
            actions=self._feeder.actions(ticks),
            noise=noise.to(device)[:, None],
            time=time.to(device)[:, None],
        )[:, 0]
        return losses[..., : model.config.dof].mean(dim=(1, 2))
