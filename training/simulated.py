# SPDX-License-Identifier: Apache-2.0
"""Demonstrations of the simulated arm as arrays, without bags and JPEG: a third of the time of recording them first."""

from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from sigma_ros.contract import Contract
from sigma_ros.control.images import letterbox
from sigma_ros.sim.demonstration import Demonstration, demonstrate, demonstrations
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.recorder import check_recordable
from sigma_ros.sim.setups import setup_named

from .shards import EpisodeArrays
from .sources import MadeSource


def simulated_sources(
    setup: str, contract: Contract, *, count: int, seed: int, disturbance_rad: float
) -> list[MadeSource]:
    """The episodes that `sigma record --sim` with these settings keeps: those in which the brick ends in the box.

    Raises:
        UsageError: there is no such set-up.
        ContractError: the simulator cannot fill the contract's cameras.
    """
    scene = setup_named(setup)
    check_recordable(contract, scene.camera_names)
    with SimArm(scene, contract=contract) as arm:
        attempts = demonstrations(arm, seed, disturbance_rad=disturbance_rad)
        seeds = [kept.seed for kept in islice((d for d in attempts if d is not None and d.success), count)]
    wanted = partial(_Wanted, setup=setup, contract=contract, disturbance_rad=disturbance_rad)
    return [
        MadeSource(name=f"simulated {setup}, seed {own}", number=i, make=wanted(seed=own, number=i).make)
        for i, own in enumerate(seeds)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    setup: str
    contract: Contract
    disturbance_rad: float
    seed: int
    number: int

    def make(self, image_size_px: int) -> EpisodeArrays:
        contract = self.contract
        with SimArm(setup_named(self.setup), contract=contract) as arm:
            shown = demonstrate(arm, self.seed, disturbance_rad=self.disturbance_rad)
            return EpisodeArrays(
                episode=self.number,
                task=contract.tasks[0],
                frames=_pictures(arm, shown, image_size_px),
                states=np.stack([contract.to_policy(row) for row in shown.positions_rad]).astype(np.float32),
                actions=np.stack([contract.to_policy(row) for row in shown.commands_rad]).astype(np.float32),
                valid=np.ones(shown.ticks, dtype=bool),
                acted=np.ones(shown.ticks, dtype=bool),
            )


def _pictures(arm: SimArm, shown: Demonstration, size_px: int) -> np.ndarray:
    names = [camera.name for camera in arm.contract.cameras]
    return np.stack([[letterbox(arm.draw(state, name), size_px) for name in names] for state in shown.states])
