# SPDX-License-Identifier: Apache-2.0
"""The border to files of others: what is read here is bounded, regular and contained, and every failure one sentence.

YAML has no aliases and no key twice, JSON and YAML are at most `MAX_DEPTH` deep, foreign text goes into messages
through `one_line` alone, and foreign templates are filled by `filled`, never by `str.format`.
"""

import json
import os
import re
import shutil
import stat
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any, BinaryIO

import yaml

from sigma_ros.errors import SigmaError

MAX_DEPTH = 64
MAX_YAML_BYTES = 2 << 20  # half a minute of PyYAML
MAX_JSON_BYTES = 32 << 20  # brackets alone become 25 times as much
MAX_OUTPUT_BYTES = 1 << 30
"""What one compressed piece may expand to."""

_MAX_DIGITS = 4300
"""As Python's own limit; YAML also reads numbers to the base of 60, for which there is none."""

_RATIO = 100
_SMALL_BYTES = 16 << 20
"""A black picture compresses by more than `_RATIO`; up to this much may come out of any piece."""

LFS_POINTER = b"version https://git-lfs.github.com/spec"
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)  # one without its end is passed over once, too
_NUMBER_FORMAT = re.compile(r"0?\d{0,2}d?")


def most_output_bytes(stored: int) -> int:
    """How much a compressed piece of `stored` bytes may expand to."""
    return min(max(_RATIO * stored, _SMALL_BYTES), MAX_OUTPUT_BYTES)


def one_line(text: object, limit: int = 200) -> str:
    """A foreign text or error for a message: one printable line of at most `limit` characters."""
    if not isinstance(text, str | BaseException | Path | bool | int | float | None):
        return f"a {type(text).__name__}"
    try:
        said = str(text)[: 4 * limit]
    except Exception:  # an integer of 20,000 digits
        return f"a {type(text).__name__}"
    said = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    return said if len(said) <= limit else said[: limit - 3] + "..."


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading; a pipe or device would wait for ever.

    Raises:
        SigmaError: it is none, cannot be opened, or is a Git LFS pointer in the place of the file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SigmaError("this is not a regular file", where=path)
        file = path.open("rb")
    except OSError as error:
        raise SigmaError("the file cannot be read", where=path, got=error.strerror or one_line(error)) from error
    if file.read(len(LFS_POINTER)) == LFS_POINTER:
        file.close()
        raise SigmaError(
            "this is a Git LFS pointer, not the file itself", where=path, remedy="fetch the file with: git lfs pull"
        )
    file.seek(0)
    return file


def read_text(path: Path, *, limit: int) -> str:
    """The text of a regular UTF-8 file of at most `limit` bytes.

    Raises:
        SigmaError: there is none.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise SigmaError("the file is too large", where=path, expected=f"at most {limit >> 20} MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SigmaError("the file is not UTF-8 text", where=path, got=one_line(error)) from error


def read_yaml(path: Path) -> object:
    """A YAML file's document; see `load_yaml`."""
    return load_yaml(read_text(path, limit=MAX_YAML_BYTES), where=path)


def load_yaml(text: str, *, where: object = None) -> object:
    """A YAML document without aliases and repeated keys.

    Raises:
        SigmaError: it is something else, too large or too deep.
    """
    if len(text) > MAX_YAML_BYTES:
        raise SigmaError("the YAML text is too large", where=where, expected=f"at most {MAX_YAML_BYTES >> 20} MiB")
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except Exception as error:
        raise SigmaError("this YAML cannot be read", where=where, got=one_line(error)) from error


def read_json(path: Path) -> object:
    """A JSON file's document; see `load_json`."""
    return load_json(read_text(path, limit=MAX_JSON_BYTES), where=path)


def load_json(text: str, *, where: object = None) -> object:
    """A JSON document at most `MAX_DEPTH` deep, no key twice in one object.

    Raises:
        SigmaError: it is something else.
    """
    try:
        if _depth(text) > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        return json.loads(text, object_pairs_hook=_unique)
    except Exception as error:
        raise SigmaError("this JSON cannot be read", where=where, got=one_line(error)) from error


def contained(root: Path, name: str) -> Path:
    """A path that a file names, below `root`.

    Raises:
        SigmaError: it leads out of `root`.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name:
        raise SigmaError("a path leads out of its folder", where=root, got=one_line(name))
    return root / path


def filled(template: str, fields: Mapping[str, str | int]) -> str:
    """A foreign template such as `data/chunk-{chunk:03d}.parquet` with its fields filled in.

    Raises:
        ValueError: a field is not known, or its format is more than a width.
    """
    parts = []
    for literal, name, form, _ in Formatter().parse(template):
        parts.append(literal)
        if name is None:
            continue
        value = fields.get(name)
        if value is None or not _NUMBER_FORMAT.fullmatch(form or "") or (form and isinstance(value, str)):
            raise ValueError(f"the path's field {one_line(name, 40)} is not known, expected {', '.join(fields)}")
        parts.append(format(value, form or ""))
    return "".join(parts)


def plain_texts(data: object) -> dict[str, str]:
    """The entries of a mapping whose values are text or numbers, as texts."""
    if not isinstance(data, dict):
        return {}
    return {str(key): str(value) for key, value in data.items() if isinstance(value, str | int | float)}


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside `path` for a new file or folder, which is there when all of it was written, or not at all."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text whole or not at all."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


class _PlainLoader(yaml.SafeLoader):
    """Without aliases (they can stand for a billion values), repeated keys, endless numbers and deep nesting."""

    _levels = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("aliases (*name) are not read; write the value out")
        self._levels += 1
        if self._levels > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and len(node.value) > _MAX_DIGITS and not node.tag.endswith(":str"):
            raise ValueError(f"a number has more than {_MAX_DIGITS} digits, line {node.start_mark.line + 1}")
        self._levels -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - yaml's
        seen: set[str] = set()
        for key, _ in getattr(node, "value", ()):
            name = f"{key.tag} {key.value}" if isinstance(key.value, str) else ""
            if name and name in seen:
                raise ValueError(f"the key {one_line(key.value, 40)} stands twice, line {key.start_mark.line + 1}")
            seen.add(name)
        return super().construct_mapping(node, deep)


def _depth(text: str) -> int:
    marks = re.finditer(r"[\[\]{}]", _STRINGS.sub("", text))
    return max(accumulate((1 if mark[0] in "[{" else -1 for mark in marks), initial=0))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found
