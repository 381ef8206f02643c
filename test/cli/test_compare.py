# SPDX-License-Identifier: Apache-2.0
"""`sigma compare`: what is printed, as what, and what is refused."""

import json

import pytest
from synthetic import synthetic_log, with_scale
from typer.testing import CliRunner

from sigma_ros.cli.scores.compare import app
from sigma_ros.errors import UsageError
from sigma_ros.evaluation.report.write import write_report
from sigma_ros.evaluation.scoring.score import score


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sigma_ros.evaluation.report.write.report_page", lambda *_: "")
        for name, scale in (("a", 0.0), ("b", 1.0)):
            log = with_scale(synthetic_log(), scale)
            write_report([log], score(log), folder / name)
    return [str(folder / "a"), str(folder / "b" / "report.json")]


def test_text_names_the_better_one(reports):
    done = CliRunner().invoke(app, reports, env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("B is better than A")
    assert "10 paired windows of 1 recording(s)" in done.stdout


def test_markdown_and_json_say_the_same(reports):
    page = CliRunner().invoke(app, [*reports, "--format", "md"]).stdout
    document = json.loads(CliRunner().invoke(app, [*reports, "--format", "json"]).stdout)
    assert document["headline"] in page
    assert document["sigma"]["mse_trj"]["verdict"] == "better"


def test_a_place_without_a_report_is_wrong_usage(reports, tmp_path):
    done = CliRunner().invoke(app, [reports[0], str(tmp_path)])
    assert isinstance(done.exception, UsageError)
