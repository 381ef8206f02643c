# SPDX-License-Identifier: Apache-2.0
"""Finds a contract, reads its YAML text and the kinds of its entries; `contract_file` knows what they mean.

The standard library and `yaml` alone: launch files need it, and they run under the Python of `ros2`, which has none of
the packages that pip installs.
"""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sigma_ros.border import one_line, read_yaml
from sigma_ros.errors import ContractError, SigmaError

MAX_ENTRIES = 64
"""Joints or cameras of a robot; more is a mistake, and said once."""


def contract_document(path: str | Path) -> tuple[Path, object]:
    """The file of a contract, given by path or by the name of a shipped one (`so101`), and its unchecked document.

    A namespace behind it (`so101@arm1`) is left out.

    Raises:
        ContractError: there is no such file, or it is not YAML.
    """
    file = _find(_parts(path)[0])
    return file, _whole(file)


def contract_yaml(path: str | Path) -> str:
    """A contract's text that needs no other file: what it extends is inside, comments are left out.

    Raises:
        ContractError: see `contract_document`.
    """
    return yaml.safe_dump(contract_document(path)[1], sort_keys=False, allow_unicode=True)


def command_topics(path: str | Path) -> tuple[str, ...]:
    """Where a contract sends commands (one topic, or its parts'), as its file says it.

    A namespace that stands behind the contract's name is in front of them.

    Raises:
        ContractError: the file cannot be read, or does not say it.
    """
    file, document = contract_document(path)
    command = document.get("command") if isinstance(document, dict) else None
    entries = (command.get("parts") or [command]) if isinstance(command, dict) else [None]
    topics = [entry.get("topic") if isinstance(entry, dict) else None for entry in entries]
    if not all(isinstance(topic, str) and topic for topic in topics):
        remedy = f"check with: sigma contract check {file}"
        raise ContractError("the contract names no command topic", where=file, got=one_line(topics, 40), remedy=remedy)
    space = chosen_namespace(path)
    return tuple(str(topic) if space is None else absolute_topic(str(topic), space) for topic in topics)


def chosen_namespace(path: str | Path) -> str | None:
    """The namespace that a user has put behind a contract: `arm1` of `so101@arm1`; None without one."""
    return _parts(path)[1]


def absolute_topic(name: str, namespace: str) -> str:
    """A topic's full name: one that begins with `/` stays, another one lies in the namespace."""
    return name if name.startswith("/") else "/".join(["", *filter(None, namespace.split("/")), name])


def _parts(path: str | Path) -> tuple[str | Path, str | None]:
    name, at, namespace = str(path).rpartition("@")
    return (name, namespace) if at and not Path(path).is_file() else (path, None)


def _whole(file: Path) -> object:
    """A file's document; with `extends: so101` that contract's, with this file's entries in place of its own."""
    document = _parsed(file)
    if not isinstance(document, dict) or "extends" not in document:
        return document
    name = document.pop("extends")
    parent = _parsed(_find(one_line(name)))
    if not isinstance(parent, dict) or "extends" in parent:
        raise ContractError("a contract may extend a whole one only", where=file, got=f"extends: {one_line(name, 40)}")
    return parent | document


def _parsed(file: Path) -> object:
    try:
        return read_yaml(file)
    except SigmaError as error:
        got = error.what if error.got is None else error.got
        raise ContractError("the contract cannot be read", where=file, got=got, remedy=error.remedy) from error


def shipped_config_dir() -> Path:
    """Folder of the contracts and presets that ship with the package (source tree or install space)."""
    package = Path(__file__).resolve().parent
    candidates = [package.parent / "config", package / "config"]
    candidates += [parent / "share" / "sigma_ros" / "config" for parent in package.parents]
    for candidate in candidates:
        if (candidate / "so101.yaml").is_file():
            return candidate
    raise ContractError(
        "the shipped contracts were not found",
        expected=" or ".join(str(c) for c in candidates[:2]),
        remedy="install the package again, or give the contract's full path",
    )


