# SPDX-License-Identifier: Apache-2.0
"""Numeric windows (16 states, 50 actions) out of a bag against row-by-row queries of a LeRobotDataset.

Both hold the same states and actions, without images. Asked: at least 100 times as many windows a second.
Run: python bench/bench_windows.py
"""

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Bool, Float64, Int64
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from numpy import ndarray
from shared.side_by_side import interleaved, table

from sigma_ros.bags.episode import Episode
from sigma_ros.bags.reader import Bag, open_bag
from sigma_ros.bags.writer import BagWriter
from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.values import WINDOW_TICKS

FULL = load_contract("so101")
CONTRACT = replace(FULL, cameras=tuple(replace(camera, width_px=16, height_px=16) for camera in FULL.cameras))
ACTIONS = 50
SAMPLES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class NumericWindows:
    """Windows of several ticks, oldest tick first; where `mask` is False the positions are padding."""

    positions_rad: Float64[ndarray, "windows 16 dof"]
    mask: Bool[ndarray, "windows 16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeArrays:
    """One row per tick of a recording. Rows of gaps, and actions that are not known, are NaN."""

    epochs: Int64[ndarray, " ticks"]
    positions_rad: Float64[ndarray, "ticks dof"]
    actions_rad: Float64[ndarray, "ticks dof"]
    valid: Bool[ndarray, " ticks"]

    @classmethod
    def read(cls, bag: Bag, contract: Contract) -> Self:
        """Runs the frame clock over a bag without decoding its images.

        The ticks are those of `episode`, but for images that turn out to be undecodable.
        """
        ticks = list(Episode(bag, contract, image_size_px=None))
        nothing = np.full(contract.dof, np.nan)
        return cls(
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


def pose(tick: int) -> np.ndarray:
    return np.sin(0.01 * tick + np.arange(CONTRACT.dof))


def write_bag(path: Path, contract: Contract, ticks: int) -> Path:
    picture = np.zeros((16, 16, 3), dtype=np.uint8)
    with BagWriter(path) as bag:
        for tick in range(ticks):
            stamp_ns = 10**18 + contract.tick_offset_ns(tick)
            for camera in contract.cameras:
                bag.image(camera.topic, stamp_ns, camera.name, picture)
            bag.joints(contract.joint_state_topic, stamp_ns, contract.joint_names, pose(tick))
            bag.array(contract.command_topic, stamp_ns, pose(tick + 1))
    return path


def write_dataset(root: Path, contract: Contract, ticks: int) -> LeRobotDataset:
    feature = {"dtype": "float32", "shape": (contract.dof,), "names": list(contract.joint_names)}
    dataset = LeRobotDataset.create(
        "bench/windows", 30, {"observation.state": feature, "action": feature}, root=root, use_videos=False
    )
    for tick in range(ticks):
        states, actions = contract.to_policy(pose(tick)), contract.to_policy(pose(tick + 1))
        dataset.add_frame(
            {
                "observation.state": states.astype(np.float32),
                "action": actions.astype(np.float32),
                "task": contract.tasks[0],
            }
        )
    dataset.save_episode()
    dataset.finalize()
    times = {
        "observation.state": [(i - WINDOW_TICKS + 1) / 30 for i in range(WINDOW_TICKS)],
        "action": [i / 30 for i in range(ACTIONS)],
    }
    return LeRobotDataset("bench/windows", root=root, delta_timestamps=times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ticks", type=int, default=3000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bag_path = write_bag(Path(folder) / "bag", CONTRACT, options.ticks)
        dataset = write_dataset(Path(folder) / "set", CONTRACT, options.ticks)
        begun = time.perf_counter()
        with open_bag(bag_path) as bag:
            arrays = EpisodeArrays.read(bag, CONTRACT)
        read_s = time.perf_counter() - begun
        rows = np.random.default_rng(0).permutation(options.ticks)[:SAMPLES]
        check(arrays, dataset, rows)

        def by_row() -> None:
            for row in rows:
                dataset[int(row)]

        def one_by_one() -> None:
            for row in rows:
                arrays.windows(row[None])
                arrays.action_chunks(row[None], ACTIONS)

        def in_batches() -> None:
            for start in range(0, SAMPLES, 50):
                arrays.windows(rows[start : start + 50])
                arrays.action_chunks(rows[start : start + 50], ACTIONS)

        ways = {"LeRobotDataset": by_row, "sigma, one by one": one_by_one, "sigma, 50 at once": in_batches}
        print(table(interleaved(ways, repetitions=7), unit="window", per=SAMPLES, reference="LeRobotDataset"))
        print(f"\nReading the bag into arrays once: {read_s / options.ticks * 1e3:.4f} ms/tick")


def check(arrays: EpisodeArrays, dataset: LeRobotDataset, rows: np.ndarray) -> None:
    """The two ways give the same numbers (LeRobot repeats the first state and the last action instead of masking)."""
    windows = arrays.windows(rows)
    for index, row in enumerate(rows[:20]):
        states = dataset[int(row)]["observation.state"].numpy()
        ours = CONTRACT.to_policy(windows.positions_rad[index])
        assert np.allclose(states[windows.mask[index]], ours[windows.mask[index]], atol=1e-4)


if __name__ == "__main__":
    main()
