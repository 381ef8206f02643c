# SPDX-License-Identifier: Apache-2.0
"""The reports' words: the same explanation on the page and in the docs, and nothing foreign gets into the markup."""

import runpy
from pathlib import Path

import pytest

from sigma_ros.evaluation.report.terms import TERMS, term

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "docs_pages.py"


@pytest.mark.ros  # the script makes the page of parameters, too
def test_the_glossary_says_what_the_pages_say() -> None:
    text = runpy.run_path(str(SCRIPT))["glossary_page"]()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[2:] == [f"| {name} | {meaning} |" for name, meaning in TERMS.items()]


def test_a_word_without_an_explanation_is_an_error() -> None:
    with pytest.raises(KeyError):
        term("belief")


def test_what_is_shown_cannot_end_the_element() -> None:
    assert "<b>" not in term("scale", "<b>scale</b>")
