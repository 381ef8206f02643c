# SPDX-License-Identifier: Apache-2.0
"""The report's files: schema, repeatability, honest words, and never half of one."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from jsonschema import Draft202012Validator
from synthetic import SCHEMA_FILE, synthetic_log, with_scale

from sigma_ros.errors import SigmaError, UsageError
from sigma_ros.evaluation.log import ReplayLog
from sigma_ros.evaluation.report.document import MEASURED_KEYS, report_document, to_text
from sigma_ros.evaluation.report.page import report_page
from sigma_ros.evaluation.report.write import FILES, write_report
from sigma_ros.evaluation.scoring.score import score

pytestmark = pytest.mark.slow


def document(*logs: ReplayLog) -> dict:
    return report_document(logs, score(*logs), {})


def first_line(page: str) -> str:
    """The first words that a reader of the page sees."""
    return page.split("<body>")[1].split("</div>", maxsplit=1)[0].split(">")[1].strip()


@pytest.fixture(scope="module")
def log() -> ReplayLog:
    return synthetic_log()


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    content = json.loads(SCHEMA_FILE.read_text())
    Draft202012Validator.check_schema(content)
    return Draft202012Validator(content)


def test_the_schema_says_what_each_part_of_a_report_is(schema):
    parts = schema.schema["properties"]
    assert [name for name, part in parts.items() if name != "schema" and not part.get("description")] == []


@pytest.mark.parametrize(
    "arguments", [{}, {"ticks": 10}, {"gaps": (20, 21)}, {"complete": False}, {"contract_name": "cr5"}]
)
def test_every_report_follows_the_documented_schema(schema, arguments):
    parsed = json.loads(to_text(document(synthetic_log(**arguments))))
    assert [error.message for error in schema.iter_errors(parsed)] == []


def test_a_report_over_many_recordings_follows_the_schema_and_has_a_row_for_each(schema):
    logs = [synthetic_log(seed=seed, name=f"episode_{seed:06d}", ticks=48) for seed in range(6)]
    parsed = json.loads(to_text(document(*logs)))
    assert list(schema.iter_errors(parsed)) == []
    assert [row["name"] for row in parsed["episodes"]] == [log.bag.name for log in logs]
    assert parsed["comparison"]["mse_trj"]["unit"] == "episode"
    assert parsed["samples"] == sum(row["samples"] for row in parsed["episodes"]) == 18


def test_the_hash_of_the_data_is_the_same_in_whatever_order_the_recordings_are_given():
    logs = [synthetic_log(seed=seed, name=f"episode_{seed}", ticks=48) for seed in range(3)]
    logs = [replace(log, bag=replace(log.bag, sha256=f"{seed:064x}")) for seed, log in enumerate(logs)]
    hashes = {document(*ordered)["bag"]["sha256"] for ordered in (logs, logs[::-1], [logs[1], logs[0], logs[2]])}
    assert len(hashes) == 1
    assert document(*logs[:2])["bag"]["sha256"] not in hashes


def test_times_of_recording_are_said_before_the_numbers(log):
    other = replace(log, bag=replace(log.bag, stamps="log"))
    assert any("TIMES OF RECORDING" in warning for warning in document(other)["verdict"]["warnings"])
    assert not any("TIMES OF RECORDING" in warning for warning in document(log)["verdict"]["warnings"])


def test_the_same_replay_gives_the_same_bytes_but_for_what_was_measured(tmp_path):
    texts, tables = [], []
    for wall_ns, run in enumerate(("one", "two"), start=1_000_000_000):
        log = replace(synthetic_log(), wall_ns=wall_ns)
        paths = write_report([log], score(log), tmp_path / run, conditions={"command": run})
        parsed = json.loads(paths.json.read_text())
        texts.append(json.dumps({key: value for key, value in parsed.items() if key not in MEASURED_KEYS}))
        tables.append(paths.chunks.read_bytes())
    assert texts[0] == texts[1]
    assert tables[0] == tables[1]


def test_the_table_holds_every_chunk_to_the_last_bit(log, tmp_path):
    table = pq.read_table(write_report([log], score(log), tmp_path).chunks)
    assert table.num_rows == len(log.inferences)
    for row, entry in zip(table.to_pylist(), log.inferences, strict=True):
        base = np.array(row["base_rad"]).reshape(row["horizon"], -1)
        np.testing.assert_array_equal(base, entry.chunk.base_rad)
    assert table.schema.metadata[b"joint_names"].decode().split(",") == list(log.contract.joint_names)


def test_a_report_of_an_untrained_model_says_so_in_its_first_line():
    log = synthetic_log(trained=False)
    page = report_page([log], score(log), document(log))
    assert first_line(page).startswith("UNTRAINED MODEL")
    assert document(log)["verdict"]["warnings"][0].startswith("UNTRAINED MODEL")
    assert "beats" not in document(log)["verdict"]["headline"]


def test_a_report_of_a_trained_model_does_not_say_untrained(log):
    page = report_page([log], score(log), document(log))
    assert "UNTRAINED" not in page.replace("untrained", "")


def test_an_incomplete_replay_says_so_before_its_numbers(log):
    stopped = replace(log, complete=False)
    page = report_page([stopped], score(stopped), document(stopped))
    assert first_line(page).startswith("INCOMPLETE")
    assert document(stopped)["complete"] is False


def test_a_sigma_that_does_not_win_is_not_praised():
    worse = document(synthetic_log(residual_share=-0.5))["verdict"]["headline"]
    assert worse.startswith("After the supervisor, Sigma is worse than its base")
    equal = document(with_scale(synthetic_log(), 0.0))["verdict"]["headline"]
    assert equal.startswith("Sigma equals its base exactly")
    nothing = document(synthetic_log(ticks=10))["verdict"]["headline"]
    assert nothing.startswith("Nothing was scored")


def test_a_sigma_that_wins_is_stated_with_its_interval(log):
    headline = document(log)["verdict"]["headline"]
    assert headline.startswith("After the supervisor, Sigma beats its base: mse_trj is")
    assert "95% interval" in headline


def test_a_gain_that_chance_could_explain_is_not_called_one(log):
    """Every other chunk's residual is turned round: on the average it neither helps nor harms."""
    entries = tuple(
        replace(entry, chunk=replace(entry.chunk, residual_rad=entry.chunk.residual_rad * (1 if i % 4 else -1)))
        for i, entry in enumerate(log.inferences)
    )
    silent = replace(log.decisions, command_rad=np.full_like(log.decisions.command_rad, np.nan))
    headline = document(replace(log, inferences=entries, decisions=silent))["verdict"]["headline"]
    assert headline.startswith("Proposed only, nothing was commanded: Sigma does not beat its base")


