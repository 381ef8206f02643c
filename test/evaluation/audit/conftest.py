# SPDX-License-Identifier: Apache-2.0
"""A tiny Sigma with every trained number stirred, as after training."""

import pytest
import torch
from tiny_base import save_tiny

from sigma_ros.contract_file import load_contract
from sigma_ros.model.runtime import SigmaRuntime


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> SigmaRuntime:
    folder = save_tiny(tmp_path_factory.mktemp("audited") / "tiny")
    made = SigmaRuntime.load(str(folder), contract=load_contract("so101"), seed=11)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _, parameter in sorted(made.model.trained().items()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made
