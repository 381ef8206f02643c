# SPDX-License-Identifier: Apache-2.0
"""Nothing in a foreign file hangs, crashes, leads out of its folder or is formatted: every failure is one sentence."""

import json
import os
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma_ros import border
from sigma_ros.bags.reader import open_bag
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import SigmaError

BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
DOCUMENTS = {
    "aliases": BOMB,
    "a key twice": "fps: 30\nfps: 60\n",
    "deep": "[" * 5000,
    "a long integer": "fps: " + "9" * 20_000,
    "a tag": "!!python/object/apply:os.system [ls]",
    "no YAML": "a: [",
}


@pytest.mark.parametrize("kind", sorted(DOCUMENTS))
def test_hostile_yaml_is_one_sentence_for_a_contract_and_a_counted_loss_for_a_bag(tmp_path: Path, kind: str) -> None:
    (tmp_path / "contract.yaml").write_text(DOCUMENTS[kind])
    with pytest.raises(SigmaError) as caught:
        load_contract(tmp_path / "contract.yaml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    with pytest.raises(SigmaError):
        border.load_yaml(DOCUMENTS[kind])
    assert_metadata_is_passed_over(tmp_path / "bag", DOCUMENTS[kind])


def assert_metadata_is_passed_over(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "metadata.yaml").write_text(text)
    with pytest.raises(SigmaError, match="not a rosbag2 bag"):
        open_bag(folder)


DEEP = "{" + '"a":{' * 70 + "}" * 71


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": 1, "a": 2}', "9" * 20_000, "[1,", DEEP])
def test_hostile_json_is_one_sentence(text: str) -> None:
    with pytest.raises(SigmaError) as caught:
        border.load_json(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


SIXTIES = "fps: 1" + ":1" * 100_000
"""A number to the base of 60: as an integer it takes the square of its length."""


@pytest.mark.parametrize("text", ['"\\' * 500_000, "[" + '"\\"' * 300_000, "[],{}" * 200_000, '{"a":' * 200_000])
def test_reading_takes_time_in_proportion_to_the_text(text: str) -> None:
    before = process_time()
    with pytest.raises(SigmaError):
        border.load_json(text)
    with pytest.raises(SigmaError, match="digits"):
        border.load_yaml(SIXTIES)
    assert process_time() - before < 20.0, "in proportion it is a tenth of a second, else an hour"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)


@given(VALUES)
def test_ordinary_json_is_read_as_it_is(value: object) -> None:
    assert border.load_json(json.dumps(value)) == value


@given(st.text())
def test_a_name_stays_below_its_folder_or_is_refused(name: str) -> None:
    root = Path("/data/set")
    try:
        found = border.contained(root, name)
    except SigmaError:
        return
    assert Path(os.path.normpath(found)).is_relative_to(root)


def test_templates_are_filled_by_known_fields_and_widths_alone() -> None:
    fields = {"number": 7, "key": "up"}
    assert border.filled("a/{key}/x_{number:06d}.mp4", fields) == "a/up/x_000007.mp4"
    for hostile in ("{key:>3000000000}", "{number.__class__}", "{0}", "{number!r:>9}x{other}", "{number:99999d}"):
        with pytest.raises(ValueError, match=r"not known"):
            border.filled(hostile, fields)


@given(st.text() | st.integers() | st.binary() | st.lists(st.integers()))
def test_foreign_text_is_one_short_printable_line(value: object) -> None:
    said = border.one_line(value, 50)
    assert len(said) <= 50
    assert said.isprintable()


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mcap")
    with pytest.raises(SigmaError, match="not a regular file"):
        border.open_regular(tmp_path / "a.mcap")


def test_small_pieces_may_expand_freely_and_large_ones_a_hundredfold() -> None:
    assert border.most_output_bytes(1) == 16 << 20
    assert border.most_output_bytes(1 << 20) == 100 << 20
    assert border.most_output_bytes(1 << 40) == 1 << 30
