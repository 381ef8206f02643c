# SPDX-License-Identifier: Apache-2.0
"""Which sections of ROS parameter files are for a node, so that none is ignored without a word.

ROS itself says nothing where no section fits: a node in the namespace `arm1` runs without the limits that a section
`/sigma_supervisor` asks for. The standard library and `yaml` alone: launch files use it (see `contract_text`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from sigma_ros.contract_text import shipped_config_dir
from sigma_ros.errors import UsageError

EVERYBODY = "/**"
_PARAMETERS = "ros__parameters"


def preset_file(name: str, kind: str) -> Path | None:
    """The parameters of a shipped preset (cautious, research, slow) for a policy or a supervisor, if it has any."""
    file = shipped_config_dir() / f"{name}_{kind}.yaml"
    return file if file.is_file() else None


def camera_devices(text: str, cameras: Sequence[str], *, where: str) -> dict[str, str]:
    """The device of each camera of a contract, by `NAME=DEVICE,NAME=DEVICE`.

    Raises:
        UsageError: one is missing, unknown or named twice, or a device is named twice.
    """
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    devices = {name.strip(): device.strip() for name, _, device in pairs if device.strip()}
    given = len(set(devices.values()))
    if set(devices) != set(cameras) or len(pairs) != len(cameras) or given != len(cameras):
        expected = ",".join(f"{name}=/dev/videoN" for name in cameras)
        raise UsageError(
            "each camera of the contract needs its device", where=where, expected=expected, got=text or "nothing"
        )
    return devices


@dataclass(frozen=True, slots=True)
class Section:
    """Names of parameters (with dots) below a key such as `/sigma_policy`, `/**` or `/**/sigma_policy`."""

    key: str
    names: frozenset[str]

    def fits(self, node: str) -> bool:
        """Whether a node's full name matches the key: `*` stands for one part of it, `**` for any number."""
        parts = (_part(part) for part in self.key.split("/")[1:])
        return re.fullmatch("".join(parts), node) is not None


def _part(part: str) -> str:
    return {"**": "(?:/[^/]+)*", "*": "/[^/]+"}.get(part) or f"/{re.escape(part)}"


def sections(file: Path) -> tuple[Section, ...]:
    """The sections of a parameter file.

    Raises:
        UsageError: it cannot be read, or is not YAML.
    """
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError("the parameter file cannot be read", where=file, got=error) from error
    return tuple(_sections(document, ""))


def _sections(document: object, above: str) -> Iterator[Section]:
    for name, inner in document.items() if isinstance(document, dict) else ():
        if name == _PARAMETERS:
            yield Section(above, frozenset(_names(inner, "")))
        else:
            yield from _sections(inner, f"{above}/{str(name).strip('/')}")


def _names(parameters: object, above: str) -> Iterator[str]:
    for name, value in parameters.items() if isinstance(parameters, dict) else ():
        if isinstance(value, dict):
            yield from _names(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def fitting(file: Path, nodes: Sequence[str]) -> tuple[str, ...]:
    """Those of the nodes (full names) that a file has a section for.

    Raises:
        UsageError: it has none for any, or names one of the nodes in another namespace than it runs in.
    """
    found = sections(file)
    fit = tuple(node for node in nodes if any(section.fits(node) for section in found))
    astray = [node for node in nodes if node not in fit and any(_same_name(section, node) for section in found)]
    if fit and not astray:
        return fit
    wanted = astray or nodes
    raise UsageError(
        "nothing in the parameter file fits the node" if len(wanted) == 1 else "the parameter file fits no node",
        where=file,
        expected=", ".join(wanted),
        got=", ".join(section.key for section in found) or "no section with ros__parameters",
        remedy=f"call the section /**/{wanted[0].rsplit('/', 1)[-1]}, which fits in every namespace",
    )


def _same_name(section: Section, node: str) -> bool:
    return section.key.rsplit("/", 1)[-1] == node.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Origins:
    """Where the parameters that a process was started with come from, by its arguments.

    `files` of `--params-file`; `loose` are names of `-p NAME:=VALUE`, which are for every node of the process.
    """

    files: tuple[Path, ...] = ()
    loose: frozenset[str] = frozenset()

    def for_everybody(self, node: str) -> frozenset[str]:
        """Names that only sections for everybody have, none that is `node`'s own."""
        fit = [section for file in self.files for section in sections(file) if section.fits(node)]
        own = (section.names for section in fit if section.key != EVERYBODY)
        return frozenset().union(*(s.names for s in fit if s.key == EVERYBODY)).difference(*own)


def origins(arguments: Sequence[str]) -> Origins:
    """Reads `--ros-args`: the files given, and the names given for every node."""
    following: Mapping[str, list[str]] = {"--params-file": [], "-p": [], "--param": []}
    inside = False
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=False):
        inside = flag == "--ros-args" or (inside and flag != "--")
        if inside and flag in following:
            following[flag].append(value)
    given = (rule.partition(":=")[0] for rule in (*following["-p"], *following["--param"]))
    return Origins(tuple(map(Path, following["--params-file"])), frozenset(name for name in given if ":" not in name))
