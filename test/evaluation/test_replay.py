# SPDX-License-Identifier: Apache-2.0
"""Laws of the graph-free replay: the closed loop is the live one, and depends on nothing but the recording."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from bags import START_NS, small_contract, write_recording
from stub_runtime import StubRuntime

from sigma_ros.bags.files import find_bags
from sigma_ros.bags.reader import open_bag
from sigma_ros.bags.writer import BagWriter
from sigma_ros.errors import BagError, ContractError, SigmaError, UsageError
from sigma_ros.evaluation.log import ReplayLog
from sigma_ros.evaluation.replay import Hooks, ReplayOptions, replay
from sigma_ros.evaluation.report.document import report_document, to_text
from sigma_ros.evaluation.report.write import write_report
from sigma_ros.evaluation.scoring.score import score
from sigma_ros.evaluation.supervised import LONGEST_PAUSE_NS, SupervisorTimes
from sigma_ros.policy.schedule import Schedule
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.values import AdapterSettings

CONTRACT = small_contract()


def options(replan_ticks: int = 8, **changes) -> ReplayOptions:
    fields = {
        "settings": AdapterSettings(),
        "schedule": Schedule(replan_ticks, 16),
        "supervisor_limits": SupervisorLimits.for_replay(),
    }
    return ReplayOptions(**{**fields, **changes})


def replayed(bag, *, runtime=None, hooks=None, **changes) -> ReplayLog:
    return replay(
        bag, contract=CONTRACT, runtime=runtime or StubRuntime(CONTRACT), options=options(**changes), hooks=hooks
    )


def counting_clock() -> Hooks:
    """A clock that goes on by a millisecond each time it is read."""
    return Hooks(clock_ns=itertools.count(step=1_000_000).__next__)


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return write_recording(tmp_path_factory.mktemp("bags") / "recording", CONTRACT, ticks=70)


def test_a_replay_repeated_gives_the_same_bytes(bag, tmp_path):
    texts, tables = [], []
    for name in ("one", "two"):
        log = replayed(bag, hooks=counting_clock())
        paths = write_report([log], score(log), tmp_path / name)
        texts.append(paths.json.read_bytes())
        tables.append(paths.chunks.read_bytes())
    assert texts[0] == texts[1]
    assert tables[0] == tables[1]


def test_storage_and_image_encoding_of_the_recording_do_not_matter(bag, tmp_path):
    """The stand-in model does not look at pictures; the bag's hash is the only number that may differ."""
    other = write_recording(tmp_path / "recording", CONTRACT, ticks=70, storage="sqlite3", jpeg_quality=90)
    one, two = (report_document([log], score(log), {}) for log in map(replayed, (bag, other)))
    for document in (one, two):
        for key in ("bag", "timing", "episodes", "verdict"):
            del document[key]
    assert to_text(one) == to_text(two)


def test_inference_runs_where_a_chunk_is_due_the_memory_commits_or_a_window_is_scored(bag):
    runtime = StubRuntime(CONTRACT)
    log = replayed(bag, runtime=runtime, replan_ticks=5)
    ticks = [tick for _, tick, _, _ in runtime.calls]
    assert ticks == sorted({*range(0, 70, 5), *range(0, 70, 16)})
    assert [entry.chunk.tick for entry in log.inferences if entry.published] == list(range(0, 70, 5))


def test_the_memory_commits_every_sixteen_ticks_whatever_the_rate_of_chunks(bag):
    for replan_ticks in (1, 3, 8, 16, 40):
        runtime = StubRuntime(CONTRACT)
        replayed(bag, runtime=runtime, replan_ticks=replan_ticks)
        assert [tick for _, tick, commits, _ in runtime.calls if commits] == [0, 16, 32, 48, 64]


def test_errors_do_not_depend_on_how_often_chunks_are_made(bag):
    scores = [score(replayed(bag, replan_ticks=n)) for n in (1, 8, 11)]
    assert scores[0].samples == 4
    for other in scores[1:]:
        assert (other.baseline, other.sigma, other.samples) == (scores[0].baseline, scores[0].sigma, 4)


def test_the_supervisor_does_not_change_the_errors(bag):
    with_it, without = score(replayed(bag)), score(replayed(bag, supervisor_limits=None))
    assert (with_it.baseline, with_it.sigma) == (without.baseline, without.sigma)
    assert without.supervisor.ticks == 0
    assert with_it.supervisor.ticks > 0


def test_the_baseline_is_measured_where_it_is_scored(bag):
    runtime = StubRuntime(CONTRACT)
    log = replayed(bag, runtime=runtime)
    assert [tick for _, tick, _, baseline in runtime.calls if baseline] == [0, 16, 32, 48, 64]
    assert score(log).baseline.tau_l2 == 1.0


