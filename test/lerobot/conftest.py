# SPDX-License-Identifier: Apache-2.0
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from tiny_base import save_tiny
from tiny_sigma import stir, tiny_config

from sigma_ros.contract_file import load_contract
from sigma_ros.model.checkpoint.folder import identify, save_checkpoint
from sigma_ros.model.checkpoint.manifest import Training
from sigma_ros.model.pi05.loading import load_base
from sigma_ros.model.pi05.mini import limit_normalisation
from sigma_ros.model.sigma import SigmaTelepathyVLA

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ("lerobot_policy_sigma", "lerobot_env_sigma")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Sigma with every weight stirred, as after training, on a tiny base."""
    folder = tmp_path_factory.mktemp("checkpoints")
    loaded = load_base(str(save_tiny(folder / "base")), device="cpu", dtype="float32")
    model = SigmaTelepathyVLA(loaded.backbone, tiny_config(loaded.backbone, dof=6))
    stir(model)
    save_checkpoint(
        model,
        folder / "sigma",
        base=identify(model, loaded.info),
        training=Training(trained=True),
        normalisation=limit_normalisation(load_contract("so101")),
    )
    return folder / "sigma"


@pytest.fixture(scope="session")
def with_plugins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment for child processes in which both distributions are installed, as pip would from a wheel."""
    site = tmp_path_factory.mktemp("site")
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    for name in PLUGINS:
        source = Path(shutil.copytree(ROOT / "plugins" / name, site / "source" / name))
        subprocess.run([sys.executable, "-c", build, str(source)], cwd=source, check=True, capture_output=True)
        (wheel,) = source.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    path = os.pathsep.join([str(site), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
