# SPDX-License-Identifier: Apache-2.0
"""The command that makes shards: what it is given becomes one folder, and what is not there is named."""

from dataclasses import replace
from pathlib import Path

import pytest
from bags import small_contract, write_recording  # type: ignore[import-not-found]
from typer.testing import CliRunner

from sigma_ros.bags.lerobot_dataset import write_dataset
from sigma_ros.cli.recordings.record import app as record
from training.data import ShardMeta
from training.preprocess import main


def test_a_bag_that_is_not_there_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--bags", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"), "--dry-run"]) == 2
    assert "nowhere" in " ".join(capsys.readouterr().err.split())


def test_several_data_sets_become_one_folder_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contract = small_contract()
    contract = replace(contract, joints=tuple(replace(j, lower_rad=-2.0, upper_rad=2.0) for j in contract.joints))
    monkeypatch.setattr("training.preprocess.load_contract", lambda _: contract)
    for name in ("one", "two"):
        bags = [write_recording(tmp_path / name / f"bag_{i}", contract, ticks=60) for i in range(2)]
        write_dataset(bags, contract, tmp_path / f"{name}_set", videos=False)
    sets = [str(tmp_path / f"{name}_set") for name in ("one", "two")]
    found = main(["--dataset", *sets, "--out", str(tmp_path / "out"), "--image-size", "16"])
    assert found == 0
    meta = ShardMeta.read(tmp_path / "out")
    assert [entry["episode"] for entry in meta.episodes] == [0, 1, 2, 3]
    assert [entry["recording"] for entry in meta.episodes] == [f"{s} episode {n}" for s in sets for n in range(2)]


@pytest.mark.parametrize(
    "given",
    [
        *(["--disturb", text] for text in ("nan", "-0.1", "0.31", "inf")),
        *(["--missed", text] for text in ("nan", "-0.1", "1.5")),
        *(["--stride", "0"], ["--count", "0"], ["--count", "-1"], ["--seed", "-1"], ["--workers", "-1"]),
        *(["--image-size", "0"], ["--hold-out-every", "-1"], ["--min-motion", "nan"], ["--stride", "x"]),
    ],
    ids=" ".join,
)
def test_law_numbers_out_of_range_are_refused_before_anything_is_read_and_as_by_record(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--simulated", "target", "--out", str(tmp_path / "out"), *given])
    assert left.value.code == 2
    assert f"argument {given[0]}: " in capsys.readouterr().err
    if given[0] in ("--disturb", "--missed", "--seed"):
        done = CliRunner().invoke(record, ["--sim", "--out", str(tmp_path / "out"), *given])
        assert done.exit_code == 2
    assert not (tmp_path / "out").exists()
