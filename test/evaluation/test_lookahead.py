# SPDX-License-Identifier: Apache-2.0
"""Work done ahead changes no number beyond rounding and keeps the order."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bags import START_NS, TASK_TOPIC, picture, pose, small_contract

from sigma_ros.bags.writer import BagWriter
from sigma_ros.evaluation.replay import ReplayOptions, replay
from sigma_ros.evaluation.scoring.score import score
from sigma_ros.policy.schedule import Schedule
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.values import AdapterSettings

pytestmark = pytest.mark.slow

CONTRACT = small_contract()
OPTIONS = ReplayOptions(
    settings=AdapterSettings(), schedule=Schedule(6, 16), supervisor_limits=SupervisorLimits.for_replay()
)


@pytest.fixture(scope="module")
def runtime(random_mini):
    loading = pytest.importorskip("sigma_ros.model.runtime")
    return loading.SigmaRuntime.load(str(random_mini), contract=CONTRACT, allow_untrained=True, device="cpu")


@pytest.fixture(scope="module")
def bag(tmp_path_factory) -> Path:
    """Two epochs by a new task, and a camera that is dark for a while."""
    path = tmp_path_factory.mktemp("bags") / "recording"
    with BagWriter(path) as out:
        for tick in range(76):
            stamp_ns = START_NS + CONTRACT.tick_offset_ns(tick)
            if tick in (0, 52):
                out.text(TASK_TOPIC, stamp_ns, f"task {tick}")
            for index, camera in enumerate(CONTRACT.cameras):
                if not (index == 0 and 20 <= tick < 30):
                    out.image(camera.topic, stamp_ns, camera.name, picture(2 * tick + index))
            out.joints(CONTRACT.joint_state_topic, stamp_ns, CONTRACT.joint_names, 0.2 * pose(tick, 6))
            out.array(CONTRACT.command_topic, stamp_ns, 0.2 * pose(tick, 6))
    return path


@pytest.fixture(scope="module")
def in_turn(bag, runtime):
    return replay(bag, contract=CONTRACT, runtime=runtime, options=OPTIONS)


def test_work_done_ahead_gives_the_same_log_to_a_millionth(bag, runtime, in_turn):
    log = replay(bag, contract=CONTRACT, runtime=runtime, options=replace(OPTIONS, ahead=True))
    assert not in_turn.ticks.valid.all()
    assert in_turn.ticks.epoch.max() == 1
    for name in ("epoch", "tick", "stamp_ns", "valid", "joints_rad", "action_rad"):
        np.testing.assert_array_equal(getattr(log.ticks, name), getattr(in_turn.ticks, name), err_msg=name)
    assert len(log.inferences) == len(in_turn.inferences) > 10
    for ours, theirs in zip(log.inferences, in_turn.inferences, strict=True):
        assert (ours.chunk.epoch, ours.chunk.tick, ours.published) == (
            theirs.chunk.epoch,
            theirs.chunk.tick,
            theirs.published,
        )
        np.testing.assert_allclose(ours.chunk.base_rad, theirs.chunk.base_rad, rtol=0, atol=1e-6)
        assert ours.tau_l2 == pytest.approx(theirs.tau_l2, abs=1e-5)
    np.testing.assert_allclose(log.decisions.command_rad, in_turn.decisions.command_rad, rtol=0, atol=1e-6)
    one, other = score(log), score(in_turn)
    assert one.sigma.mse_trj == pytest.approx(other.sigma.mse_trj, abs=1e-6)
    assert log.bag == in_turn.bag


def test_the_model_is_certified_before_it_works_ahead(bag, runtime, monkeypatch):
    done = []
    monkeypatch.setattr(runtime, "certify", lambda window, real=runtime.certify: done.append("certify") or real(window))
    ahead = pytest.importorskip("sigma_ros.model.precompute").Ahead
    real = ahead.encode
    monkeypatch.setattr(ahead, "encode", lambda self, windows: done.append("encode") or real(self, windows))
    replay(bag, contract=CONTRACT, runtime=runtime, options=replace(OPTIONS, ahead=True))
    assert done[:2] == ["certify", "encode"]
    assert done.count("certify") == 1


def test_a_robot_without_cameras_is_replayed_supervised_and_scored(random_mini, bag):
    loading = pytest.importorskip("sigma_ros.model.runtime")
    blind = replace(CONTRACT, cameras=())
    sightless = loading.SigmaRuntime.load(str(random_mini), contract=blind, allow_untrained=True, device="cpu")
    for ahead in (False, True):
        log = replay(bag, contract=blind, runtime=sightless, options=replace(OPTIONS, ahead=ahead))
        assert log.decisions is not None
        assert score(log).samples > 0
