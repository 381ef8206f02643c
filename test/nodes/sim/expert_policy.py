# SPDX-License-Identifier: Apache-2.0
"""The policy node as a process around a model that knows the answer: it follows the scripted expert's episode.

Usage: expert_policy.py CONTRACT_FILE SEED [ROS arguments]
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from sigma_ros.stopping import ctrl_c_ends_at_once

if __name__ == "__main__":
    ctrl_c_ends_at_once()

sys.path.append(str(Path(__file__).resolve().parents[2] / "support"))

import numpy as np
from node_fakes import HORIZON, FakeRuntime, fake_model

from sigma_ros.contract_file import load_contract
from sigma_ros.nodes.policy.options import PolicyOptions
from sigma_ros.nodes.policy_node import PolicyNode
from sigma_ros.nodes.shared.process import run_node
from sigma_ros.sim.demonstration import demonstrate
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.setups import setup_named

AHEAD_TICKS = 15


class ExpertRuntime(FakeRuntime):
    """Goes on where the arm is in the expert's episode: never back, and not far ahead of the pose."""

    def __init__(self, contract, *, poses: np.ndarray, commands: np.ndarray) -> None:
        super().__init__(contract)
        self._poses, self._commands = poses, commands
        self._at = 0

    def step(self, window, state, **options):
        inference, state = super().step(window, state, **options)
        ahead = self._poses[self._at : self._at + AHEAD_TICKS]
        self._at += int(np.argmin(np.linalg.norm(ahead - window.newest.positions_rad, axis=1)))
        rows = np.minimum(self._at + 1 + np.arange(HORIZON), len(self._commands) - 1)
        base = self._commands[rows]
        chunk = replace(inference.chunk, base_rad=base, residual_rad=np.zeros_like(base))
        return replace(inference, chunk=chunk), state


def main() -> int:
    contract_file, seed, *arguments = sys.argv[1:]
    contract = load_contract(contract_file)
    with SimArm(setup_named("source"), contract=contract) as arm:
        episode = demonstrate(arm, int(seed))
    runtime = ExpertRuntime(contract, poses=episode.positions_rad, commands=episode.commands_rad)
    make = partial(PolicyNode, load=lambda _options, _logger: fake_model(contract, runtime))
    return run_node(make, PolicyOptions, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
