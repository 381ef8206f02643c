# SPDX-License-Identifier: Apache-2.0
"""The commands that texts of this repository print: README, docs, examples, the help of `sigma` and of each module."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")])
MODULES = sorted(file for folder in ("examples", "training", "bench") for file in (ROOT / folder).rglob("*.py"))
TEXTS = [*PAGES, *MODULES]
FENCE = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
SHELL = re.compile(r"```(?:sh|bash)\n(.*?)```", re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
INDENTED = re.compile(r"^ {4}(.*)$", re.MULTILINE)
STARTS = re.compile(
    r"^(sigma( |$)|make |ros2 (service call|action send_goal|param (set|load)) |"
    r"ros2 (launch|run) sigma_ros |python -m (training|sigma_ros|safety)\b|python (examples|bench)/)"
)
PLACEHOLDERS = {"N": "1", "QUALITY": "90"}
"""Words that stand for a number in a text."""


@dataclass(frozen=True, slots=True)
class Printed:
    """A command in a text. `whole`: it stands there to be typed as it is, not as a mention of a few options."""

    where: str
    text: str
    whole: bool

    @property
    def words(self) -> list[str]:
        """As a shell would split it, without brackets around what may be left out."""
        bare = re.sub(r"\[(-[^\]]*)\]", r"\1", self.text)
        words = shlex.split(bare, comments=True)
        return [PLACEHOLDERS.get(word, word) for word in words if word != "..."]


def printed_commands() -> list[Printed]:
    """All of them, each text's in order."""
    return [command for text in TEXTS for command in _of(text)]


def other_commands() -> list[tuple[str, str]]:
    """What shell blocks of the pages print and no parser of ours can judge: page and command."""
    return [
        (file.name, part)
        for file in PAGES
        for block in SHELL.findall(file.read_text(encoding="utf-8"))
        for line in _joined(block)
        for part in _split(line)
        if not STARTS.match(part)
    ]


def _of(file: Path) -> Iterator[Printed]:
    text = file.read_text(encoding="utf-8")
    name = str(file.relative_to(ROOT))
    if file.suffix == ".md":
        for block in FENCE.findall(text):
            yield from _lines(block, name)
        for span in SPAN.findall(FENCE.sub("", text)):
            yield from _parts(" ".join(span.split()), name, whole=False)
    elif file.suffix == ".py":
        yield from _lines("\n".join(INDENTED.findall(ast.get_docstring(ast.parse(text), clean=False) or "")), name)


def _lines(block: str, name: str) -> Iterator[Printed]:
    for line in _joined(block):
        yield from _parts(line, name, whole="..." not in line)


def _joined(block: str) -> list[str]:
    return re.sub(r"\\\n\s*", " ", block).splitlines()


def _parts(line: str, name: str, *, whole: bool) -> Iterator[Printed]:
    yield from (Printed(name, part, whole) for part in _split(line) if STARTS.match(part))


def _split(line: str) -> list[str]:
    """The commands of a line, without its comment, a loop's words and what the shell would put in."""
    bare = re.sub(r"\$(\([^)]*\)|\w+)", "0", re.sub(r"(^|\s)#.*", "", line))
    parts = (re.sub(r"^\s*(do|for .*|done)\b", "", part).strip() for part in re.split(r"&&|;|\|\|", bare))
    return [part for part in parts if part]


def example_of(help_text: str) -> list[Printed]:
    """What a verb's help prints after `Example:`."""
    found = re.search(r"Example: (.*)", " ".join(help_text.split()))
    return list(_parts(found.group(1), "--help", whole=True)) if found else []
