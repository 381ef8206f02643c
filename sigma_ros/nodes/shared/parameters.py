# SPDX-License-Identifier: Apache-2.0
"""Binds an options dataclass to a node's parameters: declared, validated as a whole, applied as one snapshot.

rclpy alone accepts 1.0000001 for a range up to 1.0, refuses the integer 1 where a double is declared, and
ignores parameters it was started with but does not know, and files in which nothing fits the node. Here the range is
exact, an integer that stands for a double is taken as one, an unknown name stops the start with the nearest known
ones (one that is said to every node is warned of), and so does a file of which nothing fits.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from sigma_ros.errors import UsageError
from sigma_ros.nodes.shared.parameter_files import Origins, fitting, origins

# What a user can set on a node, as frozen dataclasses whose fields carry description, unit and range.
#
# `BoundParameters` declares these on a node; the documentation's tables are made of them. Values are checked exactly
# and as a whole by `problems`.


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One parameter as ROS sees it. `low` and `high` are inclusive; `choices` lists the allowed texts."""

    name: str
    field_name: str
    kind: type
    default: object
    description: str
    unit: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    read_only: bool

    @property
    def allowed(self) -> str:
        """The allowed values in words, for refusals and for the documentation."""
        if self.choices:
            return ", ".join(self.choices)
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        return {bool: "true, false", str: "any text"}.get(self.kind, "any finite number")

    @property
    def help(self) -> str:
        """What a command line's help says of it."""
        live = "" if self.read_only else "live: "
        return (
            f"{live}{self.description} (default: {self.default!r}; allowed: {self.allowed} {self.unit}".rstrip() + ")"
        )


def option(
    description: str,
    *,
    default: object,
    name: str | None = None,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    read_only: bool = False,
) -> Any:
    """A dataclass field that is a parameter; `name` is its ROS name where it differs from the field's."""
    metadata = {
        "name": name,
        "description": description,
        "unit": unit,
        "low": low,
        "high": high,
        "choices": choices,
        "read_only": read_only,
    }
    return field(default=default, metadata={"option": metadata})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Base of a node's options, which are `option` fields."""

    def conflicts(self) -> list[str]:
        """What is wrong between values that are each allowed, in words."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class RobotOptions(Options):
    """Of a node that is for one robot."""

    contract: str = option("contract file, or the name of a shipped one", default="so101", read_only=True)


def specs(options_type: type[Options]) -> tuple[Spec, ...]:
    """The parameters of an options class, in declaration order."""
    found = []
    for entry in dataclasses.fields(options_type):
        metadata = dict(entry.metadata["option"])
        name = metadata.pop("name") or entry.name
        found.append(
            Spec(name=name, field_name=entry.name, kind=type(entry.default), default=entry.default, **metadata)
        )
    return tuple(found)


def problem(spec: Spec, value: object) -> str | None:
    """Why `value` cannot be the parameter's value, naming value and range; None when it can."""
    said = f"{spec.name} = {value!r}"
    if type(value) is not spec.kind:
        return f"{said} is refused: expected {spec.kind.__name__}, {spec.allowed}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{said} is refused: it must be finite; allowed: {spec.allowed}"
    if spec.choices and value not in spec.choices:
        return f"{said} is refused: allowed: {spec.allowed}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        below = spec.low is not None and value < spec.low
        above = spec.high is not None and value > spec.high
        if below or above:
            return f"{said} is refused: allowed: {spec.allowed}{' ' + spec.unit if spec.unit else ''}"
    return None


def problems(options: Options) -> list[str]:
    """Everything that is wrong with the values, each alone and together; empty when they can be used."""
    found = [
        said for spec in specs(type(options)) if (said := problem(spec, getattr(options, spec.field_name))) is not None
    ]
    return found or options.conflicts()


def replaced[OptionsT: Options](options: OptionsT, changes: dict[str, object]) -> OptionsT:
    """A copy with parameters, called by their ROS names, changed. Nothing is checked: see `problems`."""
    by_name = {spec.name: spec.field_name for spec in specs(type(options))}
    return dataclasses.replace(options, **{by_name[name]: value for name, value in changes.items()})


def markdown_table(options_type: type[Options]) -> str:
    """The table of an options class; live: it can change while the node runs."""
    lines = ["| parameter | default | allowed | unit | meaning |", "| --- | --- | --- | --- | --- |"]
    for spec in specs(options_type):
        default = f"`{str(spec.default).lower()}`" if spec.kind is bool else f"`{spec.default!r}`".replace("'", '"')
        allowed = {"any text": "text", "true, false": "bool"}.get(spec.allowed, spec.allowed)
        meaning = spec.description if spec.read_only else f"**live**: {spec.description}"
        lines.append(f"| `{spec.name}` | {default} | {allowed} | {spec.unit} | {meaning} |")
    return "\n".join(lines)


_RCLPY_OWN = ("use_sim_time", "start_type_description_service")
_ORIGINS: ContextVar[Origins] = ContextVar("origins")


