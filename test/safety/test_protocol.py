# SPDX-License-Identifier: Apache-2.0
"""The rules of others do what their own published tests ask of them, and ours lets nothing through on the same targets.

The cases are inputs and expected outputs of ros-controls/ros2_control `test_joint_saturation_limiter.cpp` and of
frankaemika/libfranka `rate_limiting_tests.cpp` (both Apache-2.0) for the interfaces that are compared. Left out are
ros2_control's cases of velocity commands and of missing states, and libfranka's of Cartesian motion.
"""

import numpy as np
import pytest

from safety.rules.protocol import LATCH, OURS, Bounds, Now, libfranka, reject, ros2_control, run

NO_LIMIT = np.finfo(float).max


def bounds(period_s: float, speed: float, acceleration: float, deceleration: float, jerk: float) -> Bounds:
    limits = [np.array([value]) for value in (-5.0, 5.0, speed, acceleration, deceleration, jerk)]
    names = ("lower", "upper", "speed", "acceleration", "deceleration", "jerk")
    return Bounds(**dict(zip(names, limits, strict=True)), period_s=period_s)


def now(position: float, velocity: float) -> Now:
    return Now(position=np.array([position]), velocity=np.array([velocity]), acceleration=np.zeros(1))


@pytest.mark.parametrize(
    ("position", "velocity", "goal", "limits", "expected"),
    [
        (0.0, 0.0, 1.0, (1.0, 7.5), 1.0),
        (-2.0, 0.0, 1.0, (1.0, 7.5), 0.0),
        (2.0, 0.0, -1.0, (1.0, 7.5), 0.0),
        (0.0, 1.9, 4.0, (1.0, 7.5), 2.0),
        (0.0, -1.9, -4.0, (1.0, 7.5), -2.0),
        (5.0, 0.0, 20.0, (1.0, 7.5), 5.0),
        (0.1, 0.1, 0.125, (0.05, 7.5), 0.11125),
        (0.3, 0.5, 0.305, (0.05, 7.5), 0.315625),
        (1.0, 1.0, 1.025, (0.05, 5.0), 1.04375),
    ],
)
def test_ros2_control_as_its_tests_say(
    position: float, velocity: float, goal: float, limits: tuple[float, float], expected: float
) -> None:
    period_s, deceleration = limits
    kept = bounds(period_s, 2.0, 5.0, deceleration, NO_LIMIT)
    assert ros2_control(np.array([goal]), now(position, velocity), kept)[0] == pytest.approx(expected, abs=1e-9)


def test_ros2_control_brakes_before_the_end_of_the_range() -> None:
    """It needs 0.15 rad and has 0.149. The original stays inside by the velocities that its case gives as well."""
    position, velocity, dt, goal = 4.851, 1.5, 0.05, np.array([4.926])
    for _ in range(4):
        told = float(ros2_control(goal, now(position, velocity), bounds(dt, 2.0, 5.0, 7.5, NO_LIMIT))[0])
        slower = velocity + 2.0 * (told - position - velocity * dt) / dt
        assert told <= 5.001 + 1e-9
        assert slower <= velocity
        position, velocity = told, slower


@pytest.mark.parametrize(("acceleration", "jerk"), [(NO_LIMIT, 100.0), (10.0, NO_LIMIT)])
@pytest.mark.parametrize("excess", [-1e-2, 1e-2])
def test_libfranka_as_its_tests_say(acceleration: float, jerk: float, excess: float) -> None:
    """A step just within a limit is not touched; one just beyond it is brought to the limit."""
    dt = 1e-3
    limits = bounds(dt, NO_LIMIT, acceleration, acceleration, jerk)
    limit = jerk * dt**3 if acceleration == NO_LIMIT else acceleration * dt**2
    goal = limit + excess * (dt**3 if acceleration == NO_LIMIT else dt**2)
    expected = min(goal, limit)
    with np.errstate(over="ignore"):
        assert libfranka(np.array([goal]), now(0.0, 0.0), limits)[0] == pytest.approx(expected, rel=1e-9)


def test_what_is_rejected_leaves_the_arm_where_it_is() -> None:
    limits = bounds(0.02, 2.0, 30.0, 30.0, 2000.0)
    assert reject(np.array([0.05]), now(0.0, 0.0), limits)[0] == 0.0
    assert reject(np.array([0.03]), now(0.0, 0.0), limits)[0] == 0.03
    assert reject(np.array([np.nan]), now(0.0, 0.0), limits)[0] == 0.0


def test_ours_alone_lets_nothing_through() -> None:
    rows = run(15 * 500, seed=1)
    assert len({row.report.ticks for row in rows.values()}) == 1
    for name, row in rows.items():
        assert (row.report.violations == 0) == (name == OURS), name
    assert rows[LATCH].frozen > rows[OURS].frozen
