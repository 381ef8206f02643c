# SPDX-License-Identifier: Apache-2.0
"""The arms of storey A: what is trained, what is left out, and what is done to a trained model in the closed loop."""

from dataclasses import dataclass
from typing import Any, Literal

from sigma_ros.errors import UsageError
from sigma_ros.sim.tasks.interventions import Intervention

Kind = Literal["base", "sigma", "residual", "window"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to train.

    Attributes:
        name: For tables and files.
        kind: base: nothing is trained. sigma: the telepathy path. residual: branches and glance alone. window: a
            network over the 16-tick window in the telepathy path's place, with as many trained numbers as Sigma.
        off: Settings that are switched off.
        told: The text names the goal.
        mute: The text is left empty.
        forgets: Every window starts from an empty memory and empty factors.
        unroll: Windows through which a gradient flows; None: the episode.
        interventions: What is done to this arm's models in the closed loop, without training.
    """

    name: str
    kind: Kind = "sigma"
    off: tuple[str, ...] = ()
    told: bool = False
    mute: bool = False
    forgets: bool = False
    unroll: int | None = None
    interventions: tuple[Intervention, ...] = ()

    @property
    def recurrent(self) -> bool:
        """Whether anything goes from one window to the next."""
        return self.kind == "sigma" and not self.forgets and not {"memory", "film"} <= set(self.off)

    def changes(self) -> dict[str, Any]:
        """Settings that differ from Sigma's."""
        return {f"use_{name}": False for name in self.off}


_SIGMA = Arm(name="sigma", interventions=("reset", "swap", "other text"))

ARMS = {
    arm.name: arm
    for arm in (
        _SIGMA,
        Arm(name="no recurrence", forgets=True),
        Arm(name="base", kind="base"),
        Arm(name="window", kind="window"),
        Arm(name="residual", kind="residual"),
        Arm(name="oracle", told=True),
        Arm(name="without memory", off=("memory",)),
        Arm(name="without film", off=("film",)),
        Arm(name="without language", mute=True),
        Arm(name="unroll 4", unroll=4),
        *(Arm(name=f"without {part}", off=(part,)) for part in ("glance", "lora", "vector", "chunk", "trajectory")),
    )
}
"""By name, in the order in which they are run."""


def arm_named(name: str) -> Arm:
    """The arm of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in ARMS:
        raise UsageError("no such arm", expected=", ".join(ARMS), got=name)
    return ARMS[name]
