# SPDX-License-Identifier: Apache-2.0
"""Demonstrations with the frozen base's chunks of every tick: what the trainer reads."""

import torch

from sigma_ros.model.normalise import Normalisation
from sigma_ros.model.settings import SigmaConfig

from .base import BasePolicy
from .episodes import BedEpisode, Demonstrations, encode


def bed_episodes(
    demonstrations: Demonstrations, base: BasePolicy, normalisation: Normalisation, config: SigmaConfig
) -> list[BedEpisode]:
    """Every demonstration, encoded once."""
    return [
        BedEpisode(
            episode=row,
            tokens=encode(row.features, config.width),
            chunks=base.chunk(
                row.features, torch.from_numpy(normalisation.state.normalise(row.states)), config.horizon
            ),
        )
        for row in demonstrations.rows
    ]
