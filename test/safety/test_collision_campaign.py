# SPDX-License-Identifier: Apache-2.0
"""A small form of the collision campaign, and that its oracle sees contacts."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="mujoco is not installed")

from safety.collision.campaign import BOX, LIMITS, ContactOracle, main, run
from sigma_ros.contract_file import load_contract

CONTRACT = replace(load_contract("so101"), keep_out=(BOX,))


def test_no_attack_drives_the_arm_into_itself_the_table_or_a_box() -> None:
    tally = run(600, seed=3)
    assert tally.ticks == 600
    assert tally.refused > 0, "the attacks come near"
    assert tally.judged > 600
    assert not tally.contacts


def test_without_the_check_the_same_attacks_do(monkeypatch: pytest.MonkeyPatch) -> None:
    far = replace(LIMITS, collision_margin_m=0.0)
    monkeypatch.setattr("safety.collision.campaign.LIMITS", far)
    monkeypatch.setattr("sigma_ros.supervisor.guard.MotionGuard._obstacle", lambda *_: "")
    assert run(600, seed=3).contacts


def test_the_oracle_knows_table_box_and_the_arm_itself() -> None:
    oracle = ContactOracle(CONTRACT)
    assert not oracle.contacts(np.array([0.0, -0.3, 0.3, 0.3, 0.0, 0.4]))
    assert any(a >= 0 for a, _ in oracle.contacts(np.array([0.0, 1.7, 1.2, 1.2, 0.0, 0.4])))
    assert any(a == -1 for a, _ in oracle.contacts(np.array([0.0, 1.2, 0.4, 0.5, 0.0, 0.4])))
    assert any(a == -1 for a, _ in oracle.contacts(np.array([0.9, 0.3, 0.0, 0.3, 0.0, 0.4])))


def test_the_command_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ticks", "40", "--quiet", "--folded"]) == 0
    assert "40 ticks" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--ticks", "0"])
