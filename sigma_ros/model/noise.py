# SPDX-License-Identifier: Apache-2.0
"""Flow-matching noise as a pure function of (seed, epoch, tick).

Philox 4x64 (a counter-based generator whose raw stream numpy guarantees) is keyed by (seed, epoch) and
counted from the tick; Box-Muller in float64 turns it into normals, rounded to float32. Nothing depends
on the device, on call order or on torch's generators. Between machines only a last-bit difference of
`log`, `sin` or `cos` that falls onto a float32 rounding edge can show (below 1e-7 per number).
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_UNIT = 2.0**-53


def flow_noise(*, seed: int, epoch: int, tick: int, horizon: int, max_dof: int) -> Float[Tensor, "1 horizon max_dof"]:
    """Standard normal float32 noise on the CPU; seed, epoch and tick in [0, 2**63)."""
    for name, value in (("seed", seed), ("epoch", epoch), ("tick", tick)):
        if not 0 <= value < 2**63:
            raise ValueError(f"{name} must be in [0, 2**63), got {value}")
    count = horizon * max_dof
    pairs = (count + 1) // 2
    stream = np.random.Philox(key=[seed, epoch], counter=[0, 0, tick, 0])
    bits = stream.random_raw(2 * pairs).reshape(2, pairs)
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * _UNIT
    radius = np.sqrt(-2.0 * np.log(uniform[0]))
    angle = 2.0 * np.pi * uniform[1]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
    return torch.from_numpy(normal.astype(np.float32)).reshape(1, horizon, max_dof)
