# SPDX-License-Identifier: Apache-2.0
"""Parameters: what is accepted is in range, what is refused changes nothing, and every refusal says why."""

import math
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rclpy.node import Node
from rclpy.parameter import Parameter

from sigma_ros.errors import UsageError
from sigma_ros.nodes.policy.options import PolicyOptions
from sigma_ros.nodes.shared.parameter_files import fitting, sections
from sigma_ros.nodes.shared.parameters import (
    BoundParameters,
    Options,
    note_arguments,
    option,
    problem,
    problems,
    replaced,
    specs,
)
from sigma_ros.nodes.supervisor.options import SupervisorOptions

pytestmark = pytest.mark.ros
VALUES = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.integers(-(2**40), 2**40), st.booleans(), st.text(max_size=8)
)
SPECS = [*specs(PolicyOptions), *specs(SupervisorOptions)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs(Options):
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


KEYS = (
    "/**", "/knobs", "knobs", "/**/knobs", "/*/knobs", "/arm1/knobs", "/arm1/**", "/arm2/knobs", "/**/other",
)  # fmt: skip
NAMESPACES = ("/", "/arm1", "/arm2/left")


@pytest.fixture
def started(executor, tmp_path):
    """A node as a process starts it: with a parameter file, in a namespace, with further ROS arguments."""
    made: list[Node] = []

    def make(document: object, *more: str, namespace: str = "/") -> Node:
        file = tmp_path / "parameters.yaml"
        file.write_text(yaml.safe_dump(document), encoding="utf-8")
        arguments = ["--ros-args", "--params-file", str(file), *more]
        note_arguments(["program", *arguments])
        made.append(Node("knobs", namespace=namespace, cli_args=arguments))
        return made[-1]

    yield make
    note_arguments(())
    for one in made:
        one.destroy_node()


def section(**names: object) -> dict[str, object]:
    return {"ros__parameters": names}


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("key", KEYS)
def test_a_section_fits_exactly_where_ros_applies_it(key: str, namespace: str, started) -> None:
    node = started({key: section(count=5)}, namespace=namespace)
    [found] = sections(started_file(node))
    assert found.fits(node.get_fully_qualified_name()) == ("count" in node._parameter_overrides)


def started_file(node: Node) -> Path:
    from sigma_ros.nodes.shared import parameters  # noqa: PLC0415

    assert node
    return parameters._ORIGINS.get().files[0]


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("key", KEYS)
def test_a_parameter_file_has_its_effect_or_stops_the_start(key: str, namespace: str, started) -> None:
    """Under a namespace the presets did nothing, without a word: full speed on a new arm."""
    node = started({key: section(count=5)}, namespace=namespace)
    if "count" in node._parameter_overrides:
        assert bind(node).value.count == 5
        return
    with pytest.raises(UsageError, match="nothing in the parameter file fits the node") as caught:
        bind(node)
    assert "call the section /**/knobs" in str(caught.value)


def test_a_section_of_the_same_node_in_another_namespace_is_no_mistake_beside_ones_own(started) -> None:
    both = {f"/arm{i}/knobs": section(count=i) for i in (1, 2)}
    assert bind(started(both, namespace="/arm2")).value.count == 2
    file = started_file(started(both))
    with pytest.raises(UsageError, match="nothing in the parameter file fits"):
        fitting(file, ["/knobs", "/others"])
    assert fitting(file, ["/arm1/knobs", "/others"]) == ("/arm1/knobs",)


def test_what_is_said_to_every_node_may_be_unknown_here(started) -> None:
    """One file for the whole robot, or a launch-wide `SetParameter`, stopped every node."""
    node = started({"/**": section(robot_ip="10.0.0.2", count=4)}, "-p", "robot_serial:=7")
    assert bind(node).value.count == 4


@pytest.mark.parametrize("document", [{"/knobs": section(robot_ip="x")}, {"/**/knobs": section(pair={"hihg": 0.5})}])
def test_an_unknown_name_in_the_nodes_own_section_stops_the_start(document, started) -> None:
    with pytest.raises(UsageError, match="a parameter is not known"):
        bind(started(document))


def test_a_misspelt_name_on_the_command_line_is_not_taken_for_one_of_other_nodes(started) -> None:
    with pytest.raises(UsageError, match=r"did you mean count"):
        bind(started({"/**": section(robot_ip="x")}, "-p", "cuont:=5"))