class BoundParameters[OptionsT: Options]:
    """The node's options now (`value`), kept equal to its ROS parameters.

    Args:
        defaults: The options to start from; overrides given at start win.
        state: Says in a word which state the node is in, for refusals.
        refuse: Asked with (old, new) before a change is accepted; a text refuses it.

    Raises:
        UsageError: an override is unknown or senseless, every problem is listed; or nothing in a parameter file fits.
    """

    def __init__(
        self,
        node: Node,
        defaults: OptionsT,
        *,
        state: Callable[[], str],
        refuse: Callable[[OptionsT, OptionsT], str | None] = lambda _old, _new: None,
        applied: Callable[[OptionsT, OptionsT], None] = lambda _old, _new: None,
    ) -> None:
        self._specs = {spec.name: spec for spec in specs(type(defaults))}
        self._state = state
        self._refuse = refuse
        self._applied = applied
        self._reject_unknown(node)
        node.add_pre_set_parameters_callback(self._with_doubles)
        self.value = self._declare(node, defaults)
        node.add_on_set_parameters_callback(self._judge)
        node.add_post_set_parameters_callback(self._apply)

    def _reject_unknown(self, node: Node) -> None:
        """What is said to every node of a graph may be unknown here; a name that is meant for this one may not."""
        source = _ORIGINS.get(Origins())
        name = node.get_fully_qualified_name()
        for file in source.files:
            fitting(file, [name])
        unknown = [
            name
            for name in node._parameter_overrides  # noqa: SLF001 - rclpy has no public list of them
            if name not in self._specs and name not in _RCLPY_OWN and not name.startswith("qos_overrides.")
        ]
        # A launch-wide `SetParameter` becomes `-p NAME:=VALUE`; a near miss of a name of ours is a typing error there.
        everybodys = {loose for loose in source.loose.intersection(unknown) if not self._near([loose])}
        everybodys |= source.for_everybody(name)
        meant = [name for name in unknown if name not in everybodys]
        if meant:
            near = self._near(meant)
            raise UsageError(
                "a parameter is not known",
                where=node.get_name(),
                expected=f"one of {', '.join(self._specs)}",
                got=", ".join(meant),
                remedy=f"did you mean {', '.join(sorted(near))}?" if near else "remove it",
            )
        if unknown:
            near = self._near(unknown)
            hint = f"; did you mean {', '.join(sorted(near))}?" if near else ""
            node.get_logger().warning(f"ignored, for they are not known here: {', '.join(unknown)}{hint}")

    def _near(self, names: Collection[str]) -> set[str]:
        return {hit for name in names for hit in difflib.get_close_matches(name, self._specs, n=2)}

    def _declare(self, node: Node, defaults: OptionsT) -> OptionsT:
        values: dict[str, object] = {}
        wrong: list[str] = []
        for spec in self._specs.values():
            value = given(node, spec.name, default=getattr(defaults, spec.field_name))
            values[spec.name] = float(value) if spec.kind is float and type(value) is int else value
        options = replaced(defaults, values)
        wrong = problems(options)
        if wrong:
            raise UsageError(
                f"{len(wrong)} parameter(s) cannot be used",
                where=node.get_name(),
                got=" | ".join(wrong),
                remedy="correct them in the launch file, the YAML file or on the command line",
            )
        for spec in self._specs.values():
            node.declare_parameter(spec.name, values[spec.name], _descriptor(spec), ignore_override=True)
        return options

    def _with_doubles(self, parameters: list[Parameter]) -> list[Parameter]:
        """`ros2 param set NODE adapter.max_scale 1` means 1.0."""
        return [
            Parameter(p.name, Parameter.Type.DOUBLE, float(p.value))
            if p.type_ == Parameter.Type.INTEGER and p.name in self._specs and self._specs[p.name].kind is float
            else p
            for p in parameters
        ]

    def _judge(self, parameters: list[Parameter]) -> SetParametersResult:
        changes = {p.name: p.value for p in parameters if p.name in self._specs}
        fixed = [name for name in changes if self._specs[name].read_only]
        if fixed:
            reason = f"{', '.join(fixed)} can only be set at start"
        else:
            changed = replaced(self.value, changes)
            reason = "; ".join(problems(changed)) or self._refuse(self.value, changed) or ""
        if reason:
            return SetParametersResult(successful=False, reason=f"{reason} (state: {self._state()})")
        return SetParametersResult(successful=True)

    def _apply(self, parameters: list[Parameter]) -> None:
        changes = {p.name: p.value for p in parameters if p.name in self._specs}
        if changes:
            old, self.value = self.value, replaced(self.value, changes)
            self._applied(old, self.value)


def note_arguments(arguments: Sequence[str]) -> None:
    """Remembers what the process was started with; rclpy tells a node values alone, not where they come from."""
    _ORIGINS.set(origins(arguments))


def given[ValueT](node: Node, name: str, *, default: ValueT) -> ValueT:
    """The value a parameter was given at start, before it is declared; `default` where none or an empty one was given.

    A launch file passes an empty text on as no value at all.
    """
    override = node._parameter_overrides.get(name)  # noqa: SLF001
    return default if override is None or override.value is None else override.value


def _descriptor(spec: Spec) -> ParameterDescriptor:
    unit = f" [{spec.unit}]" if spec.unit else ""
    descriptor = ParameterDescriptor(
        name=spec.name,
        description=f"{spec.description}{unit}",
        additional_constraints=f"allowed: {spec.allowed}",
        read_only=spec.read_only,
    )
    if spec.low is None or spec.high is None:
        return descriptor
    if spec.kind is float:
        descriptor.floating_point_range = [FloatingPointRange(from_value=spec.low, to_value=spec.high, step=0.0)]
    elif spec.kind is int:
        descriptor.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high), step=1)]
    return descriptor
