# SPDX-License-Identifier: Apache-2.0
"""Laws of many bags: the same rows whoever computes them, nothing computed twice, no bag ends the others."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from bags import small_contract, write_recording
from stub_runtime import StubRuntime
from typer.testing import CliRunner

from sigma_ros.cli.scores import evaluate, evaluate_run
from sigma_ros.cli.scores.evaluate import EvaluateRequest
from sigma_ros.errors import MachineError, SigmaError
from sigma_ros.evaluation import batch, fleet
from sigma_ros.evaluation.batch import MEASURED, BagRow, BatchSpec, Unit, finished, unit_of
from sigma_ros.evaluation.fleet import Work, Workers, run_units, shared_out
from sigma_ros.evaluation.precompute import NOTHING
from sigma_ros.evaluation.replay import ReplayOptions, replay
from sigma_ros.evaluation.report.saved import read_report
from sigma_ros.evaluation.report.summary import pool
from sigma_ros.evaluation.scoring.comparison import compare_reports
from sigma_ros.evaluation.scoring.score import score
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.policy.schedule import Schedule
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.values import AdapterSettings

CONTRACT = small_contract()
LONG = 52
HERE = Workers(count=0)


def recordings(folder: Path, count: int = 5) -> list[Path]:
    return [
        write_recording(folder / f"episode_{i}", CONTRACT, ticks=LONG - 3 * i, first_tick=5 * i) for i in range(count)
    ]


@pytest.fixture(scope="module")
def bags(tmp_path_factory) -> list[Path]:
    """Five good bags; the third is followed by one without its end, and one without a camera."""
    folder = tmp_path_factory.mktemp("bags")
    good = recordings(folder)
    cut = folder / "cut.mcap"
    cut.write_bytes(next(good[0].glob("*.mcap")).read_bytes()[:5000])
    blind = write_recording(folder / "blind", CONTRACT, ticks=LONG, leave_out=(CONTRACT.cameras[0].topic,))
    return [*good[:3], cut, blind, *good[3:]]


def spec(out: Path, **changes) -> BatchSpec:
    options = ReplayOptions(
        settings=AdapterSettings(), schedule=Schedule(8, 16), supervisor_limits=SupervisorLimits.for_replay()
    )
    fields = {"contract": CONTRACT, "options": options, "load": partial(StubRuntime, CONTRACT), "out": out}
    return BatchSpec(**{**fields, "stamp": "one", "pages": False, "conditions": {}, **changes})


def evaluated(bags, out, *, workers=HERE, stopped=lambda: False, **changes) -> list[BagRow]:
    how = spec(out, **changes)
    units = [unit_of(bag, how) for bag in bags]
    return run_units(units, how, workers, on_row=lambda *_: None, stopped=stopped)


def repeatable(rows: list[BagRow]) -> list[dict]:
    return [{k: repr(v) for k, v in asdict(row).items() if k not in MEASURED} for row in rows]


def contents(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("chunks.parquet"))}


@pytest.fixture(scope="module")
def here(bags, tmp_path_factory):
    """Rows and folder of an evaluation in this process."""
    out = tmp_path_factory.mktemp("here")
    return evaluated(bags, out), out


def test_a_broken_bag_becomes_a_row_with_its_reason_among_the_others(bags, here):
    rows, _ = here
    assert [row.bag for row in rows] == [str(bag) for bag in bags]
    assert [row.status for row in rows] == ["complete"] * 3 + ["failed"] * 2 + ["complete"] * 2
    assert CONTRACT.cameras[0].topic in rows[4].reason
    assert rows[3].reason
    assert rows[0].samples == 3


def test_the_pooled_scores_are_those_of_one_replay_of_all(bags, here):
    rows, out = here
    found = pool([out / "bags" / row.folder for row in rows if row.status != "failed"])
    assert found is not None
    pooled = found[0]
    options = spec(out).options
    logs = [
        replay(Path(row.bag), contract=CONTRACT, runtime=StubRuntime(CONTRACT), options=options)
        for row in rows
        if row.status != "failed"
    ]
    scores = score(*logs)
    assert pooled.comparison == scores.comparison
    assert pooled.sweep == scores.sweep
    assert pooled.comparison["mse_trj"].unit == "episode"


@pytest.mark.slow
def test_workers_on_ray_give_the_same_rows_and_chunks_as_this_process(bags, here, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="ray is not installed (the extra sigma_ros[fleet])")
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{root / 'test' / 'support'}:{root}")
    rows, out = here
    theirs = evaluated(bags, tmp_path, workers=Workers(count=2))
    assert repeatable(theirs) == repeatable(rows)
    assert contents(tmp_path) == contents(out)


def test_what_is_finished_is_not_computed_again_and_failures_are(bags, here):
    _, out = here
    units = [unit_of(bag, spec(out)) for bag in bags]
    kept = [finished(unit) for unit in units]
    assert [row is not None for row in kept] == [True] * 3 + [False] * 2 + [True] * 2
    assert repeatable([row for row in kept if row]) == repeatable([row for row in here[0] if row.status != "failed"])


@pytest.mark.parametrize("change", ["checkpoint", "settings", "bag"])
def test_another_checkpoint_setting_or_bag_is_computed_again(tmp_path, change):
    bag = write_recording(tmp_path / "bag", CONTRACT, ticks=20)
    evaluated([bag], tmp_path / "out")
    assert finished(unit_of(bag, spec(tmp_path / "out"))) is not None
    changes: dict = {}
    if change == "checkpoint":
        changes["stamp"] = "another"
    elif change == "settings":
        changes["options"] = replace(spec(tmp_path).options, settings=AdapterSettings(max_scale=0.5))
    else:
        next(bag.glob("*.mcap")).touch()
    assert finished(unit_of(bag, spec(tmp_path / "out", **changes))) is None


def test_a_half_written_result_does_not_count_as_finished(tmp_path):
    bag = write_recording(tmp_path / "bag", CONTRACT, ticks=20)
    evaluated([bag], tmp_path / "out")
    unit = unit_of(bag, spec(tmp_path / "out"))
    marker = unit.folder / batch.UNIT
    marker.write_text(marker.read_text()[:-20])
    assert finished(unit) is None


def test_a_stopped_evaluation_keeps_what_it_has(bags, tmp_path):
    seen = iter([False, False, True])
    assert len(evaluated(bags, tmp_path, stopped=lambda: next(seen))) == 2


def test_what_nobody_foresaw_is_a_reason_too(bags, tmp_path):
    class Broken(StubRuntime):
        def step(self, *_args, **_kwargs):
            raise ZeroDivisionError("nobody foresaw this")

    rows = evaluated(bags[:2], tmp_path, load=partial(Broken, CONTRACT))
    assert [row.reason for row in rows] == ["ZeroDivisionError: nobody foresaw this"] * 2


def test_two_bags_of_one_name_keep_their_own_results(tmp_path):
    bags = [write_recording(tmp_path / side / "episode", CONTRACT, ticks=20) for side in ("a", "b")]
    rows = evaluated(bags, tmp_path / "out")
    assert rows[0].folder != rows[1].folder
    assert len(list((tmp_path / "out" / "bags").iterdir())) == 2


def test_without_ray_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MachineError, match=r"sigma_ros\[fleet\].*--workers 0"):
        fleet.import_ray()


def request(bags, out, **changes) -> EvaluateRequest:
    return EvaluateRequest(**{"bags": list(bags), "out": out, "checkpoint": "stub", "workers": 0, **changes})


def one_by_one(ticks, *_args, **_options):
    return ((tick, NOTHING) for tick in ticks)


@pytest.fixture
def command(monkeypatch):
    """`sigma evaluate` with the small robot and the stand-in model; counts how often the model was loaded."""
    loads = []

    def load(*_args):
        loads.append(1)
        return StubRuntime(CONTRACT)

    monkeypatch.setattr(evaluate_run, "load_contract", lambda _name: CONTRACT)
    monkeypatch.setattr(evaluate_run, "load_runtime", load)
    # the stand-in has no network to work ahead on; test_lookahead has the laws of that
    monkeypatch.setattr("sigma_ros.evaluation.replay.ticks_ahead", one_by_one)
    return loads


def test_the_command_writes_one_summary_and_resumes_without_loading_the_model(bags, tmp_path, command):
    good = [bag for bag in bags if bag.name.startswith("episode")]
    assert evaluate_run.run(request(good, tmp_path)) == 0
    first = json.loads((tmp_path / "summary.json").read_text())
    assert evaluate_run.run(request(good, tmp_path)) == 0
    second = json.loads((tmp_path / "summary.json").read_text())
    assert len(command) == 1
    assert {k: v for k, v in first.items() if k != "conditions"} == {
        k: v for k, v in second.items() if k != "conditions"
    }
    assert pq.read_table(tmp_path / "bags.parquet").num_rows == 5
    page = (tmp_path / "summary.html").read_text()
    assert page.startswith("<!doctype html>")
    linked = re.findall(r'href="(bags/[^"]+)"', page)
    assert len(linked) == 5
    assert all((tmp_path / place).is_file() for place in linked), "a recording's name leads to its report"
    assert compare_reports(read_report(tmp_path), read_report(tmp_path)).sigma["mse_trj"].verdict == "equal"


def test_copies_of_a_recording_are_named(tmp_path, command):
    sides = [write_recording(tmp_path / side, CONTRACT, ticks=LONG) for side in ("left", "other")]
    copy = shutil.copytree(sides[0], tmp_path / "copy")
    evaluate_run.run(request([sides[0], copy], tmp_path / "twice"))
    warnings = json.loads((tmp_path / "twice" / "summary.json").read_text())["verdict"]["warnings"]
    assert [w for w in warnings if "COPIES" in w and "copy, left" in w]
    write_recording(tmp_path / "third", CONTRACT, ticks=LONG - 5)
    evaluate_run.run(request([sides[0], tmp_path / "third"], tmp_path / "once"))
    warnings = json.loads((tmp_path / "once" / "summary.json").read_text())["verdict"]["warnings"]
    assert not [w for w in warnings if "COPIES" in w]


def test_an_interrupted_command_counts_what_was_asked_for(bags, tmp_path, command, monkeypatch, capsys):
    good = [bag for bag in bags if bag.name.startswith("episode")]
    assert evaluate_run.run(request(good[:2], tmp_path)) == 0
    monkeypatch.setattr(evaluate_run, "run_units", lambda *_args, **_options: [])
    evaluate_run.run(request(good, tmp_path))
    assert "2 of 5 bags usable (2 from an earlier run, 3 not reached)" in " ".join(capsys.readouterr().out.split())


def test_failed_bags_end_with_3_strict_ones_with_1_and_are_listed(bags, tmp_path, command):
    assert evaluate_run.run(request(bags, tmp_path)) == 3
    document = json.loads((tmp_path / "summary.json").read_text())
    assert document["bags"]["failed"] == 2
    assert [failure["bag"] for failure in document["failures"]] == [str(bag) for bag in bags[3:5]]
    assert str(bags[4]) in (tmp_path / "summary.html").read_text()
    assert evaluate_run.run(request(bags, tmp_path, strict=True)) == 1
    assert evaluate_run.run(request(bags[3:5], tmp_path / "none")) == 1


def test_a_full_disk_is_an_error_and_not_a_row(tmp_path, monkeypatch):
    bag = write_recording(tmp_path / "bag", CONTRACT, ticks=20)
    unit: Unit = unit_of(bag, spec(tmp_path / "out"))
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(SigmaError, match="could not be written"):
        batch.failed(unit, "any")


def test_cameras_can_be_renamed_as_in_a_replay(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate_run, "run", lambda request: asked.append(request) or 0)
    bag = write_recording(tmp_path / "bag", CONTRACT, ticks=2)
    words = [
        str(bag),
        "--checkpoint",
        "mini",
        "--out",
        str(tmp_path),
        "--rename",
        "up=base_0_rgb",
        "--rename",
        "side=w",
    ]
    assert CliRunner().invoke(evaluate.app, words).exit_code == 0
    renamed = {
        "observation.images.up": "observation.images.base_0_rgb",
        "observation.images.side": "observation.images.w",
    }
    assert asked[0].loading()["rename"] == renamed
    loaded = []
    monkeypatch.setattr(SigmaRuntime, "load", lambda *_, **options: loaded.append(options))
    evaluate_run.load_runtime("mini", CONTRACT, asked[0].loading())
    assert loaded[0]["rename"] == renamed


# Workers that die: whoever is killed and whenever, run again the table is the same.


COUNT = int(os.environ.get("SIGMA_FLEET_BAGS", "8"))
TWO = Workers(count=2)


@pytest.fixture
def on_ray(monkeypatch):
    """Ray's workers find the tests' modules."""
    pytest.importorskip("ray", reason="ray is not installed (the extra sigma_ros[fleet])")
    root = Path(__file__).parents[2]
    paths = [root, root / "test" / "support", root / "test" / "evaluation"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))


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
    command = [sys.executable, "-c", f"from pathlib import Path; import test_batch; test_batch.{call}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        for _ in range(lines):
            assert process.stdout.readline(), "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.usefixtures("on_ray")
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
@pytest.mark.usefixtures("on_ray")
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
@pytest.mark.usefixtures("on_ray")
def test_a_piece_that_kills_its_workers_is_given_up_and_the_others_are_done() -> None:
    work = Work(load=partial(bool, 1), do=end_the_process, failed=said)
    found = shared_out(range(4), work, TWO, on_result=lambda *_: None)
    assert [found[0], *found[2:]] == ["piece 0", "piece 2", "piece 3"]
    assert f"{fleet._MAX_DEATHS} workers died" in found[1]
