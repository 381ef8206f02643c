# SPDX-License-Identifier: Apache-2.0
"""Work done ahead changes no number beyond rounding, keeps the order, and ends when it is no longer wanted."""

import itertools
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bags import START_NS, TASK_TOPIC, picture, pose, small_contract, write_recording

from sigma_ros.control.limits import SupervisorLimits
from sigma_ros.control.schedule import Schedule
from sigma_ros.errors import SigmaError
from sigma_ros.evaluation.bag_writer import BagWriter
from sigma_ros.evaluation.lookahead import _Stage
from sigma_ros.evaluation.replay import Hooks, ReplayOptions, replay
from sigma_ros.evaluation.scoring import score
from sigma_ros.values import AdapterSettings

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


@pytest.mark.parametrize("how", ["batched", "threads"])
def test_work_done_ahead_gives_the_same_log_to_a_millionth(bag, runtime, in_turn, how):
    log = replay(bag, contract=CONTRACT, runtime=runtime, options=replace(OPTIONS, ahead=how))
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


def test_a_replay_that_is_stopped_or_fails_leaves_no_thread_behind(bag, runtime, tmp_path):
    before = threading.active_count()
    seen = itertools.count()
    stopped = Hooks(stopped=lambda: next(seen) >= 10)
    log = replay(bag, contract=CONTRACT, runtime=runtime, options=replace(OPTIONS, ahead="threads"), hooks=stopped)
    assert not log.complete
    foreign = write_recording(tmp_path / "foreign", CONTRACT, ticks=20, commands=False)
    with pytest.raises(SigmaError):
        replay(foreign, contract=CONTRACT, runtime=runtime, options=replace(OPTIONS, ahead="threads"))
    assert threading.active_count() == before


def test_a_stage_keeps_order_passes_errors_on_and_runs_only_a_little_ahead():
    taken = []

    def source():
        for number in range(20):
            taken.append(number)
            yield number
        raise ZeroDivisionError("at the end")

    stage = _Stage(source(), lambda: None)
    assert next(stage) == 0
    got = [next(stage) for _ in range(19)]
    assert got == list(range(1, 20))
    with pytest.raises(ZeroDivisionError):
        next(stage)
    stage.close()
    endless = _Stage(iter(itertools.count()), lambda: None)
    assert next(endless) == 0
    endless.close()
    assert not endless._thread.is_alive()
