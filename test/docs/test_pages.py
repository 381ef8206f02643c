# SPDX-License-Identifier: Apache-2.0
"""The pages of the site: each is in its contents, and the messages explained are the code's own."""

import re
from pathlib import Path

import pytest
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


def test_the_readme_is_short_and_its_success_table_is_that_of_the_results() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:base|Sigma|95 %).*$", readme, re.MULTILINE)
    figures = [cell.strip() for row in rows for cell in row.strip("| ").split("|")[1:]]
    results = " ".join((DOCS / "results.md").read_text(encoding="utf-8").split())
    assert len(figures) == 6
    for figure in figures:  # "47 to 91 %" stands there as "(47 to 91)"
        assert figure in results or f"({figure.removesuffix(' %')})" in results, figure
    told = re.findall(r"\d+ of \d+", " ".join(readme.split()))
    assert len(told) == 7
    assert [figure for figure in told if figure not in results] == []
    assert len(readme.splitlines()) <= 63


NEEDED = {
    "the paper": "arxiv.org/abs/2512.00783",
    "the model card": "huggingface.co/Veltraxor/Sigma",
    "base and Sigma side by side": "docs/images/demo.gif",
    "what no peer has, in five lines": r"(?:\n- [^\n]+){5}\n\n",
    "a badge": "img.shields.io",
    "pip": "pip install",
    "make": "\nmake demo",
    "ROS": "docs/tutorial_ros.md",
    "three commands": r"## Three commands\n\n```sh\n(?:sigma [^\n]+\n){3}```",
    "the safety note": "Not safety-rated",
    "the citation": "CITATION.cff",
}


@pytest.mark.parametrize("what", NEEDED)
def test_the_readme_has_what_a_stranger_looks_for(what: str) -> None:
    assert re.search(NEEDED[what], (ROOT / "README.md").read_text(encoding="utf-8")), what


def test_the_first_page_shows_five_pictures_that_the_script_makes() -> None:
    made = (ROOT / "scripts" / "docs_pictures.py").read_text(encoding="utf-8")
    shown = re.findall(r"\]\(images/([^)]+)\)", (DOCS / "index.md").read_text(encoding="utf-8"))
    assert len(shown) == 5
    assert [name for name in shown if f'"{name}"' not in made] == []
