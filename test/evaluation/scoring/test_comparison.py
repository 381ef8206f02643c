# SPDX-License-Identifier: Apache-2.0
"""Laws of comparing reports: pairing is exact, B against A is the mirror of A against B, strangers are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from synthetic import synthetic_log, with_scale

from sigma_ros.errors import SigmaError, UsageError
from sigma_ros.evaluation.report.document import plain, report_document
from sigma_ros.evaluation.report.markdown import comparison_markdown, report_markdown
from sigma_ros.evaluation.report.saved import SavedReport, read_report
from sigma_ros.evaluation.report.write import write_report
from sigma_ros.evaluation.scoring.comparison import compare_reports
from sigma_ros.evaluation.scoring.score import score

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def no_page():
    """The page is not what is tested here, and takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sigma_ros.evaluation.report.write.report_page", lambda *_: "")
        yield


def saved(folder, *logs) -> SavedReport:
    write_report(list(logs), score(*logs), folder)
    return read_report(folder)


def episodes(count=6, **changes):
    """Recordings with hashes of their own; the same seeds give the same recorded actions."""
    logs = []
    for seed in range(count):
        log = synthetic_log(seed=seed, ticks=64, name=f"episode_{seed}", **changes)
        logs.append(replace(log, bag=replace(log.bag, sha256=f"{seed:064x}")))
    return logs


@pytest.fixture(scope="module")
def base_and_sigma(tmp_path_factory):
    """A: the adapter off. B: the whole residual, which repairs 30 % of the miss."""
    folder = tmp_path_factory.mktemp("reports")
    a = saved(folder / "a", *(with_scale(log, 0.0) for log in episodes()))
    return a, saved(folder / "b", *(with_scale(log, 1.0) for log in episodes()))


def test_a_report_compared_with_itself_is_equal(base_and_sigma):
    result = compare_reports(base_and_sigma[1], base_and_sigma[1])
    assert {row.verdict for row in (*result.sigma.values(), *result.base.values())} == {"equal"}
    assert result.differences == {}
    assert result.headline.startswith("A and B are the same")


def test_the_better_report_is_named_with_interval_and_p_value(base_and_sigma):
    result = compare_reports(*base_and_sigma)
    row = result.sigma["mse_trj"]
    assert row.verdict == "better"
    assert (row.unit, row.units) == ("episode", 6)
    assert row.relative == pytest.approx(0.7**2 - 1.0, abs=1e-9), "the residual repairs 30 % of the miss everywhere"
    assert result.headline.startswith("B is better than A: mse_trj of B's Sigma is 51.0% lower")
    assert result.base["mse_trj"].verdict == "equal", "both have the same base"


def test_turned_around_the_comparison_is_its_mirror(base_and_sigma):
    there, back = compare_reports(*base_and_sigma), compare_reports(*reversed(base_and_sigma))
    for name, row in there.sigma.items():
        assert back.sigma[name].difference == -row.difference
        assert back.sigma[name].p_value == row.p_value
    assert back.sigma["mse_trj"].verdict == "worse"


def test_it_agrees_with_the_reports_own_numbers(base_and_sigma):
    result = compare_reports(*base_and_sigma)
    assert result.sigma["mse_vec"].sigma == base_and_sigma[1].document["sigma"]["mse_vec"]
    assert result.sigma["mse_chk"].baseline == base_and_sigma[0].document["sigma"]["mse_chk"]


def test_both_are_measured_in_the_same_action_space(base_and_sigma, tmp_path):
    def stretched(log):
        return replace(log, policy=replace(log.policy, action_scale=10.0 * log.policy.action_scale))

    b = saved(tmp_path, *(stretched(with_scale(log, 1.0)) for log in episodes()))
    assert compare_reports(base_and_sigma[0], b).sigma["mse_trj"].relative == pytest.approx(0.7**2 - 1.0, abs=1e-9)


def test_the_order_of_the_recordings_does_not_matter(base_and_sigma, tmp_path):
    b = saved(tmp_path, *(with_scale(log, 1.0) for log in reversed(episodes())))
    assert compare_reports(base_and_sigma[0], b).sigma == compare_reports(*base_and_sigma).sigma


def test_reports_of_different_recordings_are_refused_with_their_names(base_and_sigma, tmp_path):
    fewer = saved(tmp_path, *episodes()[1:])
    with pytest.raises(UsageError, match=r"different recordings.*only in A: episode_0"):
        compare_reports(base_and_sigma[0], fewer)


def test_other_recorded_actions_of_the_same_recording_are_refused(tmp_path):
    log = episodes(1)[0]
    moved = replace(log, ticks=replace(log.ticks, action_rad=log.ticks.action_rad + 0.1))
    with pytest.raises(UsageError, match="other recorded actions"):
        compare_reports(saved(tmp_path / "a", log), saved(tmp_path / "b", moved))


def test_windows_that_only_one_report_has_are_left_out_and_said(tmp_path):
    log = episodes(1)[0]
    short = replace(log, inferences=log.inferences[:-2], strips=(), complete=False)
    result = compare_reports(saved(tmp_path / "a", log), saved(tmp_path / "b", short))
    assert result.windows == 3
    assert any("1 windows of A" in warning for warning in result.warnings)
    assert any(warning.startswith("B IS INCOMPLETE") for warning in result.warnings)


def test_conditions_that_differ_are_listed(base_and_sigma, tmp_path):
    logs = [replace(log, run=replace(log.run, seed=7, task="something else")) for log in episodes()]
    result = compare_reports(base_and_sigma[0], saved(tmp_path, *logs))
    assert result.differences["seed"][1] == 7
    assert result.differences["tasks"][1] == ["something else"]


def test_a_folder_without_a_report_and_a_damaged_one_are_told_apart(tmp_path):
    with pytest.raises(UsageError, match="no report"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(SigmaError, match="cannot be read"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text('{"schema": "other"}')
    with pytest.raises(SigmaError, match="another version"):
        read_report(tmp_path)


def test_the_comparison_is_plain_json_and_markdown(base_and_sigma):
    document = plain(compare_reports(*base_and_sigma).document())
    json.dumps(document, allow_nan=False)
    page = comparison_markdown(document)
    assert page.startswith("**B is better than A")
    assert "| Sigma mse_trj |" in page
    widths = {line.count("|") for line in page.splitlines() if line.startswith("|")}
    assert widths == {8}


def test_a_report_as_markdown_opens_with_its_verdict_and_warnings():
    log = synthetic_log(trained=False)
    page = report_markdown(report_document([log], score(log), {}))
    assert page.startswith("**No verdict on an untrained model.**\n\n> UNTRAINED MODEL")
    assert "| mse_trj (16 steps) |" in page
    empty = synthetic_log(ticks=10)
    assert "–" in report_markdown(report_document([empty], score(empty), {}))


def test_only_scored_windows_are_kept_with_their_actions(base_and_sigma):
    windows = base_and_sigma[0].windows
    assert windows.target_rad.shape == (24, 16, 6)
    assert np.isfinite(windows.target_rad).all()
    assert set(windows.tick.tolist()) == {0, 16, 32, 48}
