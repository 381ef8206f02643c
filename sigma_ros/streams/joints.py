# SPDX-License-Identifier: Apache-2.0
"""Joint values of a message into contract order, by name."""

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.errors import ContractError


class JointReader:
    """Orders by name and refuses what is not complete and finite; remembers the last message's names.

    Publishers repeat the same names, so the look-up is made once.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._names: tuple[str, ...] = ()
        self._order = np.zeros(0, dtype=np.intp)

    def read(self, names: tuple[str, ...], values: Float64[ndarray, " n"]) -> Float64[ndarray, " dof"]:
        """A read-only copy of the contract's joints; others are left out.

        Raises:
            ContractError: names repeat or are missing, do not match the values, or a value is not finite.
        """
        if len(names) != len(values):
            raise ContractError("names and positions differ in number", expected=len(names), got=len(values))
        if names != self._names or not self._names:
            self._order = self._contract.joint_order(names)
            self._names = names
        ordered = np.asarray(values, dtype=np.float64)[self._order]
        if not np.isfinite(ordered).all():
            raise ContractError("position is not finite", got=ordered.tolist())
        ordered.flags.writeable = False
        return ordered