def _find(path: str | Path) -> Path:
    file = Path(path)
    if file.is_file():
        return file
    if file.suffix == "" and file.parent == Path():
        shipped = shipped_config_dir() / f"{file}.yaml"
        if shipped.is_file():
            return shipped
    names = ", ".join(sorted(p.stem for p in shipped_config_dir().glob("*.yaml") if is_contract_file(p)))
    raise ContractError(
        "no such contract", where=path, expected=f"a YAML file or one of: {names}", remedy="give an existing path"
    )


def is_contract_file(path: Path) -> bool:
    """Whether a YAML file looks like a contract (it names joints, or extends one that does)."""
    document = read_yaml(path)
    return isinstance(document, dict) and bool({"joints", "extends"} & document.keys())


def said(value: object) -> str:
    """A value for a message: short, whatever stands in the file."""
    if isinstance(value, str):
        return repr(one_line(value, 60))
    if isinstance(value, list | dict) and not value:
        return repr(value)
    return one_line(value, 60)


class Entries:
    """Entries of a document by their kind; every problem is collected instead of stopping at the first.

    What is wrong is noted in `problems`, and a harmless value is given in its place.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []

    def list_of(self, mapping: Mapping[str, object], key: str) -> list[object]:
        """A list of 1 to `MAX_ENTRIES` entries."""
        value = mapping.get(key)
        if isinstance(value, list) and len(value) > MAX_ENTRIES:
            self.problems.append(f"{key} has {len(value)} entries, expected at most {MAX_ENTRIES}")
            return value[:MAX_ENTRIES]
        if isinstance(value, list) and value:
            return value
        self.problems.append(f"{key} must be a list with at least one entry, got {said(value)}")
        return []

    def mapping(self, mapping: Mapping[str, object], key: str, keys: set[str]) -> dict[str, Any]:
        """A mapping that has these keys and no others; empty where there is none."""
        value = mapping.get(key)
        return value if self.is_mapping(value, key, keys) and isinstance(value, dict) else {}

    def is_mapping(self, value: object, where: str, keys: set[str]) -> bool:
        """Whether a value is a mapping without unknown keys."""
        if not isinstance(value, dict):
            self.problems.append(f"{where} must be a mapping with {', '.join(sorted(keys))}, got {said(value)}")
            return False
        self.unknown(value, where + ".", keys)
        return True

    def unknown(self, mapping: Mapping[str, object], where: str, keys: set[str]) -> None:
        """Notes each key that is not one of `keys`."""
        for key in mapping:
            if key not in keys:
                self.problems.append(
                    f"{where}{one_line(key, 40)} is not known, expected one of {', '.join(sorted(keys))}"
                )

    def number(self, mapping: Mapping[str, object], key: str, where: str, *, low: float, high: float) -> float:
        """A finite number in [low, high]."""
        value = mapping.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value < math.inf:
            self.problems.append(f"{where}{key} must be a finite number, got {said(value)}")
            return 1.0
        if not low <= value <= high:
            self.problems.append(f"{where}{key} must be within [{low:g}, {high:g}], got {said(value)}")
            return low
        return float(value)

    def text(self, mapping: Mapping[str, object], key: str, where: str) -> str:
        """A text that is not blank."""
        value = mapping.get(key)
        if isinstance(value, str) and value.strip():
            return value
        self.problems.append(f"{where}{key} must be a text, got {said(value)}")
        return ""

    def texts(self, value: object, where: str) -> tuple[str, ...]:
        """A list of texts."""
        if isinstance(value, list) and all(isinstance(v, str | int) and str(v).strip() for v in value):
            return tuple(str(v) for v in value)
        self.problems.append(f"{where} must be a list of texts, got {said(value)}")
        return ()

    def choice(self, mapping: Mapping[str, object], key: str, where: str, choices: tuple[str, ...]) -> str:
        """One of the choices."""
        value = mapping.get(key)
        if value not in choices:
            self.problems.append(f"{where}{key} is {said(value)}, expected one of {', '.join(choices)}")
        return str(value)

    def repeats(self, names: list[str], kind: str) -> None:
        """Notes names that are used twice."""
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        if repeated:
            self.problems.append(f"{kind} used twice: {', '.join(repeated)}")
