# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep

from sigma_ros.errors import CheckpointError
from sigma_ros.model.normalise import NEEDED, Normalisation, Scaling

LOW, HIGH = np.array([-98.7, -3.25, 0.0]), np.array([101.3, -1.5, 33.3])
Q = Scaling.quantiles(q01=LOW, q99=HIGH)
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
    assert np.allclose(Q.normalise(LOW), -1.0)
    assert np.allclose(Q.normalise(HIGH), 1.0)
    assert np.allclose(Q.normalise(np.stack([LOW, HIGH])), [[-1.0] * 3, [1.0] * 3])


@pytest.mark.parametrize(("low", "high"), [(2.0, 1.0), (np.nan, 1.0), (-np.inf, 1.0)])
def test_degenerate_quantiles_are_refused_with_the_joint(low: float, high: float) -> None:
    with pytest.raises(CheckpointError, match=r"degenerate; where: joint\(s\) 1;"):
        Scaling.quantiles(q01=np.array([0.0, low]), q99=np.array([1.0, high]))


def test_a_joint_that_never_moved_keeps_its_value_and_is_named() -> None:
    still = Scaling.quantiles(q01=np.array([0.0, 5.0]), q99=np.array([1.0, 5.0]))
    assert still.constant.tolist() == [False, True]
    assert still.normalise(np.array([0.5, 5.0])).tolist() == [0.0, -1.0]
    assert np.allclose(still.denormalise(np.array([[0.0, -3.0], [0.0, 3.0]]))[:, 1], 5.0)


@pytest.mark.parametrize("mode", NEEDED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_mode_comes_back_from_a_file_and_undoes_itself(mode: str, dtype: type) -> None:
    statistics = {"q01": LOW, "q99": HIGH, "min": LOW - 1, "max": HIGH + 1, "mean": LOW, "std": HIGH - LOW}
    statistics |= {"q10": LOW + 0.1, "q90": HIGH - 0.1}
    made = Scaling(mode=mode, statistics=statistics)
    kept = Scaling.from_dict(made.as_dict(), where="file")
    values = np.array([[1.0, -2.0, 9.0]], dtype=dtype)
    assert np.array_equal(kept.normalise(values), made.normalise(values))
    assert np.allclose(made.denormalise(made.normalise(values)), values, atol=1e-4)
    assert np.allclose(made.denormalise(values + 1) - made.denormalise(values), made.slope, rtol=1e-4)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(CheckpointError, match="no common shape"):
        Scaling.quantiles(q01=np.zeros(2), q99=np.ones(3))
    with pytest.raises(CheckpointError, match="differ in joints"):
        Normalisation(state=Q, action=Scaling.quantiles(q01=np.zeros(2), q99=np.ones(2)))


def test_a_checkpoint_keeps_the_statistics_bit_for_bit() -> None:
    kept = Normalisation.from_dict(Normalisation(state=Q, action=Q).as_dict(), where="file")
    assert np.array_equal(kept.state.usual, Q.usual)
    assert np.array_equal(kept.action.usual, Q.usual)


@pytest.mark.parametrize("values", [None, [], {"state": {}}, {"state": {"q01": [0]}, "action": {"q01": [0]}}])
def test_statistics_that_are_not_there_are_named(values: object) -> None:
    with pytest.raises(CheckpointError, match="where: file"):
        Normalisation.from_dict(values, where="file")


def test_integers_are_refused_and_arrays_are_read_only() -> None:
    with pytest.raises(TypeError, match="expected a float32 or float64 array"):
        Q.normalise(np.zeros(3, dtype=np.int64))
    assert not Q.usual[0].flags.writeable