def test_the_supervisor_ticks_at_fifty_hertz_from_the_first_tick_on(bag):
    track = replayed(bag).decisions
    assert set(np.diff(track.stamp_ns)) == {20_000_000}
    assert track.stamp_ns[0] == START_NS
    assert track.stamp_ns[-1] <= START_NS + CONTRACT.tick_offset_ns(69)
    assert len(track) == 1 + (CONTRACT.tick_offset_ns(69) // 20_000_000)


def test_the_arm_is_engaged_and_follows_inside_its_limits(tmp_path):
    log = replayed(slow_motion(tmp_path / "slow"), settings=AdapterSettings(max_scale=0.0))
    scores = score(log)
    assert scores.supervisor.engagements == 1
    assert scores.supervisor.states["RUN"] > 0.9 * scores.supervisor.ticks
    assert scores.supervisor.violations == scores.supervisor.breaches == 0
    followed = np.isfinite(log.decisions.command_rad).all(axis=1)
    assert np.abs(log.decisions.command_rad[followed]).max() < 0.2


def slow_motion(path, ticks=90, blind=range(0)):
    """All joints go from 0 to 0.1 rad and back, slowly; the cameras are blind for a while."""
    with BagWriter(path) as out:
        for tick in range(ticks):
            stamp_ns = START_NS + CONTRACT.tick_offset_ns(tick)
            pose = np.full(6, 0.05 * (1.0 - np.cos(2.0 * np.pi * tick / ticks)))
            for camera in CONTRACT.cameras if tick not in blind else ():
                out.image(camera.topic, stamp_ns, camera.name, np.zeros((24, 32, 3), np.uint8))
            out.joints(CONTRACT.joint_state_topic, stamp_ns, CONTRACT.joint_names, pose)
            out.array(CONTRACT.command_topic, stamp_ns, pose)
    return path


def test_a_supervisor_tick_uses_the_chunk_of_its_own_instant_and_none_of_the_future(bag):
    log = replayed(bag)
    chunks = {entry.chunk.chunk_id: entry.chunk.stamp_ns for entry in log.inferences}
    newest = [max((i for i, at in chunks.items() if at <= stamp), default=-1) for stamp in log.decisions.stamp_ns]
    assert log.decisions.chunk_id.tolist() == newest


def test_a_task_text_in_place_of_the_recorded_one_reaches_the_policy(bag):
    log = replayed(bag, task="put it back")
    assert log.run.task == "put it back"
    assert replayed(bag).run.task == "pick the brick"


def test_a_stopped_replay_keeps_what_it_has_and_says_that_it_is_incomplete(bag):
    seen = itertools.count()
    log = replayed(bag, hooks=Hooks(stopped=lambda: next(seen) >= 40))
    assert len(log.ticks) == 40
    assert not log.complete
    assert score(log).samples == 2
    assert replayed(bag).complete


def test_progress_rises_to_one(bag):
    shares: list[float] = []
    replayed(bag, hooks=Hooks(progress=shares.append))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_foreign_units_are_refused_with_the_reason(bag):
    with pytest.raises(SigmaError, match=r"units: .* gripper: 9 rad"):
        replayed(bag, runtime=StubRuntime(CONTRACT, units_problem="gripper: 9 rad"))


def test_a_bag_that_lacks_a_topic_is_refused_before_anything_is_done(tmp_path):
    bag = write_recording(tmp_path / "bag", CONTRACT, ticks=20, leave_out=(CONTRACT.cameras[0].topic,))
    runtime = StubRuntime(CONTRACT)
    with pytest.raises(ContractError, match=CONTRACT.cameras[0].topic):
        replayed(bag, runtime=runtime)
    assert runtime.calls == []


def test_losses_are_counted_and_refused_when_strict(tmp_path):
    bag = with_bad_joints(tmp_path / "bag")
    log = replayed(bag)
    assert log.complete
    assert sum(log.losses.values()) >= 1
    assert any("not finite" in reason for reason in log.losses)
    with pytest.raises(BagError, match="losses"):
        replayed(bag, strict=True)


def test_ticks_without_a_window_are_losses_too(tmp_path):
    bag = slow_motion(tmp_path / "blind", blind=range(30, 45))
    log = replayed(bag)
    assert log.losses["invalid_ticks"] > 0
    assert any("camera" in reason or "up" in reason for reason in log.ticks.reasons)
    with pytest.raises(BagError, match="invalid_ticks"):
        replayed(bag, strict=True)


def with_bad_joints(path):
    """A recording in which one joint message holds NaN."""
    source = write_recording(path.with_name("source"), CONTRACT, ticks=40)
    with open_bag(source) as bag, BagWriter(path) as out:
        for record in bag.records():
            if record.topic == CONTRACT.joint_state_topic:
                positions = record.message.positions_rad
                bad = record.stamp_ns == START_NS + CONTRACT.tick_offset_ns(20)
                out.joints(
                    record.topic, record.stamp_ns, record.message.names, positions * np.nan if bad else positions
                )
            elif record.msgtype == "std_msgs/msg/Float64MultiArray":
                out.array(record.topic, record.stamp_ns, record.message)
            elif record.msgtype == "sensor_msgs/msg/Image":
                rgb = np.frombuffer(record.message.data, np.uint8).reshape(24, 32, 3)
                out.image(record.topic, record.stamp_ns, "camera", rgb)
            else:
                out.text(record.topic, record.stamp_ns, record.message)
    return path


def test_pooled_recordings_are_scored_window_by_window(bag, tmp_path):
    other = write_recording(tmp_path / "other", CONTRACT, ticks=40)
    one, two = replayed(bag), replayed(other)
    pooled = score(one, two)
    assert pooled.samples == score(one).samples + score(two).samples
    weighted = score(one).baseline.mse_trj * 4 + score(two).baseline.mse_trj * 2
    assert pooled.baseline.mse_trj == pytest.approx(weighted / 6)
    assert [row.samples for row in pooled.episodes] == [4, 2]


def test_a_missing_recording_makes_the_whole_incomplete(bag):
    assert not score(replayed(bag), complete=False).complete


def test_the_worst_windows_come_with_pictures(bag):
    log = replayed(bag)
    assert [strip.error for strip in log.strips] == sorted((strip.error for strip in log.strips), reverse=True)
    assert len(log.strips) == 4
    assert set(log.strips[0].images) == {camera.name for camera in CONTRACT.cameras}
    assert all(image.shape == (120, 160, 3) for images in log.strips[0].images.values() for image in images)


def test_chunks_of_another_step_length_are_not_compared(bag):
    class Hasty(StubRuntime):
        def step(self, *args, **kwargs):
            inference, state = super().step(*args, **kwargs)
            inference.chunk = replace(inference.chunk, step_period_ns=20_000_000)
            return inference, state

    with pytest.raises(SigmaError, match="step period"):
        replayed(bag, runtime=Hasty(CONTRACT))


def test_a_folder_of_bags_is_taken_in_the_order_of_names(tmp_path):
    for name in ("episode_000001", "episode_000000"):
        write_recording(tmp_path / "set" / name, CONTRACT, ticks=20)
    (tmp_path / "set" / "notes").mkdir()
    found = find_bags([tmp_path / "set"])
    assert [path.name for path in found] == ["episode_000000", "episode_000001"]
    assert find_bags([found[0]]) == (found[0],)
    assert find_bags([next(found[0].glob("*.mcap"))])[0].suffix == ".mcap"


def test_a_place_without_bags_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="holds no bag"):
        find_bags([tmp_path])
    with pytest.raises(UsageError, match="no such bag"):
        find_bags([tmp_path / "absent"])
    bag = write_recording(tmp_path / "bag", CONTRACT, ticks=20)
    with pytest.raises(UsageError, match="given twice"):
        find_bags([bag, tmp_path])


