# SPDX-License-Identifier: Apache-2.0
"""A stage rests on evidence of the one before: of this contract and checkpoint, recent, long enough, and good."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sigma_ros.errors import UsageError
from sigma_ros.nodes.launch.stages import DAY_S, STAGES, Evidence, contract_hash, read_evidence, required

NOW_S = 1.8e9
GOOD = {
    "shadow": {"seconds": 90.0, "late_share": 0.0, "unhealthy_share": 0.0},
    "ghost": {"seconds": 90.0, "held_share": 0.0, "violations": 0.0, "stops": 0.0},
    "slow": {"seconds": 90.0, "held_share": 0.0, "violations": 0.0, "stops": 0.0},
}


def evidence(stage: str, **changes: object) -> Evidence:
    made = Evidence(
        stage=stage,
        contract="so101",
        contract_hash=contract_hash("so101"),
        checkpoint="me/pick",
        checkpoint_hash="abc",
        run="1",
        ended_s=NOW_S - 3600.0,
        measured=dict(GOOD[stage]),
    )
    return replace(made, **changes)


def gate(stage: str, folder: Path, waived: str = "") -> Evidence | None:
    return required(stage, folder, contract="so101", checkpoint="me/pick", days=7.0, waived=waived, now_s=NOW_S)


@pytest.mark.parametrize(("before", "stage"), list(itertools.pairwise(STAGES)))
def test_law_each_stage_needs_the_evidence_of_the_one_before_and_nothing_else(
    before: str, stage: str, tmp_path: Path
) -> None:
    for other in GOOD.keys() - {before}:
        evidence(other).write(tmp_path)
    with pytest.raises(UsageError, match=f"no evidence of the stage before.*stage:={before}"):
        gate(stage, tmp_path)
    evidence(before).write(tmp_path)
    assert gate(stage, tmp_path) == evidence(before)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(f"{name}.json" for name in GOOD)


BAD: dict[str, Callable[[Evidence], Evidence]] = {
    "another contract": lambda e: replace(e, contract_hash=contract_hash("cr5")),
    "another checkpoint": lambda e: replace(e, checkpoint="me/other"),
    "days old": lambda e: replace(e, ended_s=NOW_S - 8 * DAY_S),
    "-1.0 days old": lambda e: replace(e, ended_s=NOW_S + DAY_S),
    "it is of shadow": lambda e: replace(evidence("shadow"), stage="shadow"),
    "lasted 59 s": lambda e: replace(e, measured=e.measured | {"seconds": 59.0}),
    "1 limit violations": lambda e: replace(e, measured=e.measured | {"violations": 1.0}),
    "2 stops": lambda e: replace(e, measured=e.measured | {"stops": 2.0}),
    "held for 20%": lambda e: replace(e, measured=e.measured | {"held_share": 0.2}),
}


@pytest.mark.parametrize("why", BAD)
def test_law_evidence_that_does_not_hold_is_refused_in_one_sentence(why: str, tmp_path: Path) -> None:
    written = BAD[why](evidence("ghost")).write(tmp_path)
    written.rename(tmp_path / "ghost.json")
    with pytest.raises(UsageError, match=f"(?s){why}.*waive:=ghost") as error:
        gate("slow", tmp_path)
    assert "\n" not in str(error.value)
    assert gate("slow", tmp_path, waived="ghost") is None


def test_a_policy_that_is_late_or_cannot_act_fails_its_shadow(tmp_path: Path) -> None:
    for name, value in (("late_share", 0.02), ("unhealthy_share", 0.06)):
        evidence("shadow", measured=GOOD["shadow"] | {name: value}).write(tmp_path)
        with pytest.raises(UsageError, match="does not hold"):
            gate("ghost", tmp_path)


def test_only_the_stage_before_can_be_waived_and_by_its_name(tmp_path: Path) -> None:
    for stage, waived in (("slow", "shadow"), ("shadow", "shadow"), ("full", "all")):
        with pytest.raises(UsageError, match="not asked for"):
            gate(stage, tmp_path, waived=waived)
    assert gate("shadow", tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"format": "sigma_stage_1"}', '{"format": "other", "stage": "ghost"}']
)
def test_a_file_that_is_no_evidence_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "ghost.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be read"):
        read_evidence(tmp_path / "ghost.json")


def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    evidence("ghost", measured=GOOD["ghost"] | {"held_share": float("nan")}).write(tmp_path)
    with pytest.raises(UsageError, match="cannot be read"):
        gate("slow", tmp_path)
