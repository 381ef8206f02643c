# SPDX-License-Identifier: Apache-2.0
"""Every verb gives one account of a recording: for the inputs at hand, and for small ones of the same kinds."""

import json
from pathlib import Path

import pytest
import real_files
import yaml
from bags import SHARED_DATA, small_contract, storage_file, write_recording
from small import small_file

from sigma_ros.bags.lerobot_dataset import write_dataset
from sigma_ros.contract_file import load_contract
from sigma_ros.contract_text import shipped_config_dir

CASES = SHARED_DATA.parent / "cases" / "recordings"
READ = {"flip.mcap", "mixed_pub", "first_js_empty", "split0", "zmsg", "json_extra.mcap", "clock_mix_mcap"}
WITHOUT_LOSS = {"zmsg", "json_extra.mcap", "clock_mix_mcap"}
REFUSED = {"z_png16"}
SETS = {"v60", "imgpath", "holes"}


@pytest.mark.slow
@pytest.mark.skipif(not CASES.is_dir(), reason="the folder of recordings that failed once is not beside the project")
@pytest.mark.parametrize("name", sorted(READ | REFUSED | SETS))
def test_every_verb_counts_the_same_losses_of_a_recording_that_failed_once(name: str, tmp_path: Path) -> None:
    verbs = real_files.Verbs(tmp_path, str(CASES / "small.yaml"))
    ((kind, place),) = real_files.places_in(CASES / name)
    endings = verbs.endings(kind, place)
    assert not [e for e in endings if e.broken]
    assert real_files.disagreements(endings) == []
    accounts = {e.losses for e in endings if e.losses is not None}
    codes = {e.exit_code for e in endings}
    if name in READ:
        assert codes == ({0} if name in WITHOUT_LOSS else {3})
        assert len(accounts) == 1
    if name in REFUSED:
        assert codes <= {1, 2, 3}


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    whole = yaml.safe_load((shipped_config_dir() / "so101.yaml").read_text())
    return small_file(tmp_path, joints=[{**joint, "lower_rad": -3.0, "upper_rad": 3.0} for joint in whole["joints"]])


def test_the_log_has_every_verb_s_end_with_every_place_and_one_account_of_each(
    tmp_path: Path, contract: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tmp_path / "files"
    bag = write_recording(tmp_path / "bag", small_contract(), ticks=60)
    (files / "lossy").mkdir(parents=True)
    storage_file(bag).rename(files / "lossy" / "split_0.mcap")
    (files / "lossy" / "split_1.mcap").touch()
    write_dataset([files / "lossy"], load_contract(contract), files / "deeper" / "set", videos=False, recover=True)
    (files / "notes.json").write_text("{}")
    out = tmp_path / "out"
    assert real_files.main([str(files), "--contract", str(contract), "--out", str(out)]) == 0
    log = json.loads((out / "log.json").read_text())
    verbs = {(Path(row["place"]).name, row["verb"]) for row in log}
    assert verbs >= {("lossy", v) for v in ("inspect", "dataset", "preprocess", "replay", "evaluate")}
    assert verbs >= {("set#0", v) for v in ("inspect", "transcode", "preprocess")}
    moved = ("replay", "evaluate")  # the model refuses these joints: they are no SO-101's
    lossy = [row for row in log if row["place"].endswith("lossy") and row["verb"] not in moved]
    assert {row["exit_code"] for row in lossy} == {3}, [row["said"] for row in lossy]
    assert {row["losses"] for row in lossy} == {lossy[0]["losses"]}
    assert "split_1.mcap is not read" in lossy[0]["losses"]
    assert capsys.readouterr().out.endswith((out / "log.md").read_text())
    assert not (out / "work").exists()


def test_a_traceback_and_two_accounts_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recording(tmp_path / "bag", small_contract(), ticks=4)

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(real_files, "app", broken)
    (file,) = [storage_file(tmp_path / "bag")]
    endings = real_files.Verbs(tmp_path / "out", "so101").endings("bag", file)
    assert all(e.broken and "ZeroDivisionError" in e.said for e in endings)
    assert real_files.main([str(file), "--contract", "so101", "--out", str(tmp_path / "out")]) == 1
    how = {"exit_code": 3, "seconds": 0.0, "said": ""}
    two = [real_files.Ending(place="a", verb=v, losses=f"late {n}", **how) for n, v in enumerate(("x", "y"))]
    assert real_files.disagreements(two)
    assert not real_files.disagreements(two[:1])