def test_broken_limits_are_shouted_about(log):
    broken = replace(log, decisions=replace(log.decisions, violations=2))
    assert any(warning.startswith("LIMITS BROKEN: 2") for warning in document(broken)["verdict"]["warnings"])


def test_a_recording_without_checksums_is_called_unverifiable(log):
    unsure = replace(log, bag=replace(log.bag, checksummed=False))
    assert any(warning.startswith("UNVERIFIABLE") for warning in document(unsure)["verdict"]["warnings"])


def test_the_page_asks_the_network_for_nothing(log):
    page = report_page([log], score(log), document(log))
    assert "default-src 'none'" in page
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert len(page) < 6_000_000


def test_text_from_a_recording_cannot_become_part_of_the_page(log):
    hostile = "</script><script>alert(1)</script>"
    named = replace(log, bag=replace(log.bag, name=hostile), run=replace(log.run, task=hostile))
    assert "<script>alert" not in report_page([named], score(named), document(named))


def test_a_report_is_not_overwritten_unless_asked(log, tmp_path):
    write_report([log], score(log), tmp_path)
    before = (tmp_path / "report.json").read_bytes()
    with pytest.raises(UsageError, match="already holds a report"):
        write_report([log], score(log), tmp_path)
    assert (tmp_path / "report.json").read_bytes() == before
    write_report([log], score(log), tmp_path, force=True)


def test_other_files_in_the_folder_are_left_alone(log, tmp_path):
    (tmp_path / "recording").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    write_report([log], score(log), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "notes.txt", "recording"])


def test_a_file_in_place_of_the_folder_is_refused(log, tmp_path):
    target = tmp_path / "report"
    target.write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        write_report([log], score(log), target)


def test_a_failing_writer_leaves_nothing_behind(log, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sigma_ros.evaluation.report.write.to_text", full)
    with pytest.raises(SigmaError, match="could not be written"):
        write_report([log], score(log), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    """A child process that may write 200 kB per file: the page does not fit."""
    script = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "from pathlib import Path\n"
        "from synthetic import synthetic_log\n"
        "from sigma_ros.errors import SigmaError\n"
        "from sigma_ros.evaluation.report.write import write_report\n"
        "from sigma_ros.evaluation.scoring.score import score\n"
        "log = synthetic_log(ticks=48)\n"
        "try:\n"
        "    write_report([log], score(log), Path(sys.argv[3]))\n"
        "except SigmaError as error:\n"
        "    sys.exit(0 if 'could not be written' in str(error) else 5)\n"
        "sys.exit(6)\n"
    )
    here = Path(__file__).resolve()
    out = tmp_path / "out"
    child = subprocess.run(
        [sys.executable, "-c", script, str(here.parents[3]), str(here.parents[2] / "support"), str(out)],
        preexec_fn=_limit_files,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert list(out.iterdir()) == []


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
