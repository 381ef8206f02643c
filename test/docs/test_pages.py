# SPDX-License-Identifier: Apache-2.0
"""The pages of the site: each is in its contents, and the messages explained are the code's own."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def listed(entries: list) -> set[str]:
    """The pages of a part of the contents, at any depth."""
    pages: set[str] = set()
    for entry in entries:
        for value in entry.values():
            pages |= {value} if isinstance(value, str) else listed(value)
    return pages


def test_every_page_is_in_the_contents() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert listed(site["nav"]) == {file.name for file in DOCS.glob("*.md")}


def test_the_messages_that_are_explained_are_the_codes_own() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    code = "\n".join(
        file.read_text(encoding="utf-8") for part in ("sigma_ros", "training") for file in (ROOT / part).rglob("*.py")
    )
    assert len(rows) > 8
    assert [row for row in rows if f'"{row}"' not in code] == []


def test_every_reason_that_is_explained_is_one_of_the_supervisors() -> None:
    from sigma_ros.supervisor.reasons import Reason  # noqa: PLC0415

    named = re.findall(r"^\| supervisor: (\w+) \|", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.M)
    assert named
    assert set(named) <= set(Reason.__members__)
