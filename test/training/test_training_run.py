# SPDX-License-Identifier: Apache-2.0
"""A run can be cut anywhere, split over processes and told from any other; what it leaves is what the robot loads."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import CheckpointError, DatasetError, MachineError, SigmaError, UsageError
from sigma_ros.evaluation.replay import ReplayOptions, replay
from sigma_ros.evaluation.scoring.metrics import SPANS
from sigma_ros.evaluation.scoring.score import score
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.policy.schedule import Schedule
from sigma_ros.values import AdapterSettings
from training.evaluate import CHECK_A, CHECK_B, REPORT
from training.evaluate import main as evaluate
from training.held_out import TYPICAL_RESIDUAL, replay_shard
from training.loop import load_state, renew_memory
from training.losses import telepathy_input_of, without_motion
from training.options import TrainOptions
from training.run import Run
from training.streams import Segment, StreamPlace, Streams
from training.train import CHECKPOINT, run_training, train

ROOT = Path(__file__).resolve().parents[2]
from bags import small_contract, write_recording  # type: ignore[import-not-found]  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture
def options(base, data, tmp_path) -> TrainOptions:
    return TrainOptions(
        base_model_id=str(base),
        dataset_dir=str(data.folder),
        output_dir=str(tmp_path / "run"),
        batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=6,
        learning_rate=1e-3,
        eval_every=0,
        save_every=3,
    )


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in run.parameters.items()}


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


class FakeEpisode:
    """Possible window ticks of an episode."""

    def __init__(self, rows: tuple[int, ...]) -> None:
        self.rows = rows


@given(
    st.lists(st.integers(17, 200), min_size=1, max_size=5),
    st.sampled_from([4, 8, 16]),
    st.integers(0, 9),
    st.sampled_from([1, 4, None]),
)
def test_a_stream_reads_whole_episodes_in_order_and_begins_each_with_an_empty_memory(
    lengths, phase_step, stream, unroll
):
    episodes = [FakeEpisode(tuple(range(0, length - 16, phase_step))) for length in lengths]
    streams = Streams(episodes, stride=16, phase_step=phase_step, seed=1, unroll=unroll)
    place, read = StreamPlace(), []
    for _ in range(30):
        piece, after = streams.next(stream, place)
        assert (piece, after) == streams.next(stream, place)
        assert 1 <= len(piece.rows) <= (unroll or 200)
        assert unroll or piece.fresh
        read.append(piece)
        place = after
    for before, piece in itertools.pairwise(read):
        if piece.fresh:
            ended = [row for row in episodes[before.episode].rows if row % 16 == before.rows[-1] % 16]
            assert before.rows[-1] == ended[-1]
        else:
            assert piece.episode == before.episode
            assert piece.rows[0] == before.rows[-1] + 16
    assert all(np.diff(piece.rows).tolist() == [16] * (len(piece.rows) - 1) for piece in read)


@pytest.mark.parametrize("given", [{}, {"hide_motion": 0.5}, {"foresight_weight": 1.0}], ids=str)
def test_a_run_that_is_cut_and_resumed_is_bit_for_bit_the_run_that_was_not(options, given, tmp_path):
    options = replace(options, **given)
    whole, _ = run_training(options, resume=False)
    cut = replace(options, output_dir=str(tmp_path / "cut"))
    first = Run(cut, Accelerator())
    for _ in range(3):
        first.advance()
    first.save(Path(cut.output_dir))
    second, complete = run_training(cut, resume=True)
    assert complete
    assert_equal(weights(second), weights(whole))


def test_ctrl_c_saves_after_the_step_and_the_run_can_go_on(options, monkeypatch):
    run = Run(options, Accelerator())
    advance = run.advance

    def interrupted() -> dict[str, float]:
        if run.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return advance()

    monkeypatch.setattr(run, "advance", interrupted)
    assert not train(run, Path(options.output_dir))
    _, facts = load_state(Path(options.output_dir) / "state" / "process_0")
    assert facts["step"] == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_samples(options):
    run = Run(options, Accelerator())
    with torch.no_grad():
        run.parameters["telepathy.readouts"].fill_(float("nan"))
    with pytest.raises(SigmaError, match=r"not finite.*episode \d+ tick \d+"):
        run.advance()
    assert not (Path(options.output_dir) / "state").exists()


def test_two_processes_give_the_curve_of_one(options, tmp_path):
    def curve(name: str, batch: int, launcher: list[str]) -> list[float]:
        out = tmp_path / name
        given = ["--batch_size", str(batch), "--output_dir", str(out), "--max_steps", "4", "--lora_dropout", "0"]
        fixed = ["--base_model_id", options.base_model_id, "--dataset_dir", options.dataset_dir, "--eval_every", "0"]
        given += ["--log_with", "tensorboard"]
        command = [*launcher, "-m", "training.train", *given, *fixed, "--gradient_accumulation_steps", "2"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        events = EventAccumulator(str(out / "tensorboard" / "sigma"))
        events.Reload()
        return [event.value for event in events.Scalars("loss")]

    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    assert curve("two", 1, launch) == pytest.approx(curve("one", 2, [sys.executable]), rel=1e-4)


def test_a_run_tells_its_cost_before_and_keeps_no_curves_unasked(options, capsys, tmp_path):
    run_training(options, resume=False)
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"estimate: \d+\.\d\d GB of frozen base, .* M trained parameters .* ticks of \d+ episodes", said)
    assert re.search(r"estimate from the first step: .* for 5 more; \d+\.\d GB", said)
    assert said.index("estimate: ") < said.index("base chunks") if "base chunks" in said else True
    assert not list(tmp_path.rglob("events.out.*"))


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_library_for_curves_that_is_absent_is_named_before_anything_is_read(name, options, monkeypatch):
    monkeypatch.setattr("training.train.find_spec", lambda _: None)
    with pytest.raises(MachineError, match=rf"{name} is not installed.*--log_with {name}.*pip install {name}"):
        run_training(replace(options, log_with=name, dataset_dir="absent"), resume=False)


def test_another_setting_or_other_data_cannot_be_resumed(options):
    run = Run(options, Accelerator())
    run.save(Path(options.output_dir))
    with pytest.raises(CheckpointError, match=r"other settings.*learning_rate"):
        run_training(replace(options, learning_rate=2e-3), resume=True)


def test_a_trained_run_is_not_replaced_unless_asked_and_can_be_made_longer(options, monkeypatch):
    short = replace(options, max_steps=1)
    run_training(short, resume=False)
    checkpoint = Path(options.output_dir) / CHECKPOINT / "sigma_config.json"
    before = checkpoint.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("training.run.load_base", lambda *_, **__: pytest.fail("loaded"))
        with pytest.raises(UsageError, match=r"has a trained run.*--resume.*--overwrite"):
            run_training(short, resume=False)
    assert checkpoint.read_bytes() == before
    longer, complete = run_training(replace(options, max_steps=2), resume=True)
    assert complete
    assert longer.step == 2
    assert json.loads(checkpoint.read_text(encoding="utf-8"))["training"]["steps"] == 2
    with pytest.raises(CheckpointError, match="the run is longer already"):
        run_training(short, resume=True)
    again, _ = run_training(short, resume=False, overwrite=True)
    assert again.step == 1


@pytest.mark.parametrize("arm", ["sigma", "plain_lora"])
def test_the_robot_loads_what_was_trained_and_its_base_is_untouched(arm, options, base):
    run, complete = run_training(replace(options, arm=arm, max_steps=2, lora_dropout=0.0), resume=False)
    assert complete
    if arm == "plain_lora":  # no telepathy that an adapter could judge: it is compared with its whole change
        scores = run.scores(run.held_out_numbers[:1])
        np.testing.assert_array_equal(scores.sigma, scores.full)
        assert (scores.sigma != scores.base).any()
        sizes = run.scores(run.train_numbers).residual_rms
        assert run.model.references.r_ref == pytest.approx(np.percentile(sizes, TYPICAL_RESIDUAL))
    contract = load_contract("so101")
    checkpoint = Path(options.output_dir) / CHECKPOINT
    runtime = SigmaRuntime.load(str(checkpoint), contract=contract)
    assert runtime.info.sigma_trained
    assert_equal({n: p.detach() for n, p in runtime.model.trained().items()}, weights(run))
    assert any(parameter.abs().max() > 0 for name, parameter in weights(run).items() if "lora_B" in name)
    manifest = json.loads((checkpoint / "sigma_config.json").read_text(encoding="utf-8"))
    assert manifest["training"]["data_hash"] == run.data.meta.hash
    assert "--max_steps 2" in manifest["training"]["command"]
    plain = SigmaRuntime.load(str(base), contract=contract)
    for ours, theirs in zip(
        runtime.model.backbone.policy.parameters(), plain.model.backbone.policy.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_law_what_an_operator_corrected_weighs_more_in_the_loss_and_is_what_it_says_elsewhere_without_marks(
    options, tmp_path, shards_of
):
    """The first step's loss of the same data with and without marks, by the option's value."""

    def first_loss(marks: dict[int, bool], factor: float) -> float:
        place = tmp_path / f"{len(marks)}_{factor}"
        contract = small_contract()
        bags = [write_recording(place / f"bag_{i}", contract, ticks=70, first_tick=9 * i, marks=marks if i == 1 else {})
                for i in range(2)]  # fmt: skip
        shards = shards_of(place / "shards", bags, contract)
        given = replace(options, dataset_dir=str(shards), output_dir=str(place / "run"), correction_weight=factor)
        run = Run(given, Accelerator())
        pieces = [run.streams.next(i, StreamPlace())[0] for i in range(4)]
        windows = run.assembler.windows([replace(p, episode=run.train_numbers[p.episode]) for p in pieces], 1)
        assert windows.corrected.tolist() == [bool(marks) and 25 <= p.rows[1] < 60 for p in pieces]
        return run.advance()["loss"]

    marks = {34: True, 69: False}  # rows 25 to 59 of the second recording
    plain, alike, raised = first_loss({}, 9.0), first_loss(marks, 1.0), first_loss(marks, 9.0)
    assert plain == alike != raised


@pytest.mark.parametrize("gain", [1.0, 5.0])
def test_the_residual_learns_as_many_times_as_fast_as_it_is_told(options, gain):
    run = Run(replace(options, residual_gain=gain), Accelerator())
    before = weights(run)
    lr = run.advance()["lr"]
    moved = {name: float((run.parameters[name].detach() - before[name]).abs().max()) for name in before}
    for name, size in moved.items():  # Adam's first step is the whole rate where there is a gradient at all
        rate = lr * (gain if name.startswith("residual.") else 1.0)
        decay = rate * options.weight_decay * float(before[name].abs().max())
        assert size <= rate * 1.001 + decay
    assert max(size for name, size in moved.items() if name.startswith("residual.")) > 0.9 * lr * gain


def test_a_renewed_memory_keeps_what_was_shown_once_for_eight_commits(options):
    run = Run(replace(options, renew_memory=True), Accelerator())
    path, width = run.model.telepathy, run.model.config.memory_width
    with torch.no_grad():
        path.memory.gate.bias.fill_(3.0)  # as one that was learned where nothing had to be kept
        renew_memory(run.model, seed=0)
        shown, blank = torch.zeros(2, width), torch.zeros(2, width)
        shown[0, 0], shown[1, 0] = 2.0, -2.0
        memory = path.memory(torch.zeros(2, width), shown)
        told = float((memory[0] - memory[1])[0])
        for _ in range(8):
            memory = path.memory(memory, blank)
    assert told > 0.1
    assert float((memory[0] - memory[1])[0]) > 0.2 * told


def test_foresight_asks_for_the_recorded_actions_so_far_ahead_and_for_the_last_ones_behind_the_end(options, data):
    run = Run(replace(options, foresight_weight=1.0), Accelerator())
    number, ahead = run.train_numbers[0], (1, 5, 10_000)
    episode = data.episodes[number]
    piece = Segment(number, run.episodes[number].rows[:2], fresh=True)
    acted = np.flatnonzero(episode.acted)
    for step, row in enumerate(piece.rows):
        wanted = [next((a for a in acted if a >= row + ticks), acted[-1]) for ticks in ahead]
        normalised = run.normalisation.action.normalise(episode.actions[wanted])
        assert np.allclose(run.assembler.later([piece], step, ahead)[0].numpy(), normalised)
    assert not run.assembler.later([piece], 2, ahead).any()
    assert run.advance()["fore"] > 0.0


def test_hidden_motion_leaves_the_newest_pose_of_the_windows_it_is_drawn_for(options):
    run = Run(options, Accelerator())
    pieces = [run.streams.next(i, StreamPlace())[0] for i in range(2)]
    windows = run.assembler.windows([replace(p, episode=run.train_numbers[p.episode]) for p in pieces], 0)
    telepathy_input = telepathy_input_of(run.model, windows)
    assert not telepathy_input.valid.all()
    assert torch.equal(without_motion(telepathy_input, share=0.0), telepathy_input.states)
    still = without_motion(telepathy_input, share=1.0)
    assert torch.equal(
        still[telepathy_input.valid], telepathy_input.states[:, -1:].expand_as(still)[telepathy_input.valid]
    )
    assert not still[~telepathy_input.valid].any()


def test_training_sees_what_the_robot_computes(options, data):
    """Cached windows against the runtime on the same shard: the same residuals, factors and memory."""
    run, _ = run_training(replace(options, max_steps=3), resume=False)
    runtime = SigmaRuntime.load(str(Path(options.output_dir) / CHECKPOINT), contract=load_contract("so101"))
    number = run.held_out_numbers[0]
    scores = run.scores([number])
    log = replay_shard(data.episodes[number], runtime, load_contract("so101"), name="x", sha256="x")
    count = len(scores.scale)
    ours = np.array([[entry.tau_l2, entry.sem_align] for entry in log.inferences[:count]])
    theirs = np.stack([scores.tau_l2[:, 1], scores.sem_align[:, 1]], axis=1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_shard_scores_as_the_recording_it_was_made_from(options, data, recordings):
    run_training(replace(options, max_steps=2), resume=False)
    contract = small_contract()
    runtime = SigmaRuntime.load(str(Path(options.output_dir) / CHECKPOINT), contract=contract)
    settings = ReplayOptions(
        settings=AdapterSettings(), schedule=Schedule(16, runtime.memory_stride), supervisor_limits=None
    )
    whole = score(replay(recordings[0], contract=contract, runtime=runtime, options=settings))
    shard = score(replay_shard(data.episodes[0], runtime, contract, name="x", sha256="x"))
    assert shard.samples == whole.samples > 0
    for name in ("mse_vec", "mse_chk", "mse_trj", "tau_l2", "sem_align"):
        for arm in ("baseline", "sigma"):
            ours, theirs = (getattr(getattr(scores, arm), name) for scores in (shard, whole))
            assert ours == pytest.approx(theirs, rel=1e-4), (arm, name)


def test_evaluation_writes_the_cards_files_and_the_report(options, data, tmp_path, capsys):
    run_training(replace(options, max_steps=2), resume=False)
    out = tmp_path / "evaluation"
    checkpoint = str(Path(options.output_dir) / CHECKPOINT)
    given = ["--checkpoint", checkpoint, "--dataset_dir", str(data.folder), "--out", str(out)]
    assert evaluate([*given, "--seeds", "0", "1", "--ablate", "memory", "pictures"]) == 0
    check_b = json.loads((out / CHECK_B).read_text(encoding="utf-8"))
    assert list(check_b) == [
        "held out, seed 0",
        "held out, seed 1",
        "train, seed 0",
        "train, seed 1",
        "held out, seed 0, without memory",
        "held out, seed 0, another episode's pictures",
    ]
    exchanged = check_b["held out, seed 0, another episode's pictures"]
    assert check_b["held out, seed 0"]["baseline"] != exchanged["baseline"]
    assert check_b["held out, seed 0"]["baseline"] != check_b["held out, seed 1"]["baseline"]
    heads = {arm: entry["heads"] for arm, entry in json.loads((out / CHECK_A).read_text(encoding="utf-8")).items()}
    assert heads["baseline"] == heads["sigma"]
    report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    assert set(report["over seeds"]) == {f"mse_{name}" for name in SPANS}
    assert (out / "report.html").stat().st_size > 100_000
    said = capsys.readouterr()
    assert said.out.count("mse_trj") == 6
    assert re.search(r"estimate from the first of 12 episodes: [\d.]+ s for the others", said.err)
    assert evaluate(given) == 2


def test_all_that_does_not_fit_is_said_at_once(options, data, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    for file in data.folder.glob("*.safetensors"):
        (folder / file.name).symlink_to(file)
    meta = json.loads((data.folder / "meta.json").read_text(encoding="utf-8"))
    (folder / "meta.json").write_text(json.dumps(meta | {"fps": 50.0, "image_size_px": 224}), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"fps: 50.*picture size.*224"):
        Run(replace(options, dataset_dir=str(folder)), Accelerator())
    radians = {
        name: {end: (np.array(values) / 60.0 + 500.0).tolist() for end, values in quantiles.items()}
        for name, quantiles in meta["normalisation"].items()
    }
    (folder / "meta.json").write_text(json.dumps(meta | {"normalisation": radians}), encoding="utf-8")
    with pytest.raises(DatasetError, match="other units"):
        Run(replace(options, dataset_dir=str(folder)), Accelerator())
