# SPDX-License-Identifier: Apache-2.0
"""Capsules hold what they are fitted to, whatever it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervision import QUICK_LAW

pytest.importorskip("mujoco", reason="mujoco is not installed")

from safety.collision.fit import cover, distances_m, pieces_m


@QUICK_LAW
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_every_corner_is_in_one_of_the_capsules(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = [rng.normal(0.0, 0.02, (8, 3)) + rng.uniform(-0.05, 0.05, 3) for _ in range(5)]
    capsules = cover(shapes, count)
    assert 1 <= len(capsules) <= count
    for points in shapes:
        held = [distances_m(points, start, end) <= radius for start, end, radius in capsules]
        assert np.any(held, axis=0).all()


@QUICK_LAW
@given(st.integers(0, 10_000))
def test_pieces_of_a_shape_are_small_and_keep_its_corners(seed: int) -> None:
    points = np.random.default_rng(seed).normal(0.0, 0.02, (10, 3))
    pieces = pieces_m(points, 0.03)
    every = np.concatenate(pieces)
    for low, high in ((np.min, np.max),):
        np.testing.assert_allclose(low(every, axis=0), low(points, axis=0))
        np.testing.assert_allclose(high(every, axis=0), high(points, axis=0))
    for piece in pieces:
        axes = np.linalg.svd(piece - piece.mean(axis=0), full_matrices=False)[2]
        assert max(np.ptp(piece @ axis) for axis in axes) <= 0.03
