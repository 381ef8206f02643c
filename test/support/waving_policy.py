# SPDX-License-Identifier: Apache-2.0
"""The policy node as a process around a model that waves: two joints swing 0.2 rad and back every two seconds.

Usage: waving_policy.py CONTRACT_FILE INFERENCE_MS [ROS arguments]
"""

import sys
import time
from dataclasses import replace
from functools import partial

from sigma_ros.stopping import ctrl_c_ends_at_once

if __name__ == "__main__":
    ctrl_c_ends_at_once()  # as the executables in sigma_ros.starting

import numpy as np
from node_fakes import HORIZON, FakeRuntime, fake_model

from sigma_ros.contract_file import load_contract
from sigma_ros.nodes.policy.options import PolicyOptions
from sigma_ros.nodes.policy_node import PolicyNode
from sigma_ros.nodes.shared.process import run_node

SWING_RAD, PERIOD_TICKS = 0.2, 60
MOVED = (0, 4)


class WavingRuntime(FakeRuntime):
    """Steps follow a wave of the tick, from the pose the epoch began with; an inference takes a given time."""

    def __init__(self, contract, *, inference_s: float) -> None:
        super().__init__(contract)
        self._inference_s = inference_s
        self._home: tuple[int, np.ndarray] = (-1, np.zeros(0))

    def step(self, window, state, **options):
        time.sleep(self._inference_s)
        inference, state = super().step(window, state, **options)
        if self._home[0] != window.epoch:
            self._home = (window.epoch, window.newest.positions_rad)
        base = np.tile(self._home[1], (HORIZON, 1))
        phase = 2.0 * np.pi * (window.tick + np.arange(HORIZON)) / PERIOD_TICKS
        base[:, MOVED] += (0.5 * SWING_RAD * (1.0 - np.cos(phase)))[:, None]
        chunk = replace(inference.chunk, base_rad=base, residual_rad=np.zeros_like(base))
        return replace(inference, chunk=chunk), state


def main() -> int:
    contract_file, inference_ms, *arguments = sys.argv[1:]
    contract = load_contract(contract_file)
    runtime = WavingRuntime(contract, inference_s=float(inference_ms) * 1e-3)
    make = partial(PolicyNode, load=lambda _options, _logger: fake_model(contract, runtime))
    return run_node(make, PolicyOptions, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
