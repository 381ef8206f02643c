# SPDX-License-Identifier: Apache-2.0
"""Options become one value, and what cannot be written or run is refused before costly work."""

import tempfile
from dataclasses import fields
from pathlib import Path

import pytest
from synthetic import synthetic_log
from typer.testing import CliRunner

from sigma_ros.cli.main import load_verb
from sigma_ros.cli.options import GroupedCommand, command_of, verb
from sigma_ros.cli.scores import sim
from sigma_ros.cli.scores.evaluate import EvaluateRequest
from sigma_ros.cli.scores.replay import ReplayRequest
from sigma_ros.errors import MachineError, SigmaError, UsageError
from sigma_ros.evaluation.report.write import FILES, refuse_unwritable, refuse_unwritable_file, write_or_keep
from sigma_ros.evaluation.scoring.score import score


@pytest.mark.parametrize(("name", "kind"), [("replay", ReplayRequest), ("evaluate", EvaluateRequest)])
def test_every_option_of_the_verb_is_a_field_of_its_value(name: str, kind: type) -> None:
    parameters = {entry.name for entry in load_verb(name).params}
    assert parameters == {entry.name for entry in fields(kind)}


def test_the_command_builds_the_value_from_what_was_typed() -> None:
    given: list[ReplayRequest] = []

    def run(request: ReplayRequest) -> int:
        given.append(request)
        return 3

    app = verb()
    app.command(cls=GroupedCommand)(command_of(ReplayRequest, run))
    typed = ["--bag", "a", "--bag", "b", "--out", "o", "--checkpoint", "mini", "--no-supervisor", "--max-scale", "0.5"]
    result = CliRunner().invoke(app, [*typed, "--rename", "up=base_0_rgb"])
    assert result.exit_code == 3, result.output
    assert given == [
        ReplayRequest(
            bags=[Path("a"), Path("b")],
            out=Path("o"),
            checkpoint="mini",
            supervisor=False,
            max_scale=0.5,
            rename=["up=base_0_rgb"],
        )
    ]


def test_settings_that_contradict_each_other_are_wrong_usage() -> None:
    request = ReplayRequest(bags=[], out=Path("o"), checkpoint="mini", min_scale=0.8, max_scale=0.2)
    with pytest.raises(UsageError, match="settings"):
        request.adapter()


def test_help_is_in_groups_and_says_what_the_temperature_does() -> None:
    text = " ".join(CliRunner().invoke(load_verb_app("replay"), ["--help"]).output.split())
    for group in ("Model:", "Adapter:", "Recording:", "Studies:"):
        assert group in text
    assert "exp(-risk / T)" in text
    assert "halves" not in text


def load_verb_app(name: str) -> object:
    from importlib import import_module  # noqa: PLC0415

    return import_module(f"sigma_ros.cli.scores.{name}").app


def test_looking_whether_a_folder_can_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "a" / "b")
    refuse_unwritable_file(tmp_path / "c" / "file.rrd")
    assert list(tmp_path.iterdir()) == []
    refuse_unwritable(tmp_path)
    assert tmp_path.is_dir()


def test_a_place_that_cannot_be_written_is_refused_beforehand(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"cannot be written.*--out"):
        refuse_unwritable(Path("/proc/foo"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        refuse_unwritable(tmp_path / "file")
    with pytest.raises(UsageError, match="is a folder"):
        refuse_unwritable_file(tmp_path)


def test_sim_refuses_a_file_in_place_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(sim.app, ["--out", str(tmp_path / "file")])
    assert isinstance(result.exception, UsageError)
    assert "not a folder" in str(result.exception)


@pytest.mark.slow
def test_a_report_that_the_disk_refuses_is_kept_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_kwargs: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("sigma_ros.evaluation.report.write.report_page", full)
    log = synthetic_log(ticks=48)
    with pytest.raises(SigmaError, match=r"could not be written.*kept in .*sigma_report_"):
        write_or_keep([log], score(log), tmp_path / "out", conditions={})
    [kept] = tmp_path.glob("sigma_report_*")
    assert {path.name for path in kept.iterdir()} == set(FILES) - {"report.html"}


def test_a_gpu_that_is_not_there_is_one_clear_error() -> None:
    torch = pytest.importorskip("torch")
    from sigma_ros.model.pi05.loading import torch_device  # noqa: PLC0415

    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(MachineError, match=r"no such GPU.*--device.*auto or cpu"):
        torch_device(absent)
    with pytest.raises(MachineError, match="no such device"):
        torch_device("abacus")
    assert torch_device("cpu").type == "cpu"
