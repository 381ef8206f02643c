# SPDX-License-Identifier: Apache-2.0
"""Parameters: what is accepted is in range, what is refused changes nothing, and every refusal says why."""

import math
import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.node import Node
from rclpy.parameter import Parameter

from sigma_ros.errors import UsageError
from sigma_ros.nodes.node_options import PolicyOptions, SupervisorOptions
from sigma_ros.nodes.options import option, problem, problems, replaced, specs
from sigma_ros.nodes.parameters import BoundParameters

pytestmark = pytest.mark.ros
VALUES = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.integers(-(2**40), 2**40), st.booleans(), st.text(max_size=8)
)
SPECS = [*specs(PolicyOptions), *specs(SupervisorOptions)]


@dataclass(frozen=True, kw_only=True)
class Knobs:
    low: float = option("the lower one", default=0.0, name="pair.low", low=0.0, high=1.0)
    high: float = option("the upper one", default=1.0, name="pair.high", low=0.0, high=1.0)
    count: int = option("how many", default=3, low=1, high=9)
    word: str = option("a word", default="a", choices=("a", "b"))
    fixed: str = option("a name", default="x", read_only=True)

    def conflicts(self) -> list[str]:
        return [f"pair.low = {self.low} is above pair.high = {self.high}"] if self.low > self.high else []


@given(spec=st.sampled_from(SPECS), value=VALUES)
def test_a_value_without_a_problem_has_the_right_type_and_is_inside_its_range(spec, value):
    said = problem(spec, value)
    right_type = type(value) is spec.kind
    inside = (
        right_type
        and (not spec.choices or value in spec.choices)
        and not (isinstance(value, float) and not math.isfinite(value))
        and (isinstance(value, str | bool) or spec.low is None or spec.low <= value <= spec.high)
    )
    assert (said is None) == inside
    assert said is None or spec.name in said


@given(low=st.floats(0.0, 1.0), high=st.floats(0.0, 1.0))
def test_values_are_judged_together(low, high):
    knobs = replaced(Knobs(), {"pair.low": low, "pair.high": high})
    assert bool(problems(knobs)) == (low > high)


@pytest.fixture
def node(executor):
    made: list[Node] = []

    def make(**overrides: object) -> Node:
        parameters = [Parameter(name.replace("__", "."), value=value) for name, value in overrides.items()]
        made.append(Node("test_parameters", parameter_overrides=parameters))
        return made[-1]

    yield make
    for one in made:
        one.destroy_node()


def bind(node: Node, **hooks) -> BoundParameters:
    return BoundParameters(node, Knobs(), state=lambda: "RUN", **hooks)


def test_values_given_at_start_win_and_an_empty_one_means_the_default(node):
    bound = bind(node(pair__high=0.5, word=None))
    assert bound.value == Knobs(high=0.5)


def test_everything_that_is_wrong_at_start_is_listed_at_once(node):
    with pytest.raises(UsageError) as caught:
        bind(node(pair__high=1.0000001, count=0, word="z"))
    for part in ("pair.high = 1.0000001", "count = 0", "word = 'z'", "3 parameter(s)"):
        assert part in str(caught.value)


def test_a_misspelt_name_stops_the_start_and_names_the_nearest(node):
    with pytest.raises(UsageError, match=r"did you mean pair\.high"):
        bind(node(pair__hihg=0.5))


def test_random_sets_are_never_wrongly_accepted_and_never_raise(node):
    """A thousand seeded sets of one or two parameters; the value is always one without a problem."""
    rng = random.Random(0)
    one = node()
    bound = bind(one)
    pool = [0.0, 0.3, 1.0, 1.0000001, -1e-12, math.nan, math.inf, 1e308, 0, 1, 5, 10, True, "a", "b", "", "z"]
    accepted = 0
    for _ in range(1000):
        names = rng.sample(["pair.low", "pair.high", "count", "word", "fixed"], rng.choice((1, 2)))
        parameters = [Parameter(name, value=rng.choice(pool)) for name in names]
        before = bound.value
        result = one.set_parameters_atomically(parameters)
        assert problems(bound.value) == []
        accepted += result.successful
        if not result.successful:
            assert result.reason
            assert bound.value == before
        for name in ("pair.low", "pair.high", "count", "word"):
            assert one.get_parameter(name).value == getattr(bound.value, name.split(".")[-1])
    assert accepted > 50


def test_a_refusal_by_the_node_carries_its_reason_and_state(node):
    one = node()
    bound = bind(one, refuse=lambda _old, _new: "not while it moves")
    result = one.set_parameters_atomically([Parameter("pair.high", value=0.5)])
    assert (result.successful, result.reason) == (False, "not while it moves (state: RUN)")
    assert bound.value == Knobs()


def test_a_change_is_told_once_as_old_and_new(node):
    one = node()
    told = []
    bind(one, applied=lambda old, new: told.append((old.high, new.high)))
    one.set_parameters_atomically([Parameter("pair.high", value=0.5), Parameter("pair.low", value=0.25)])
    assert told == [(1.0, 0.5)]
