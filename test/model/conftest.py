# SPDX-License-Identifier: Apache-2.0
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_base import save_tiny, tiny_backbone

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.model.pi05.backbone import Backbone


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def so101() -> Contract:
    return load_contract("so101")


@pytest.fixture(scope="session")
def tiny_fp32() -> Backbone:
    return tiny_backbone("float32")


@pytest.fixture(scope="session")
def tiny_bf16() -> Backbone:
    return tiny_backbone("bfloat16")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good checkpoint of a tiny policy; not to be written to (see `damaged`)."""
    return save_tiny(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def damaged(tiny_folder: Path, tmp_path: Path) -> Callable[[], Path]:
    """Gives a fresh copy of the good checkpoint."""
    count = iter(range(1000))

    def copy() -> Path:
        return Path(shutil.copytree(tiny_folder, tmp_path / f"copy{next(count)}"))

    return copy
