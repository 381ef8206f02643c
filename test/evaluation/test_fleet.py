# SPDX-License-Identifier: Apache-2.0
"""Workers that die: whoever is killed and whenever, run again the table is the same."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from bags import write_recording
from test_batch import CONTRACT, contents, recordings, repeatable, spec

from sigma_ros.evaluation import fleet
from sigma_ros.evaluation.batch import BagRow, finished, unit_of
from sigma_ros.evaluation.fleet import Work, Workers, run_units, shared_out

ROOT = Path(__file__).parents[2]
PATHS = [ROOT, *(ROOT / "test" / name for name in ("support", "evaluation"))]
COUNT = int(os.environ.get("SIGMA_FLEET_BAGS", "8"))
TWO = Workers(count=2)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers find the tests' modules."""
    pytest.importorskip("ray", reason="ray is not installed (the extra sigma_ros[fleet])")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, PATHS)))


def small_bags(folder: Path, count: int = COUNT) -> list[Path]:
    return [write_recording(folder / f"bag_{i:03d}", CONTRACT, ticks=20 + i % 7, first_tick=i) for i in range(count)]


def evaluate_all(bags: list[Path], out: Path, workers: Workers = TWO) -> list[BagRow]:
    """As the command does: what is finished is taken, a line is printed for each new row."""
    how = spec(out)
    units = [unit_of(bag, how) for bag in bags]
    kept = {unit.bag: row for unit in units if (row := finished(unit)) is not None}
    new = run_units(
        [unit for unit in units if unit.bag not in kept],
        how,
        workers,
        on_row=lambda row, _: print(row.name, flush=True),  # noqa: T201 - a process that is to be killed tells
        stopped=lambda: False,
    )
    rows = kept | {Path(row.bag): row for row in new}
    return [rows[bag] for bag in bags]


def killed_after(lines: int, call: str) -> None:
    """Runs a call of this module in a process of its own and kills that after some lines of its output."""
    command = [sys.executable, "-c", f"from pathlib import Path; import test_fleet; test_fleet.{call}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        for _ in range(lines):
            assert process.stdout.readline(), "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_an_evaluation_on_two_workers_that_is_killed_and_resumed_has_the_table_of_one_that_was_not(
    tmp_path: Path,
) -> None:
    bags = small_bags(tmp_path / "bags")
    here = evaluate_all(bags, tmp_path / "here", Workers(count=0))
    lines = max(2, COUNT // 3)
    places = [repr(str(tmp_path / name)) for name in ("bags", "out")]
    killed_after(lines, f"evaluate_all(sorted(Path({places[0]}).iterdir()), Path({places[1]}))")
    units = [unit_of(bag, spec(tmp_path / "out")) for bag in bags]
    assert lines <= sum(finished(unit) is not None for unit in units) < len(bags)
    rows = evaluate_all(bags, tmp_path / "out")
    assert repeatable(rows) == repeatable(here)
    assert contents(tmp_path / "out") == contents(tmp_path / "here")


@pytest.mark.slow
def test_a_node_of_a_cluster_that_is_killed_changes_nothing(tmp_path: Path) -> None:
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    bags = recordings(tmp_path / "bags")
    here = evaluate_all(bags, tmp_path / "here", Workers(count=0))
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        rows: list[BagRow] = []

        def on_row(row: BagRow, _: object) -> None:
            rows.append(row)
            if len(rows) == 1:
                cluster.remove_node(second, allow_graceful=False)

        how = spec(tmp_path / "out")
        workers = Workers(count=2, address=cluster.address)
        found = run_units([unit_of(bag, how) for bag in bags], how, workers, on_row=on_row, stopped=lambda: False)
    finally:
        cluster.shutdown()
    assert repeatable(found) == repeatable(here)


def end_the_process(_piece: int, _tool: object) -> str:
    if _piece == 1:
        os._exit(1)
    return f"piece {_piece}"


def said(piece: int, reason: str) -> str:
    return f"piece {piece}: {reason}"


@pytest.mark.slow
def test_a_piece_that_kills_its_workers_is_given_up_and_the_others_are_done() -> None:
    work = Work(load=partial(bool, 1), do=end_the_process, failed=said)
    found = shared_out(range(4), work, TWO, on_result=lambda *_: None)
    assert [found[0], *found[2:]] == ["piece 0", "piece 2", "piece 3"]
    assert f"{fleet._MAX_DEATHS} workers died" in found[1]
