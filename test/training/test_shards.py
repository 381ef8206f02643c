# SPDX-License-Identifier: Apache-2.0
"""Shards hold what the frame clock gave, whole episodes at a time, and nothing is lost without being named."""

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bags import SIZE, small_contract, write_recording  # type: ignore[import-not-found]

from sigma_ros.bags.episode import Episode
from sigma_ros.bags.lerobot_dataset import write_dataset
from sigma_ros.bags.reader import open_bag
from sigma_ros.bags.transcode import load_episode, transcode
from sigma_ros.bags.writer import BagWriter
from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import DatasetError, MachineError
from sigma_ros.evaluation.fleet import Workers
from sigma_ros.sim.demonstration import demonstrations
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.recorder import BagFormat, write_demonstration
from sigma_ros.sim.setups import TARGET
from sigma_ros.sim.tasks.task import PLACE
from training.data import META_FILE, ShardData, ShardMeta, content_hash, read_shard
from training.shards import PreprocessOptions, preprocess, problems_of, write_on_workers
from training.sources import (
    TARGET_STEPS,
    bag_sources,
    dataset_sources,
    motion_of,
    read_source,
    simulated_sources,
    windows_of,
)


def roomy_contract() -> Contract:
    """The synthetic recordings swing by 1 rad in every joint, also in the gripper."""
    contract = small_contract()
    return replace(contract, joints=tuple(replace(j, lower_rad=-2.0, upper_rad=2.0) for j in contract.joints))


def options(out: Path, **changes: object) -> PreprocessOptions:
    chosen: dict[str, object] = {
        "out": out,
        "contract": roomy_contract(),
        "image_size_px": SIZE,
        "stride": 16,
        "min_motion": 0.0,
        "hold_out_every": 2,
        "skip_broken": False,
    }
    return PreprocessOptions(**{**chosen, **changes})  # type: ignore[arg-type]


def recordings(folder: Path, count: int = 2, ticks: int = 60) -> list[Path]:
    contract = small_contract()
    return [write_recording(folder / f"bag_{i}", contract, ticks=ticks) for i in range(count)]


def run(out: Path, places: list[Path], **changes: object) -> ShardMeta:
    return preprocess(bag_sources(places), options(out, **changes), described="test", revision=None)


def test_a_copy_of_a_recording_is_named(tmp_path: Path) -> None:
    (whole,), contract = recordings(tmp_path, 1), small_contract()
    other = write_recording(tmp_path / "other", contract, first_tick=3)
    meta = run(tmp_path / "out", [whole, other, shutil.copytree(whole, tmp_path / "zz_copy")])
    assert [entry.get("copy_of") for entry in meta.episodes] == [None, None, str(whole)]


def test_a_shard_holds_exactly_the_ticks_of_the_frame_clock(tmp_path: Path) -> None:
    contract = small_contract()
    places = recordings(tmp_path)
    meta = run(tmp_path / "out", places)
    arrays = read_shard(tmp_path / "out" / str(meta.episodes[0]["shard"]))
    with open_bag(places[0]) as bag:
        for row, tick in enumerate(Episode(bag, contract, image_size_px=SIZE)):
            assert tick.window is not None
            np.testing.assert_array_equal(arrays.frames[row, 1], tick.window.newest.images["side"])
            expected = contract.to_policy(tick.window.newest.positions_rad).astype(np.float32)
            np.testing.assert_array_equal(arrays.states[row], expected)
            assert tick.action_rad is not None
            np.testing.assert_array_equal(arrays.actions[row], contract.to_policy(tick.action_rad).astype(np.float32))


