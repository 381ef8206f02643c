# SPDX-License-Identifier: Apache-2.0
"""The reduced bed: a cue for one second, a choice 3 s later, on a made-up arm without physics and without a base.

It fails when memory is disconnected, and when its gradient does not reach from the choice back to the cue.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import UsageError
from sigma_ros.model.pi05.mini import limit_normalisation
from sigma_ros.model.telepathy import Recurrence
from sigma_ros.sim.tasks.catalogue import TASKS, draw, twin
from sigma_ros.sim.tasks.demonstration import Lead, demonstrate_task
from sigma_ros.sim.tasks.world import FEATURES, PAN_AXIS_M, TOKENS
from training.bed.__main__ import main
from training.bed.arms import ARMS, Arm
from training.bed.base import BasePolicy, _samples, without_names
from training.bed.closed_loop import EpisodeOutcome, Policy, Stage, leading
from training.bed.episodes import (
    SEEN,
    BedEpisode,
    Demonstrations,
    TaskRows,
    as_seen_from_the_arm,
    encode,
    encoder,
)
from training.bed.model import BedSigma, build
from training.bed.protocol import FINAL_SEED, Protocol, page_hash
from training.bed.results import rows
from training.bed.trainer import Recipe, train_arm
from training.bed.units import UnitResult, bed_episodes
from training.losses import SigmaLossModule, telepathy_input_of
from training.sources import TARGET_STEPS
from training.streams import Assembler, Segment, StreamPlace, Streams
from training.trials.statistics import mcnemar, nested_interval

CUE_TICKS, GO_TICK, TICKS, STRIDE = 30, 120, 152, 16
LAMPS, GO_LAMP = (4, 5), 7
EPISODES = 24


def made_up(number: int) -> TaskRows:
    """A lamp is on for one second; at the go lamp, 3 s later, all joints jump to the side that the lamp told."""
    side = 2 * (number % 2) - 1
    rng = np.random.default_rng(number)
    features = torch.zeros(TICKS, TOKENS, FEATURES)
    features[:, 2:4, :2] = 1.0
    features[:CUE_TICKS, LAMPS[number % 2], :4] = 1.0
    features[GO_TICK:, GO_LAMP, :4] = 1.0
    states = rng.normal(0.0, 0.01, (TICKS, 6)).astype(np.float32)
    actions = np.zeros((TICKS, 6), dtype=np.float32)
    actions[GO_TICK:] = 0.5 * side
    return TaskRows("put the brick into the box", number, states, actions, features, np.ones(TICKS, dtype=bool))


@pytest.fixture(scope="module")
def demonstrations() -> Demonstrations:
    return Demonstrations(rows=tuple(made_up(number) for number in range(EPISODES)), oracle=("",) * EPISODES)


def still() -> BasePolicy:
    """A base that stays where it is."""
    base = BasePolicy(6)
    for parameter in base.layers[-1].parameters():
        torch.nn.init.zeros_(parameter)
    return base


def untaught(demonstrations: Demonstrations, arm: Arm) -> tuple[BedSigma, list[BedEpisode]]:
    base = still()
    model = build(arm, load_contract("so101"), seed=0)
    return model, bed_episodes(demonstrations, base, demonstrations.normalisation, model.config)


@torch.no_grad()
def right_choices(model: BedSigma, episodes: list[BedEpisode], demonstrations: Demonstrations) -> int:
    """Episodes in which the joints are sent to the right side at the go lamp."""
    assembler = Assembler(episodes, demonstrations.normalisation)
    ticks = tuple(range(GO_TICK % STRIDE, GO_TICK + 1, STRIDE))
    pieces = [Segment(number, ticks, fresh=True) for number in range(len(episodes))]
    memory = Recurrence.start(model.config, batch=len(episodes))
    for step in range(len(ticks)):
        window = assembler.windows(pieces, step)
        telepathy_output = model.believe(telepathy_input_of(model, window), memory)
        memory = telepathy_output.recurrence
    asked = window.base + model.correct(telepathy_output, window.states[:, -1], window.base).composite
    return int((torch.sign(asked[:, 8].mean(dim=1)) == torch.sign(window.target[:, 8].mean(dim=1))).sum())


def taught(demonstrations: Demonstrations, name: str) -> tuple[BedSigma, list[BedEpisode]]:
    model, episodes = untaught(demonstrations, ARMS[name])
    recipe = Recipe(steps=50, streams=8, phase_step=8)
    train_arm(model, episodes, demonstrations.normalisation, recipe, seed=0)
    return model, episodes


@pytest.mark.slow
def test_a_cue_is_remembered_only_by_a_memory_that_is_connected(demonstrations):
    """`without film` has the memory as its only way from window to window.

    That the gradient is not cut is told by the next test: a memory that starts as a running mean holds a cue by
    itself, and on a task as small as this one it is read after training through four windows too.
    """
    right = {
        name: right_choices(*taught(demonstrations, name), demonstrations) for name in ("without film", "no recurrence")
    }
    assert right["without film"] >= EPISODES - 1, right
    assert right["no recurrence"] <= 0.8 * EPISODES, right


@pytest.mark.parametrize(
    ("name", "reaches"),
    [
        ("sigma", True),
        ("without film", True),
        ("without memory", True),
        ("unroll 4", False),
        ("no recurrence", False),
    ],
)
def test_the_gradient_of_the_choice_reaches_the_cue_only_through_an_unbroken_recurrence(demonstrations, name, reaches):
    """`without memory` still carries something from window to window: the factors, through FiLM."""
    arm = ARMS[name]
    model, episodes = untaught(demonstrations, arm)
    torch.nn.init.normal_(model.residual.branches["trajectory"].output.weight, std=0.1)
    if model.telepathy.resampler.film is not None:
        torch.nn.init.normal_(model.telepathy.resampler.film.to_gamma_beta.weight, std=0.1)
    streams = Streams(episodes, stride=STRIDE, phase_step=8, seed=0, unroll=arm.unroll)
    piece, place = streams.next(0, StreamPlace())
    while piece.rows[-1] < GO_TICK - STRIDE:
        piece, place = streams.next(0, place)
    assembler = Assembler(episodes, demonstrations.normalisation)
    windows = [assembler.windows([piece], step) for step in range(len(piece.rows))]
    seen = windows[0].pooled.requires_grad_()
    outcome = SigmaLossModule(model)(windows, Recurrence.start(model.config, batch=1), [windows[0].tasks[0]])
    outcome.terms["act_trj"][-1].backward()
    cue_is_there = piece.rows[0] < CUE_TICKS
    assert (cue_is_there and seen.grad is not None and bool(seen.grad.abs().max() > 0)) == reaches


def test_a_memory_put_back_changes_nothing_and_that_of_the_twin_is_put_in_at_the_choice(monkeypatch):
    """On an untrained model whose residual is stirred, so that the memory shows in the arm."""
    torch.manual_seed(0)
    model = build(ARMS["sigma"], load_contract("so101"), seed=0)
    for branch in model.residual.branches.values():
        torch.nn.init.normal_(branch.output.weight, std=0.1)
    normalisation = limit_normalisation(load_contract("so101"))
    policy, stage, task = Policy(base=still(), model=model, normalisation=normalisation), Stage(1), TASKS["M3"]

    def end_rad(intervention: str) -> np.ndarray:
        stage.play(policy, ARMS["sigma"], task, [3], intervention=intervention)
        return stage.arms[0].positions_rad()

    untouched, swapped, reset = end_rad(""), end_rad("swap"), end_rad("reset")
    assert not np.array_equal(untouched, swapped)
    assert not np.array_equal(untouched, reset)
    monkeypatch.setattr("training.bed.closed_loop.twin", lambda episode: episode)
    np.testing.assert_array_equal(end_rad("swap"), untouched)


def test_an_arm_leads_the_expert_as_it_plays_and_a_base_can_be_pushed(monkeypatch):
    """On an untrained model whose residual is stirred."""
    torch.manual_seed(0)
    contract, task, stage = load_contract("so101"), TASKS["M3"], Stage(1)
    model = build(ARMS["sigma"], contract, seed=0).eval()
    for branch in model.residual.branches.values():
        torch.nn.init.normal_(branch.output.weight, std=0.1)
    policy = Policy(base=still(), model=model, normalisation=limit_normalisation(contract))

    def led(policy: Policy, pushed: int | None = None) -> np.ndarray:
        lead = Lead(leader=leading(policy, fps=contract.fps, pushed=pushed), lasts_s=1.5)
        done = demonstrate_task(stage.arms[0], draw(task, 3), lead=lead)
        return done.commands_rad[done.led]

    itself, alone = led(policy), replace(policy, model=None)
    pan = contract.joint_names.index("shoulder_pan")
    moved = np.abs(led(alone, pushed=pan) - led(alone)).max(axis=0) > 1e-3
    played, step = [], stage.arms[0].step
    monkeypatch.setattr(stage.arms[0], "step", lambda command, s: (played.append(command), step(command, s)))
    stage.play(policy, ARMS["sigma"], task, [3])
    np.testing.assert_allclose(itself, played[: len(itself)], atol=1e-5)
    assert np.ptp(itself[:, pan]) > 1e-3
    assert moved[pan]


def test_all_joints_but_the_one_that_chooses_stay_the_bases_whatever_the_residual_has_learned(demonstrations):
    model, episodes = untaught(demonstrations, ARMS["sigma"])
    for branch in model.residual.branches.values():
        torch.nn.init.normal_(branch.output.weight)
    window = Assembler(episodes, demonstrations.normalisation).windows([Segment(0, (40,), fresh=True)], 0)
    output = model.believe(telepathy_input_of(model, window), Recurrence.start(model.config, batch=1))
    residual = model.correct(output, window.states[:, -1], window.base).composite[..., :16, :]
    touched = residual.abs().amax(dim=(0, 1)).nonzero().flatten().tolist()
    assert touched == [load_contract("so101").joint_names.index("shoulder_pan")]


def test_every_arm_with_a_window_network_has_as_many_trained_numbers_as_sigma():
    sizes = {
        name: sum(p.numel() for p in build(ARMS[name], load_contract("so101"), seed=0).trained().values())
        for name in ("sigma", "window", "residual")
    }
    assert abs(sizes["window"] / sizes["sigma"] - 1.0) < 0.02
    assert sizes["residual"] < sizes["sigma"]


def test_the_token_encoder_is_fixed_and_keeps_what_it_is_given():
    matrix = encoder(64)
    assert torch.equal(matrix, encoder(64))
    torch.testing.assert_close(matrix @ matrix.T, 64.0 * torch.eye(SEEN), atol=1e-3, rtol=0)
    scene = torch.randn(2, TOKENS, FEATURES)
    assert encode(scene, 64).shape == (2, 1, TOKENS, 64)


def test_the_interval_over_seeds_and_episodes_is_wider_than_one_that_takes_episodes_as_independent():
    good = np.repeat([[1.0], [1.0], [0.0], [1.0], [0.0]], 40, axis=1)
    low, high = nested_interval(good, np.ones_like(good))
    assert low <= 0.2
    assert high >= 0.9
    one_low, one_high = nested_interval(good.reshape(1, -1), np.ones((1, 200)))
    assert one_high - one_low < 0.16
    assert np.isnan(nested_interval(good, np.zeros_like(good))).all()


def test_mcnemar_is_the_sign_test_on_the_pairs_that_differ():
    ours, theirs = np.array([True] * 8 + [False] * 4), np.array([False] * 8 + [False] * 4)
    assert mcnemar(ours, theirs) == pytest.approx(2 * 0.5**8)
    assert mcnemar(ours, ours) == 1.0


def test_rows_tell_choice_success_and_what_an_intervention_made_of_them():
    def played(chosen: list[int | None]) -> tuple[EpisodeOutcome, ...]:
        return tuple(EpisodeOutcome(seed=i, goal=0, other=1, chosen=c, success=c == 0) for i, c in enumerate(chosen))

    common = {"task": "M1", "loss": 0.0, "parameters": 1, "train_cpu_s": 0.0, "play_cpu_s": 0.0, "seed": 0}
    results = [
        UnitResult(arm="sigma", played={"": played([0, 0, 0, None]), "swap": played([1, 1, 0, None])}, **common),
        UnitResult(arm="no recurrence", played={"": played([0, 1, 1, None])}, **common),
    ]
    made = {row.arm: row for row in rows(results)}
    assert (made["sigma"].right.good, made["sigma"].right.counted, made["sigma"].chose.good) == (3, 3, 3)
    assert made["sigma"].right_of_all.counted == 4
    assert (made["sigma, swap"].followed.good, made["sigma, swap"].followed.counted) == (2, 3)
    assert made["no recurrence"].p_by_seed == (0.5,)


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_and_keeps_to_its_protocol(tmp_path, monkeypatch):
    command = ["--out", str(tmp_path), "--reduced", "--tasks", "M3", "--arms", "sigma", "base"]
    assert main(command) == 0
    units = sorted((tmp_path / "units").glob("*.json"))
    assert [unit.name for unit in units] == ["M3_base_seed0.json", "M3_sigma_seed0.json"]
    content = json.loads((tmp_path / "bed.json").read_text())
    assert content["conditions"]["protocol"] == page_hash()
    drawn = (tmp_path / "bed.svg").read_text()
    for row in content["rows"]:  # every row that counts anything has its bar
        assert f"<!-- {row['right']['good']}/{row['right']['counted']} -->" in drawn or not row["right"]["counted"]
    led = [file.parent.name for file in (tmp_path / "demonstrations").glob("*/*")]
    assert led == ["M3_sigma_seed0"]  # by the arm itself, before its second round
    before = {unit: unit.stat().st_mtime_ns for unit in units}
    assert main([*command[:-1], "base", "oracle"]) == 0
    assert all(unit.stat().st_mtime_ns == at for unit, at in before.items())
    assert (tmp_path / "units" / "M3_oracle_seed0.json").is_file()
    monkeypatch.setattr("training.bed.units.page_hash", lambda: "another page")
    assert main(command) == UsageError.exit_code


def test_the_base_sees_the_same_wherever_all_of_it_is_turned_to_and_whichever_brick_is_which():
    """Around the pan axis; only the absolute azimuths change, by the same angle. Colours and order do not show."""
    rng, angle = np.random.default_rng(0), 0.3
    scene = torch.zeros(1, TOKENS, FEATURES)
    scene[0, :, 0] = 1.0
    scene[0, :, 8:14] = torch.from_numpy(rng.normal(0.0, 0.3, (TOKENS, 6)))
    scene[0, :, 8] += 1.0
    turned, pan_x = scene.clone(), (PAN_AXIS_M[0] - 0.2) * 8.0
    for place, around in ((8, angle), (12, 2 * angle)):
        x, y = scene[..., place] - (pan_x if place == 8 else 0.0), scene[..., place + 1]
        turned[..., place] = x * np.cos(around) - y * np.sin(around) + (pan_x if place == 8 else 0.0)
        turned[..., place + 1] = x * np.sin(around) + y * np.cos(around)
    change = as_seen_from_the_arm(turned) - as_seen_from_the_arm(scene)
    torch.testing.assert_close(change[..., 10], torch.full((1, TOKENS), 2 * angle))
    assert change.abs().amax(dim=(0, 1)).gt(1e-5).nonzero().flatten().tolist() == [10]
    swapped = scene[:, [1, 0, 3, 2, 4, 5, 6, 7, 8]]
    swapped[..., 5:8] = 0.7
    unnamed = [without_names(as_seen_from_the_arm(each)) for each in (swapped, scene)]
    torch.testing.assert_close(*unnamed)


def test_what_a_leader_did_is_seen_but_never_learned(demonstrations):
    """Other commands in the led ticks change neither the base nor the loss of the windows there."""
    led = np.arange(TICKS) >= 100
    one = replace(demonstrations.rows[0], acted=led)
    other = replace(one, actions=np.where(led[:, None], one.actions, one.actions + 3.0))
    normalisation = demonstrations.normalisation
    for mine, theirs in zip(_samples([one], normalisation), _samples([other], normalisation), strict=True):
        assert len(mine) == TICKS - 100 - TARGET_STEPS + 1
        torch.testing.assert_close(mine, theirs)
    model, _ = untaught(demonstrations, ARMS["sigma"])
    losses = []
    for row in (one, other):
        episodes = bed_episodes(replace(demonstrations, rows=(row,)), still(), normalisation, model.config)
        window = Assembler(episodes, normalisation).windows([Segment(0, (90,), fresh=True)], 0)
        assert window.known[0].tolist() == [False] * 10 + [True] * 6
        outcome = SigmaLossModule(model)([window], Recurrence.start(model.config, batch=1), [window.tasks[0]])
        losses.append({name: float(term.detach()) for name, term in outcome.terms.items() if name.startswith("act_")})
    assert losses[0] == losses[1]
    assert losses[0]["act_trj"] > 0.0


def test_the_final_seeds_are_not_those_of_development():
    final = set(Protocol().episode_seeds)
    assert min(final) == FINAL_SEED
    assert not final & set(Protocol(final=False).episode_seeds)
    assert len({draw(TASKS["M1"], seed).goal for seed in final}) == 2
    assert twin(draw(TASKS["M1"], FINAL_SEED)).goal != draw(TASKS["M1"], FINAL_SEED).goal
