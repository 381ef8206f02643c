# SPDX-License-Identifier: Apache-2.0
"""LeRobot's own tests of its policies with ours in their place; `LEROBOT_SOURCE`: a checkout of the version we use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sigma_ros.model.pi05.lerobot_symbols import WRITTEN_FOR

SOURCE = Path(os.environ.get("LEROBOT_SOURCE", "there is none")).resolve()
FIT_ANY_POLICY = 3
"""Of their 20; the others are about one policy of theirs, or take data sets from the Hub."""

IN_THEIR_PLACE = """
import pytest
from lerobot.policies import factory

import sigma_ros.lerobot.configuration_sigma

made = factory.make_policy_config
factory.make_policy_config = lambda name, **given: made(name, **{"checkpoint": "mini", "device": "cpu"} | given)

@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc):
    metafunc.module.AVAILABLE_POLICIES[:] = ["sigma"]
"""


@pytest.mark.skipif(not SOURCE.is_dir(), reason="LEROBOT_SOURCE names no checkout of LeRobot")
def test_lerobots_own_policy_tests_pass_where_they_fit_any_policy(tmp_path: Path) -> None:
    assert f'version = "{WRITTEN_FOR}"' in (SOURCE / "pyproject.toml").read_text(encoding="utf-8"), "another version"
    (tmp_path / "in_their_place.py").write_text(IN_THEIR_PLACE, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
    asked = ["-p", "in_their_place", "-p", "no:cacheprovider", "tests/policies/test_policies.py", "-k", "sigma"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *asked],
        cwd=SOURCE,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"{FIT_ANY_POLICY} passed, " in done.stdout, done.stdout[-3000:]
    assert done.returncode == 0