def test_law_the_ticks_at_which_an_operator_acted_come_into_the_shard_and_shards_without_any_stay_as_they_were(
    tmp_path: Path,
) -> None:
    marked = write_recording(tmp_path / "marked", small_contract(), ticks=60, marks={0: False, 20: True, 41: False})
    [plain] = recordings(tmp_path, count=1)
    write_recording(tmp_path / "no", small_contract(), ticks=60, marks={0: False})
    meta = run(tmp_path / "out", [marked, plain, tmp_path / "no"])
    shards = [read_shard(tmp_path / "out" / str(entry["shard"])) for entry in meta.episodes]
    assert shards[0].corrected is not None
    assert np.flatnonzero(shards[0].corrected).tolist() == list(range(20, 41))
    assert shards[1].corrected is None
    assert shards[2].corrected is None
    hashes = [meta.files[str(entry["shard"])] for entry in meta.episodes]
    assert hashes[0] != content_hash(replace(shards[0], corrected=None))
    rows = ShardData.open(tmp_path / "out").episodes
    assert rows[0].corrected.sum() == 21
    assert not rows[1].corrected.any()


def test_every_window_has_all_its_targets_and_the_stride_between(tmp_path: Path) -> None:
    meta = run(tmp_path / "out", recordings(tmp_path))
    assert meta.windows == tuple((e, row) for e in (0, 1) for row in range(0, 60 - TARGET_STEPS + 1, 16))
    assert meta.held_out == (0,)
    assert {e for e, _ in meta.windows_of(held_out=True)} == {0}
    assert {e for e, _ in meta.windows_of(held_out=False)} == {1}


def test_statistics_come_from_the_training_split_alone(tmp_path: Path) -> None:
    meta = run(tmp_path / "out", recordings(tmp_path))
    arrays = read_shard(tmp_path / "out" / str(meta.episodes[1]["shard"]))
    low, high = np.quantile(arrays.actions.astype(np.float64), [0.01, 0.99], axis=0)
    np.testing.assert_allclose(meta.statistics.action.usual, [low, high])


def test_static_windows_are_dropped_and_listed(tmp_path: Path) -> None:
    places = recordings(tmp_path)
    whole = run(tmp_path / "whole", places)
    arrays = read_shard(tmp_path / "whole" / "shard_00000.safetensors")
    motions = sorted(motion_of(arrays, row) for row in windows_of(arrays, 16))
    cut = run(tmp_path / "cut", places, min_motion=0.5 * (motions[0] + motions[1]))
    assert len(cut.static_windows) >= 1
    assert set(cut.static_windows) | set(cut.windows) == set(whole.windows)
    assert not set(cut.static_windows) & set(cut.windows)


def test_a_second_run_resumes_and_gives_the_same_data(tmp_path: Path) -> None:
    places = recordings(tmp_path)
    first = run(tmp_path / "out", places)
    shard = tmp_path / "out" / "shard_00000.safetensors"
    before_ns = shard.stat().st_mtime_ns
    (tmp_path / "out" / META_FILE).unlink()
    second = run(tmp_path / "out", places)
    assert shard.stat().st_mtime_ns == before_ns
    assert second.hash == first.hash
    assert ShardMeta.read(tmp_path / "out") == second


def test_a_broken_recording_is_named_and_skipped_only_on_request(tmp_path: Path) -> None:
    good = recordings(tmp_path)
    short = write_recording(tmp_path / "short", small_contract(), ticks=TARGET_STEPS - 2)
    with pytest.raises(DatasetError, match=r"short.*--skip-broken"):
        run(tmp_path / "strict", [*good, short])
    assert not (tmp_path / "strict" / META_FILE).exists()
    meta = run(tmp_path / "lenient", [*good, short], skip_broken=True)
    assert [entry["recording"] for entry in meta.skipped] == [str(short)]
    assert len(meta.episodes) == 2


def test_leaving_out_is_not_advised_where_nothing_would_be_left(tmp_path: Path) -> None:
    short = [write_recording(tmp_path / name, small_contract(), ticks=TARGET_STEPS - 2) for name in ("one", "two")]
    for broken in (short, short[:1]):
        with pytest.raises(DatasetError, match=r"no recording can be used.*one") as refused:
            run(tmp_path / f"out{len(broken)}", broken)
        assert "--skip-broken" not in str(refused.value)


