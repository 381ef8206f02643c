# SPDX-License-Identifier: Apache-2.0
"""A tiny pi0.5 with random weights and shards of synthetic recordings, made once for all tests of this folder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bags import small_contract, write_recording  # type: ignore[import-not-found]

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.model.pi05.loading import save_base
from sigma_ros.model.pi05.mini import IMAGE_PX, TINY, build_mini, limit_normalisation
from training.data import ShardData
from training.shards import PreprocessOptions, preprocess
from training.sources import bag_sources

TASKS = ("pick the brick", "put it back")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every weight stirred: the adaptive norms start at zero, and a base of zeros would hide mistakes."""
    folder = tmp_path_factory.mktemp("base") / "tiny"
    backbone = build_mini(load_contract("so101"), 0, sizes=TINY)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_base(
        backbone,
        folder,
        sizes=TINY,
        normalisation=limit_normalisation(load_contract("so101")),
        trained=True,
        made_by="a test",
    )
    return folder


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four short recordings of two tasks, the first two longer than two unrolled windows."""
    folder = tmp_path_factory.mktemp("recordings")
    contract = small_contract()
    return [
        write_recording(folder / f"bag_{i}", contract, ticks=ticks, first_tick=7 * i, task=TASKS[i % 2])
        for i, ticks in enumerate((100, 90, 60, 45))
    ]


def write_shards(folder: Path, recordings: list[Path], contract: Contract) -> Path:
    """Shards of the recordings, the first and the third held out."""
    # small_contract's recordings swing the gripper further than a real one opens
    roomy = replace(contract, joints=tuple(replace(j, lower_rad=-2.0, upper_rad=2.0) for j in contract.joints))
    options = PreprocessOptions(
        out=folder,
        contract=roomy,
        image_size_px=IMAGE_PX,
        stride=16,
        min_motion=0.0,
        hold_out_every=2,
        skip_broken=False,
    )
    preprocess(bag_sources(recordings), options, described="test", revision=None)
    return folder


@pytest.fixture(scope="session")
def shards_of() -> Callable[[Path, list[Path], Contract], Path]:
    """`write_shards`, for tests with a contract of their own."""
    return write_shards


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, recordings: list[Path]) -> ShardData:
    """Shards of the recordings, opened."""
    return ShardData.open(write_shards(tmp_path_factory.mktemp("shards") / "data", recordings, small_contract()))
