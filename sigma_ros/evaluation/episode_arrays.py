# SPDX-License-Identifier: Apache-2.0
"""The numbers of an episode in contiguous arrays, and its windows by index: no message is touched twice."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from sigma_ros.bags.episode import episode
from sigma_ros.bags.reader import Bag
from sigma_ros.contract import Contract
from sigma_ros.values import WINDOW_TICKS


@dataclass(frozen=True, slots=True, kw_only=True)
class NumericWindows:
    """Windows of several ticks, oldest tick first; where `mask` is False the positions are padding."""

    positions_rad: Float64[ndarray, "windows 16 dof"]
    mask: Bool[ndarray, "windows 16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeArrays:
    """One row per tick of a recording. Rows of gaps, and actions that are not known, are NaN."""

    stamps_ns: Int64[ndarray, " ticks"]
    epochs: Int64[ndarray, " ticks"]
    positions_rad: Float64[ndarray, "ticks dof"]
    actions_rad: Float64[ndarray, "ticks dof"]
    valid: Bool[ndarray, " ticks"]

    @classmethod
    def read(cls, bag: Bag, contract: Contract) -> Self:
        """Runs the frame clock over a bag without decoding its images.

        The ticks are those of `episode`, but for images that turn out to be undecodable.
        """
        ticks = list(episode(bag, contract, image_size_px=None))
        nothing = np.full(contract.dof, np.nan)
        return cls(
            stamps_ns=np.array([tick.item.stamp_ns for tick in ticks], dtype=np.int64),
            epochs=np.array([tick.item.epoch for tick in ticks], dtype=np.int64),
            positions_rad=_rows([tick.joint_rad for tick in ticks], nothing),
            actions_rad=_rows([tick.action_rad for tick in ticks], nothing),
            valid=np.array([tick.window is not None for tick in ticks]),
        )

    def windows(self, rows: Int64[ndarray, " windows"]) -> NumericWindows:
        """The windows whose newest ticks are `rows` (valid ones), exactly as the frame clock makes them."""
        places = rows[:, None] + np.arange(1 - WINDOW_TICKS, 1)
        inside = np.maximum(places, 0)
        mask = (places >= 0) & self.valid[inside] & (self.epochs[inside] == self.epochs[rows][:, None])
        neighbours = np.maximum.accumulate(np.where(mask, places, -1), axis=1)
        first = places[np.arange(len(rows)), mask.argmax(axis=1)]
        neighbours = np.where(neighbours < 0, first[:, None], neighbours)
        return NumericWindows(positions_rad=self.positions_rad[neighbours], mask=mask)

    def action_chunks(self, rows: Int64[ndarray, " windows"], steps: int) -> Float64[ndarray, "windows steps dof"]:
        """The recorded actions of `rows` and the ticks after; NaN beyond the epoch."""
        places = rows[:, None] + np.arange(steps)
        inside = np.minimum(places, len(self.valid) - 1)
        same = (places == inside) & (self.epochs[inside] == self.epochs[rows][:, None])
        return np.where(same[:, :, None], self.actions_rad[inside], np.nan)


def _rows(values: list[ndarray | None], nothing: ndarray) -> Float64[ndarray, "ticks dof"]:
    return np.array([nothing if value is None else value for value in values])
