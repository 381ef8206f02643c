# SPDX-License-Identifier: Apache-2.0
"""A small bag campaign (`make fuzz-bags` runs 2,000): every kind of damage is noticed, and the campaign itself sees."""

from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

import fuzz_bags  # noqa: E402
from bag_mutations import Expected, Mutation, boundaries, mutations, storage_of  # noqa: E402

pytestmark = pytest.mark.slow

KINDS = len(list(mutations()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("storage", fuzz_bags.SOURCES)
def test_every_kind_of_damage_is_handled(folder, storage):
    first = fuzz_bags.SOURCES.index(storage) * KINDS
    cases = fuzz_bags.run(range(first, first + KINDS), 1, folder)
    assert {case.storage for case in cases} == {storage}
    assert [case for case in cases if case.problem] == []


def test_more_bytes_are_damaged_without_harm(folder):
    rounds = [2 * KINDS * again + kind for again in range(1, 4) for kind in range(10)]
    assert [case for case in fuzz_bags.run(rounds, 2, folder) if case.problem] == []


def judged(folder: Path, mutation: Mutation, result: fuzz_bags.FuzzResult, monkeypatch) -> str:
    bag = fuzz_bags.pristine(folder, "mcap")
    monkeypatch.setattr(fuzz_bags, "replayed", lambda *_args, **_kwargs: result)
    good = fuzz_bags.FuzzResult(digest="good")
    return fuzz_bags.judged(mutation, "mcap", bag, expected=good)[1]


def test_the_campaign_sees_a_silently_wrong_result(folder, monkeypatch):
    kind = next(iter(mutations()))
    wrong = fuzz_bags.FuzzResult(digest="other")
    assert "without a word" in judged(folder, kind, wrong, monkeypatch)
    assert judged(folder, kind, replace(wrong, checksummed=False), monkeypatch) == ""
    assert "should be an error or a loss" in judged(
        folder, replace(kind, expected=Expected.LOST), fuzz_bags.FuzzResult(digest="good"), monkeypatch
    )
    assert "strict accepts" in judged(folder, kind, replace(wrong, losses=3), monkeypatch)


def test_the_campaign_sees_crashes_and_hangs(folder, monkeypatch):
    for error, outcome in ((ZeroDivisionError("a bug"), "crash"), (fuzz_bags.HangError(), "hang")):

        def broken(*_args, error=error, **_kwargs):
            raise error

        monkeypatch.setattr(fuzz_bags, "replay", broken)
        case = fuzz_bags.case_of(11, 0, folder)
        assert case.outcome == outcome
        assert case.problem


def test_bags_are_cut_where_records_end(folder):
    data = storage_of(fuzz_bags.pristine(folder, "mcap")).read_bytes()
    places = boundaries(data)
    assert places[-1] == len(data) - 8, "the last record ends before the closing magic"
    assert places == sorted(set(places))
