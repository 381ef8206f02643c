# SPDX-License-Identifier: Apache-2.0
"""Beliefs that are computed once are the streams' own, and lateness is drawn from cached chunks alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from sigma_ros.model.telepathy import Recurrence
from training.data import ShardData
from training.losses import action_terms, telepathy_input_of
from training.options import TrainOptions
from training.run import Run
from training.streams import Lateness, Segment, rest_of_chunk
from training.train import run_training


@pytest.fixture(scope="module")
def trained(base: Path, data: ShardData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two steps, and the options' places of it."""
    out = tmp_path_factory.mktemp("begun")
    options = options_of(base, data.folder, out, max_steps=2, train_parts="all", start_from="")
    run_training(options, resume=False)
    return out / "checkpoint"


def options_of(base: Path, shards: Path, out: Path, **changes: object) -> TrainOptions:
    fields: dict[str, object] = {
        "base_model_id": str(base),
        "dataset_dir": str(shards),
        "output_dir": str(out),
        "batch_size": 2,
        "gradient_accumulation_steps": 1,
        "max_steps": 4,
        "eval_every": 0,
        "phase_step": 4,
        "learning_rate": 1e-2,
    }
    return TrainOptions(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(base: Path, data: ShardData, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("late")
    return Run(options_of(base, data.folder, out, start_from=str(trained), train_parts="residual"), Accelerator())


def test_what_is_believed_once_is_what_a_stream_believes(run: Run) -> None:
    number, rows = run.train_numbers[0], run.episodes[run.train_numbers[0]].rows
    piece = Segment(number, tuple(row for row in rows if row % 16 == 4), fresh=True)
    previous = Recurrence.start(run.model.config, batch=1)
    run.model.eval()
    for step, row in enumerate(piece.rows):
        with torch.no_grad():
            telepathy_output = run.model.believe(
                telepathy_input_of(run.model, run.assembler.windows([piece], step)), previous
            )
        previous = telepathy_output.recurrence
        (place,) = np.flatnonzero((run.believed.places == (number, row)).all(axis=1))
        known = run.believed.telepathy_output(run.model, [int(place)], [False])
        for name in ("factors", "intent", "glance"):
            torch.testing.assert_close(getattr(known, name), getattr(telepathy_output, name))


def test_a_run_on_the_residual_leaves_everything_else_as_it_was(run: Run) -> None:
    before = {name: parameter.detach().clone() for name, parameter in run.model.trained().items()}
    losses = [run.advance()["loss"] for _ in range(3)]
    assert np.isfinite(losses).all()
    changed = {name for name, parameter in run.model.trained().items() if not torch.equal(parameter, before[name])}
    assert changed
    assert all(name.startswith("residual.") for name in changed)
    assert any(name.startswith("residual.branches.late.") for name in changed)


def test_an_old_chunk_is_what_is_left_of_one_that_was_cached(run: Run) -> None:
    cached = run.episodes[run.train_numbers[0]]
    row = cached.rows[4]
    assert cached.ages(row, 15) == (0, 4, 8, 12)
    assert cached.ages(cached.rows[0], 15) == (0,)
    old = rest_of_chunk(cached.base(row - 8), 8)
    torch.testing.assert_close(old[:-8], cached.base(row - 8)[8:])
    torch.testing.assert_close(old[-8:], cached.base(row - 8)[-1:].expand(8, -1))


def test_the_losses_of_a_window_do_not_depend_on_the_others_of_its_batch(run: Run) -> None:
    chosen = list(range(0, 24, 3))

    def terms(some: list[int]) -> dict[str, torch.Tensor]:
        windows = run.assembler.alone(run.believed.places[some].tolist(), late_at=7)
        ages.update(windows.age.tolist())
        return action_terms(run.model, run.believed.telepathy_output(run.model, some, [False] * len(some)), windows)

    ages: set[float] = set()
    run.model.eval()
    with torch.no_grad():
        together = terms(chosen)
        for place, one in enumerate(chosen):
            for name, value in terms([one]).items():
                torch.testing.assert_close(together[name][place], value[0], rtol=1e-4, atol=1e-6)
    assert 0.0 in ages, "with bases of now"
    assert len(ages) > 1, "and old ones"


def test_lateness_is_a_function_of_seed_step_and_window_and_reaches_its_bounds() -> None:
    late = Lateness(steps=50, delay_ticks=15, base_age_ticks=15, seed=1)
    draws = [late.drawn((0, 4, 8), step=step, episode=2, row=32) for step in range(300)]
    assert draws == [late.drawn((0, 4, 8), step=step, episode=2, row=32) for step in range(300)]
    assert {delay for delay, _ in draws} == set(range(16))
    assert {age for _, age in draws} == {0, 4, 8}


def test_targets_reach_over_the_end_of_an_episode_by_its_last_action(run: Run) -> None:
    number = run.train_numbers[0]
    rows = run.episodes[number].rows
    window = run.assembler.window(number, rows[-1])
    actions = run.episodes[number].episode.actions[run.episodes[number].episode.acted]
    expected = run.normalisation.action.normalise(actions[-1:])[0]
    assert window["target"].shape[0] == run.model.config.residual_steps
    np.testing.assert_allclose(window["target"][-1].numpy(), expected, rtol=1e-6)
    assert bool(window["known"].all())
