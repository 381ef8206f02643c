# SPDX-License-Identifier: Apache-2.0
"""What a user can set on a node, as frozen dataclasses whose fields carry description, unit and range.

No ROS here: `parameters` declares these on a node, the documentation's tables are tested against them,
and the command line can build them. Values are checked exactly and as a whole by `problems`.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Protocol


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


class Options(Protocol):
    """A frozen dataclass made of `option` fields that can judge its values together."""

    def conflicts(self) -> list[str]:
        """What is wrong between values that are each allowed, in words."""
        ...


def specs(options_type: type[Options]) -> tuple[Spec, ...]:
    """The parameters of an options class, in declaration order."""
    found = []
    for entry in dataclasses.fields(options_type):  # type: ignore[arg-type]
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
    return dataclasses.replace(options, **{by_name[name]: value for name, value in changes.items()})  # type: ignore[type-var]


def markdown_table(options_type: type[Options]) -> str:
    """The table of an options class for `docs/ros_interface.md`."""
    lines = ["| parameter | default | allowed | unit | when | meaning |", "| --- | --- | --- | --- | --- | --- |"]
    for spec in specs(options_type):
        default = f"`{str(spec.default).lower()}`" if spec.kind is bool else f"`{spec.default!r}`".replace("'", '"')
        when = "start" if spec.read_only else "any time"
        lines.append(f"| `{spec.name}` | {default} | {spec.allowed} | {spec.unit} | {when} | {spec.description} |")
    return "\n".join(lines)