def test_a_report_can_be_read_back(bag, tmp_path):
    log = replayed(bag)
    document = json.loads(write_report([log], score(log), tmp_path).json.read_text())
    assert document["bag"]["losses"] == {}
    assert document["samples"] == 4


def test_a_supervisor_that_waits_out_a_long_silence_stays_on_its_grid():
    period_ns = 20_000_000
    times = SupervisorTimes(period_ns)
    begin = 1000 * period_ns
    assert list(times.before(begin)) == []
    assert list(times.before(begin + 50_000_000)) == [begin, begin + period_ns, begin + 2 * period_ns]
    late = begin + 3 * period_ns + 3 * LONGEST_PAUSE_NS + 7_000_000
    ticked = list(times.before(late))
    assert len(ticked) == LONGEST_PAUSE_NS // period_ns
    assert list(times.before(late + 2 * period_ns)) == [late + 13_000_000, late + 33_000_000]


def test_a_recording_that_was_looped_goes_on_in_a_new_epoch(tmp_path):
    """Header stamps jump back, log times go on: the supervisor's own clock never falls."""
    with BagWriter(tmp_path / "bag") as out:
        for lap in range(2):
            for tick in range(40):
                stamp_ns = START_NS + CONTRACT.tick_offset_ns(tick)
                at = {"log_time_ns": START_NS + CONTRACT.tick_offset_ns(40 * lap + tick)}
                pose = np.full(6, 0.1)
                for camera in CONTRACT.cameras:
                    out.image(camera.topic, stamp_ns, camera.name, np.zeros((24, 32, 3), np.uint8), **at)
                out.joints(CONTRACT.joint_state_topic, stamp_ns, CONTRACT.joint_names, pose, **at)
    contract = replace(CONTRACT, action_source="next_state")
    log = replay(tmp_path / "bag", contract=contract, runtime=StubRuntime(contract), options=options())
    assert log.complete
    assert set(log.ticks.epoch) == {0, 1}
    assert score(log).samples == 4
    assert score(log).supervisor.violations == score(log).supervisor.breaches == 0
    assert set(log.decisions.state[-20:]) <= {"RUN", "BASE_ONLY"}, "it moves again after the jump"
