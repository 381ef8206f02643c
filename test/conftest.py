# SPDX-License-Identifier: Apache-2.0
"""The same examples in every run, whatever the machine's speed: a law that fails here fails everywhere."""

import functools
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from hypothesis import settings

from sigma_ros.bags.lerobot_dataset import same_scheduling

WHOLE_FILE = re.compile(r"^pytestmark = (\[.*?^\]|.*?$)", re.MULTILINE | re.DOTALL)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file of which `-m "not slow and not ros"` leaves out every test is not even imported."""
    given = config.option.markexpr.split(" and ")
    marks = {mark.removeprefix("not ") for mark in given if re.fullmatch(r"not \w+", mark)}
    if len(marks) < len(given) or collection_path.suffix != ".py":
        return None
    found = WHOLE_FILE.search(collection_path.read_text(encoding="utf-8"))
    return True if found and marks & set(re.findall(r"mark\.(\w+)", found[1])) else None


settings.register_profile("laws", derandomize=True, deadline=None, database=None)
settings.load_profile("laws")

# A shell starts background jobs with Ctrl-C ignored, and our children would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _ordinary_scheduling() -> Iterator[None]:
    """LeRobot's video encoder puts root's process before everything else; the next test must not run like that."""
    with same_scheduling():
        yield


@functools.cache
def missing_gl() -> str | None:
    """Why MuJoCo cannot draw here; None: it can."""
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    from sigma_ros.errors import MachineError  # noqa: PLC0415 - most tests draw nothing
    from sigma_ros.sim.cameras import open_context  # noqa: PLC0415

    try:
        open_context(16, 16).free()
    except MachineError as error:
        return str(error)
    return None


@pytest.fixture(autouse=True)
def _skip_without_gl(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gl") and (reason := missing_gl()):
        pytest.skip(reason)


@pytest.fixture(scope="session")
def random_mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small pi0.5 with random weights: it takes any pose, and its Sigma equals its base."""
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415 - most tests need no model
    from sigma_ros.model.pi05.mini import make_mini  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("checkpoints") / "random_mini"
    make_mini(load_contract("so101"), folder, made_by="a test")
    return folder


@pytest.fixture
def typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., CompletedProcess[str]]]:
    """Runs `sigma WORDS` in this process, as a shell would: another one takes seconds to import everything."""
    from sigma_ros.cli.main import main  # noqa: PLC0415 - most tests type nothing

    def run(*words: str | Path) -> CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["sigma", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return CompletedProcess(sys.argv, int(left.value.code or 0), said.out, said.err)

    with Path(os.devnull).open(encoding="utf-8") as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        yield run