def test_unfinished_data_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"python -m training\.preprocess"):
        ShardMeta.read(tmp_path)


def test_a_dry_run_lists_all_problems_and_writes_nothing(tmp_path: Path) -> None:
    contract = small_contract()
    short = write_recording(tmp_path / "short", contract, ticks=TARGET_STEPS - 2)
    blind = write_recording(tmp_path / "blind", contract, leave_out=[contract.cameras[0].topic])
    sources = bag_sources([*recordings(tmp_path), short, blind])
    problems = problems_of(sources, options(tmp_path / "out")).problems
    assert len(problems) == 2
    assert any("short" in problem for problem in problems)
    assert any("blind" in problem and contract.cameras[0].topic in problem for problem in problems)
    assert not (tmp_path / "out").exists()


def test_data_in_other_units_is_refused_with_the_joints(tmp_path: Path) -> None:
    folder = tmp_path / "radians"
    contract = small_contract()
    narrow = replace(contract, joints=tuple(replace(j, lower_rad=-0.4, upper_rad=0.4) for j in contract.joints))
    run(folder / "wide", recordings(tmp_path))
    with pytest.raises(DatasetError, match=r"units cannot be.*shoulder_pan"):
        run(folder / "narrow", recordings(tmp_path / "again"), contract=narrow)
    assert not (folder / "narrow" / META_FILE).exists()


def test_a_long_epoch_is_cut_so_that_memory_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.sources.LONGEST_EPOCH_TICKS", 40)
    (source,) = bag_sources(recordings(tmp_path, count=1, ticks=100))
    parts = [part.ticks for part in read_source(source, small_contract(), image_size_px=SIZE)]
    assert parts == [40, 40, 20]


