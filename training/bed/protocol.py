# SPDX-License-Identifier: Apache-2.0
"""The registered numbers of docs/protocol.md as code, and the hash of that page."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from .trainer import Recipe

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"

DEVELOPMENT_SEED, FINAL_SEED, DEMONSTRATION_SEED, ARM_LED_SEED = 30_000, 70_000, 20_000, 25_000
"""First episode seeds: for trying out, for the one final run, for demonstrations, and for those that an arm led.
They never overlap. Versions 1, 2 and 3 of the protocol played those from 40000, 50000 and 60000."""

TASKS = ("L1", "L2", "M1", "M2", "M3", "O1", "V1", "C1", "P1")
"""In the order in which they are run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How much is trained and played.

    So many `demonstrations` are made by the expert alone, and as many where the base has led first: in each of
    `base_rounds` for the base itself, and once for the arms. Then each arm leads as many itself and goes on training,
    `arm_rounds` times, the recipe's steps each time.
    `final` plays the locked seeds; anything else is development and says so in its report.
    """

    demonstrations: int = 100
    base_rounds: int = 2
    arm_rounds: int = 1
    base_steps: int = 3000
    recipe: Recipe = field(default_factory=Recipe)
    training_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    episodes: int = 25
    final: bool = True

    @property
    def episode_seeds(self) -> range:
        """Seeds of the episodes that every arm and every training seed plays."""
        first = FINAL_SEED if self.final else DEVELOPMENT_SEED
        return range(first, first + self.episodes)

    @classmethod
    def reduced(cls) -> Self:
        """To see that everything runs: numbers that mean nothing."""
        return cls(
            demonstrations=8,
            base_rounds=1,
            base_steps=20,
            recipe=Recipe(steps=2),
            training_seeds=(0,),
            episodes=2,
            final=False,
        )


def page_hash() -> str:
    """SHA-256 of the registered page; it stands in every report."""
    return hashlib.sha256(PAGE.read_bytes()).hexdigest()
