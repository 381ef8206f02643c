# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sigma_ros.model.pi05.flow import flow_noise

SIZES = {"horizon": 50, "max_dof": 8}
INDEX = st.integers(0, 2**63 - 1)


@given(seed=INDEX, epoch=INDEX, tick=INDEX)
def test_noise_is_a_function_of_seed_epoch_and_tick_alone(seed: int, epoch: int, tick: int) -> None:
    torch.manual_seed(tick % 1000)
    first = flow_noise(seed=seed, epoch=epoch, tick=tick, **SIZES)
    torch.manual_seed(1)
    torch.randn(3)
    assert torch.equal(first, flow_noise(seed=seed, epoch=epoch, tick=tick, **SIZES))
    assert first.dtype == torch.float32
    assert first.shape == (1, 50, 8)
    assert bool(torch.isfinite(first).all())


def test_every_index_gives_other_noise() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (2**62, 0, 0), (0, 0, 2**62)]
    seen = {flow_noise(seed=s, epoch=e, tick=t, **SIZES).numpy().tobytes() for s, e, t in keys}
    assert len(seen) == len(keys)


def test_neighbouring_ticks_are_uncorrelated() -> None:
    ticks = np.stack([flow_noise(seed=0, epoch=0, tick=t, **SIZES).numpy().ravel() for t in range(400)])
    lagged = np.mean(ticks[1:] * ticks[:-1])
    assert abs(lagged) < 5.0 / np.sqrt(ticks[1:].size)


def test_noise_is_standard_normal() -> None:
    values = flow_noise(seed=3, epoch=2, tick=1, horizon=20_000, max_dof=10).numpy().ravel()
    quantiles = np.quantile(values, [0.02275, 0.15866, 0.5, 0.84134, 0.97725])
    assert np.allclose(quantiles, [-2.0, -1.0, 0.0, 1.0, 2.0], atol=0.03)
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1.0) < 0.01


def test_an_odd_number_of_values_can_be_asked_for() -> None:
    assert flow_noise(seed=0, epoch=0, tick=0, horizon=1, max_dof=1).shape == (1, 1, 1)


def test_the_numbers_are_those_written_down_here() -> None:
    """Reference: this implementation on x86-64 with numpy 2.2; a change breaks every stored replay."""
    values = flow_noise(seed=1, epoch=2, tick=3, horizon=2, max_dof=2).numpy().ravel()
    assert np.allclose(values, GOLDEN, rtol=0, atol=1e-7)


GOLDEN = np.array([0.778333962, -0.299348891, 0.232710332, -1.29900753], dtype=np.float32)


@pytest.mark.parametrize("name", ["seed", "epoch", "tick"])
@pytest.mark.parametrize("value", [-1, 2**63])
def test_an_index_out_of_range_is_refused(name: str, value: int) -> None:
    index = {"seed": 0, "epoch": 0, "tick": 0} | {name: value}
    with pytest.raises(ValueError, match=f"{name} must be in"):
        flow_noise(**index, **SIZES)