def test_other_options_do_not_mix_with_the_shards_of_before(tmp_path: Path) -> None:
    places = recordings(tmp_path)
    run(tmp_path / "out", places)
    with pytest.raises(DatasetError, match="begun with another"):
        run(tmp_path / "out", places, image_size_px=SIZE + 2)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """While open, the system refuses to let any file of this process grow further, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("skip_broken", [False, True])
def test_a_disk_that_refuses_loses_nothing_and_the_next_run_resumes(tmp_path: Path, skip_broken: bool) -> None:
    contract, out = small_contract(), tmp_path / "out"
    places = [write_recording(tmp_path / f"bag_{i}", contract, ticks=ticks) for i, ticks in enumerate((30, 90))]
    run(tmp_path / "short", places[:1], hold_out_every=0)
    (short,) = (tmp_path / "short").glob("*.safetensors")
    with largest_file(2 * short.stat().st_size), pytest.raises(MachineError, match="could not be written"):
        run(out, places, skip_broken=skip_broken)
    (written,) = out.glob("*.safetensors")
    assert not (out / META_FILE).exists()
    assert not list(out.rglob(".*.partial-*"))
    before_ns = written.stat().st_mtime_ns
    assert len(run(out, places).episodes) == 2
    assert written.stat().st_mtime_ns == before_ns


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_action_that_is_not_finite_is_a_loss_of_its_recording_as_in_every_verb(tmp_path: Path, value: float) -> None:
    contract = replace(roomy_contract(), cameras=())
    with BagWriter(tmp_path / "bag") as bag:
        for tick in range(40):
            stamp_ns, pose = 10**18 + contract.tick_offset_ns(tick), np.full(contract.dof, 0.01 * tick)
            bag.joints(contract.joint_state_topic, stamp_ns, contract.joint_names, pose)
            command = np.where((tick == 20) & (np.arange(contract.dof) == 2), value, pose)
            bag.array(contract.command_topic, stamp_ns, command)
    meta = run(tmp_path / "out", [tmp_path / "bag"], contract=contract, hold_out_every=0)
    lost = {str(tmp_path / "bag"): {"commands refused": 1}}
    assert meta.losses == lost
    assert np.isfinite(read_shard(tmp_path / "out" / str(meta.episodes[0]["shard"])).actions).all()
    dry = options(tmp_path / "dry", contract=contract, hold_out_every=0)
    assert problems_of(bag_sources([tmp_path / "bag"]), dry).losses == lost
    with pytest.raises(DatasetError, match="commands refused 1"):
        run(tmp_path / "strict", [tmp_path / "bag"], contract=contract, strict=True)
    assert not (tmp_path / "strict" / META_FILE).exists()


def test_a_data_set_gives_what_its_transcoded_bag_gives_without_writing_one(tmp_path: Path) -> None:
    contract = roomy_contract()
    (place,) = recordings(tmp_path, count=1)
    write_dataset([place], contract, tmp_path / "set", videos=False)
    (source,) = dataset_sources(str(tmp_path / "set"), [0], contract, revision=None)
    transcode(load_episode(str(tmp_path / "set"), 0, contract), contract, tmp_path / "bag")
    (ours,) = read_source(source, contract, image_size_px=SIZE)
    (theirs,) = read_source(bag_sources([tmp_path / "bag"])[0], contract, image_size_px=SIZE)
    assert ours.ticks == theirs.ticks > 50
    for name in ("frames", "states", "actions", "valid", "acted"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.gl
def test_simulated_demonstrations_are_the_ones_that_would_be_recorded(tmp_path: Path) -> None:
    contract = load_contract("so101")
    (made,) = simulated_sources("target", contract, count=1, seed=7, disturbance_rad=0.05)
    (ours,) = read_source(made, contract, image_size_px=SIZE)
    with SimArm(TARGET, contract=contract) as arm:
        kept = next(d for d in demonstrations(arm, 7, disturbance_rad=0.05) if d is not None and d.success)
        write_demonstration(tmp_path / "bag", arm, kept, BagFormat())
    (theirs,) = read_source(bag_sources([tmp_path / "bag"])[0], contract, image_size_px=SIZE)
    for name in ("states", "actions", "valid", "acted", "frames"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name)[: ours.ticks])
    assert ours.task == theirs.task


@pytest.mark.gl
def test_tasks_are_shown_in_turn_each_with_its_own_text_and_scene() -> None:
    contract = load_contract("so101")
    names = ("L1", "M1", PLACE)
    sources = simulated_sources("target", contract, count=4, seed=7, tasks=names)
    assert [name for source, name in zip(sources, (*names, "L1"), strict=True) if name not in source.name] == [PLACE]
    named, shown, place = (next(read_source(source, contract, image_size_px=SIZE)) for source in sources[:3])
    assert "pink" in named.task or "blue" in named.task
    assert shown.task == "put the brick into the box"
    assert place.task == contract.tasks[0]
    cue, after = shown.frames[5].astype(int), shown.frames[32].astype(int)
    assert np.abs(cue - after).max() > 50, "the lamp that tells the box is on, then off"


@pytest.mark.slow
def test_shards_made_on_workers_are_those_of_this_process_and_what_is_missing_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="ray is not installed (the extra sigma_ros[fleet])")
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{root / 'test' / 'support'}:{root}")
    places = recordings(tmp_path, 3)
    here = run(tmp_path / "here", places)
    for missing in ((), ("shard_00001.safetensors", ".000002.done")):
        for name in missing:
            (tmp_path / "out" / name).unlink()
        write_on_workers(bag_sources(places), options(tmp_path / "out"), Workers(count=2))
        assert run(tmp_path / "out", places).hash == here.hash


def test_the_data_s_hash_is_over_what_it_holds_and_not_over_how_it_was_written(tmp_path: Path) -> None:
    places = recordings(tmp_path)
    hashes = {run(tmp_path / f"out_{i}", places).hash for i in range(6)}
    assert len(hashes) == 1, "safetensors writes a file's notes in any order"
    shutil.rmtree(places[0])
    write_recording(places[0], small_contract(), ticks=50)
    assert run(tmp_path / "out_0", places).hash not in hashes, "another bag at the same place is made anew"
