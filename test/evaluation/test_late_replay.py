# SPDX-License-Identifier: Apache-2.0
"""Laws of late chunks: without latency nothing changes, with it the memory stays, and every chunk is accounted for."""

import json
from dataclasses import asdict, fields

import numpy as np
import pytest
from bags import small_contract, write_recording
from jsonschema import Draft202012Validator
from stub_runtime import StubRuntime
from synthetic import SCHEMA_FILE

from sigma_ros.errors import UsageError
from sigma_ros.evaluation.late_replay import bag_time_worker, replay_late
from sigma_ros.evaluation.latency import REMEMBER_SHARE, Latency, LatencyRow, in_force, latency_row, parse_latencies
from sigma_ros.evaluation.replay import ReplayOptions, replay
from sigma_ros.evaluation.report.document import plain, report_document, to_text
from sigma_ros.evaluation.report.page import report_page
from sigma_ros.evaluation.scoring.score import score
from sigma_ros.policy.schedule import Schedule
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.values import AdapterSettings

pytestmark = pytest.mark.slow

CONTRACT = small_contract()
OPTIONS = ReplayOptions(
    settings=AdapterSettings(), schedule=Schedule(8, 16), supervisor_limits=SupervisorLimits.for_replay()
)
TICK_MS = 1e3 / 30


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return write_recording(tmp_path_factory.mktemp("bags") / "recording", CONTRACT, ticks=160)


def late(bag, latency: Latency, *, runtime=None):
    runtime = runtime or StubRuntime(CONTRACT)
    worker = bag_time_worker(runtime, OPTIONS, latency)
    return replay_late(bag, runtime=runtime, options=OPTIONS, worker=worker)


def row(bag, text: str) -> LatencyRow:
    (latency,) = parse_latencies(text)
    return latency_row(text, [late(bag, latency)])


def test_without_latency_it_is_the_replay_in_every_number(bag):
    ours, delivery = late(bag, Latency())
    theirs = replay(bag, contract=CONTRACT, runtime=StubRuntime(CONTRACT), options=OPTIONS)
    published = [entry.chunk for entry in theirs.inferences if entry.published]
    assert [arrival.chunk.tick for arrival in delivery.arrivals] == [chunk.tick for chunk in published]
    for arrival, chunk in zip(delivery.arrivals, published, strict=True):
        assert arrival.stamp_ns == chunk.stamp_ns
        np.testing.assert_array_equal(arrival.chunk.base_rad, chunk.base_rad)
    for entry in fields(ours.decisions):
        if entry.name != "host_ns":
            np.testing.assert_array_equal(
                np.asarray(getattr(ours.decisions, entry.name)),
                np.asarray(getattr(theirs.decisions, entry.name)),
                err_msg=entry.name,
            )


def test_the_same_seed_gives_the_same_and_another_another(bag):
    spiky = Latency(fixed_ms=50, jitter_ms=100, spike_ms=500, spike_share=0.2, seed=3)
    first, second = (late(bag, spiky)[1] for _ in range(2))
    assert [a.stamp_ns for a in first.arrivals] == [a.stamp_ns for a in second.arrivals]
    other = late(bag, Latency(fixed_ms=50, jitter_ms=100, spike_ms=500, spike_share=0.2, seed=4))[1]
    assert [a.stamp_ns for a in first.arrivals] != [a.stamp_ns for a in other.arrivals]


def test_a_slow_worker_begins_with_the_newest_tick_when_it_comes_free(bag):
    delivery = late(bag, Latency(fixed_ms=400))[1]
    for before, after in zip(delivery.arrivals, delivery.arrivals[1:], strict=False):
        began_ns = after.stamp_ns - after.took_ns
        assert began_ns >= before.stamp_ns, "one at a time"
        assert began_ns - after.chunk.stamp_ns < TICK_MS * 1e6 + REMEMBERING_NS, "on the newest window"
    assert delivery.skipped > 0


REMEMBERING_NS = REMEMBER_SHARE * 400e6 + 1e6


def test_a_chunk_is_in_force_from_its_arrival_on_and_not_before(bag):
    log, delivery = late(bag, Latency(fixed_ms=100))
    chosen = in_force(log, delivery.arrivals)
    for stamp_ns, arrival in zip(log.ticks.stamp_ns.tolist(), chosen, strict=True):
        there = [a for a in delivery.arrivals if a.stamp_ns <= stamp_ns]
        assert arrival is (there[-1] if there else None)
    assert chosen[:3] == [None] * 3
    assert chosen[3] is not None, "100 ms are three ticks"


def test_latency_costs_and_is_counted(bag):
    rows = {text: row(bag, text) for text in ("0", "100", "300", "1000")}
    errors = [found.sigma_mse for found in rows.values()]
    assert errors == sorted(errors), "the stand-in holds a pose, so older chunks are further away"
    assert rows["0"].late == rows["100"].late == rows["0"].deadline_misses == 0
    assert rows["300"].late == rows["300"].deadline_misses == rows["300"].chunks
    assert rows["100"].latency_ms_mean == rows["100"].tick_ms_p50 == 100.0
    assert rows["1000"].commanded_rmse_deg > rows["0"].commanded_rmse_deg > 0.0


def test_spikes_are_late_and_the_rest_is_not(bag):
    found = row(bag, "20!400@0.3")
    assert 0 < found.deadline_misses < found.chunks
    assert found.latency_ms_max >= 420.0
    assert found.tick_ms_p50 == 20.0


@pytest.mark.parametrize("text", ["", "abc", "-3", "10~x", "10!5@2", "nan", "10,,20"])
def test_what_is_no_latency_is_refused(text):
    with pytest.raises(UsageError, match="no latency"):
        parse_latencies(text)


def test_a_latency_is_written_as_it_is_read():
    text = "0,30,100~20,100!500@0.05"
    assert ",".join(latency.name for latency in parse_latencies(text)) == text


def test_the_study_stands_in_the_report(bag):
    rows = [asdict(row(bag, text)) for text in ("0", "100")]
    log = replay(bag, contract=CONTRACT, runtime=StubRuntime(CONTRACT), options=OPTIONS)
    document = report_document([log], score(log), {}, {"latency": plain({"clock": "bag", "rows": rows})})
    schema = Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))
    assert [error.message for error in schema.iter_errors(json.loads(to_text(document)))] == []
    assert "Late chunks" in report_page([log], score(log), document)


def test_a_model_that_never_catches_up_gives_a_row_without_chunks_and_its_overruns(bag):
    found = row(bag, "2500")
    assert found.chunks == 0
    assert found.overruns > 0
    assert np.isnan(found.sigma_mse)
