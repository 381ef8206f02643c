# SPDX-License-Identifier: Apache-2.0
"""`sigma WORDS` as a shell would run it, without the seconds that another process takes to import everything."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from sigma_ros.cli.main import main

Typed = Callable[..., CompletedProcess[str]]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Typed]:
    """Runs a command in this process, with nothing to read on its standard input."""

    def run(*words: str | Path) -> CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["sigma", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return CompletedProcess(sys.argv, int(left.value.code or 0), said.out, said.err)

    with Path(os.devnull).open(encoding="utf-8") as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        yield run
