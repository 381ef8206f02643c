# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep

from sigma_ros.errors import CheckpointError
from sigma_ros.model.normalise import Normalisation, Quantiles

Q = Quantiles(q01=np.array([-98.7, -3.25, 0.0]), q99=np.array([101.3, -1.5, 33.3]))
FINITE = st.floats(-500, 500, width=32)


def _lerobot(step: type, values: np.ndarray) -> np.ndarray:
    made = step(
        features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(3,))},
        norm_map={FeatureType.ACTION: NormalizationMode.QUANTILES},
        stats={"action": {name: torch.tensor(v, dtype=torch.float32) for name, v in Q.as_dict().items()}},
    )
    inverse = step is UnnormalizerProcessorStep
    return made._normalize_action(torch.from_numpy(values), inverse=inverse).numpy()


@given(st.lists(FINITE, min_size=3, max_size=3))
def test_float32_values_come_out_with_lerobots_bits(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    assert np.array_equal(Q.normalise(array), _lerobot(NormalizerProcessorStep, array))
    assert np.array_equal(Q.denormalise(array), _lerobot(UnnormalizerProcessorStep, array))


@given(st.lists(FINITE, min_size=3, max_size=3))
def test_denormalise_undoes_normalise(values: list[float]) -> None:
    array = np.array(values)
    assert np.allclose(Q.denormalise(Q.normalise(array)), array, atol=1e-9)


def test_the_quantiles_become_minus_one_and_one() -> None:
    assert np.allclose(Q.normalise(Q.q01), -1.0)
    assert np.allclose(Q.normalise(Q.q99), 1.0)
    assert np.allclose(Q.normalise(np.stack([Q.q01, Q.q99])), [[-1.0] * 3, [1.0] * 3])


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (0.0, 1e-9), (np.nan, 1.0), (-np.inf, 1.0)])
def test_degenerate_quantiles_are_refused_with_the_joint(low: float, high: float) -> None:
    with pytest.raises(CheckpointError, match=r"degenerate; where: joint\(s\) 1;.*every joint moves"):
        Quantiles(q01=np.array([0.0, low]), q99=np.array([1.0, high]))


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(CheckpointError, match="no common shape"):
        Quantiles(q01=np.zeros(2), q99=np.ones(3))
    with pytest.raises(CheckpointError, match="differ in joints"):
        Normalisation(state=Q, action=Quantiles(q01=np.zeros(2), q99=np.ones(2)))


def test_a_checkpoint_keeps_the_statistics_bit_for_bit() -> None:
    kept = Normalisation.from_dict(Normalisation(state=Q, action=Q).as_dict(), where="file")
    assert np.array_equal(kept.state.q01, Q.q01)
    assert np.array_equal(kept.action.q99, Q.q99)


@pytest.mark.parametrize("values", [None, [], {"state": {}}, {"state": {"q01": [0]}, "action": {"q01": [0]}}])
def test_statistics_that_are_not_there_are_named(values: object) -> None:
    with pytest.raises(CheckpointError, match="where: file"):
        Normalisation.from_dict(values, where="file")


def test_integers_are_refused_and_arrays_are_read_only() -> None:
    with pytest.raises(TypeError, match="expected a float array"):
        Q.normalise(np.zeros(3, dtype=np.int64))
    assert not Q.q01.flags.writeable
