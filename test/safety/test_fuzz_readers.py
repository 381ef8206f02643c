# SPDX-License-Identifier: Apache-2.0
"""The fuzzer guided by coverage sees what it is for, and its seeds are read without a word."""

import random
import threading
from pathlib import Path

import fuzz_readers
import pytest
from fuzz_bags import HangError

from sigma_ros.errors import SigmaError


def test_every_end_but_a_result_and_one_sentence_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {
        ZeroDivisionError("a bug"): "ZeroDivisionError",
        HangError(): "HangError",
        SigmaError("two\nlines"): "refused",
    }
    for error, name in ends.items():

        def broken(_folder: Path, error: BaseException = error) -> None:
            raise error

        monkeypatch.setitem(fuzz_readers.READERS, "bag", broken)
        end, problem = fuzz_readers.problem_of("bag", tmp_path)
        assert end == name
        assert problem
    monkeypatch.setitem(fuzz_readers.READERS, "bag", lambda _: None)
    assert fuzz_readers.problem_of("bag", tmp_path) == ("read", "")


def test_a_hang_is_so_much_computing_and_not_so_much_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def computing(_folder: Path) -> None:
        while True:
            pass

    def waiting(_folder: Path) -> None:
        threading.Event().wait()

    for reader in (computing, waiting):
        monkeypatch.setitem(fuzz_readers.READERS, "bag", reader)
        end, problem = fuzz_readers.problem_of("bag", tmp_path, 0.2)
        assert end == "HangError"
        assert problem
    asleep: list[float] = []
    monkeypatch.setitem(fuzz_readers.READERS, "bag", lambda _: asleep.append(threading.Event().wait(0.4)))
    assert fuzz_readers.problem_of("bag", tmp_path, 0.2) == ("read", ""), "a busy machine makes no hang"


@pytest.mark.slow
def test_seeds_and_a_few_of_their_mutants_have_no_finding(tmp_path: Path) -> None:
    rng = random.Random(0)
    for number, (kind, files) in enumerate(fuzz_readers.seeds(tmp_path / "seeds")):
        for again, tried in enumerate((files, fuzz_readers.mutant(files, files, rng))):
            fuzz_readers._put(tmp_path / f"{number}_{again}", kind, tried)
            end, problem = fuzz_readers.problem_of(kind, tmp_path / f"{number}_{again}" / "input", 600)
            assert problem == "", f"{kind}: {end}"
