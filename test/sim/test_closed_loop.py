# SPDX-License-Identifier: Apache-2.0
"""The closed loop in simulated time: a good policy succeeds at any latency, and a run can be continued."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from sigma_ros.cli.scores.sim import app
from sigma_ros.contract import Contract, Delays
from sigma_ros.errors import UsageError
from sigma_ros.sim.closed_loop import LIMITS, EpisodeRun, Loop, run_episode, sim_limits
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.setups import TARGET
from sigma_ros.sim.trial_report import document, markdown
from sigma_ros.sim.trials import ScriptedRuntime, Trial, TrialBook, chunk_arrays, run_trial, trials
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.values import AdapterSettings

LOOP = Loop(settings=AdapterSettings(), limits=sim_limits())
EXPERT = Trial(arm="expert", latency_ms=0.0)


def never() -> int:
    return 0


@pytest.fixture(scope="module")
def target(contract: Contract):
    with SimArm(TARGET, contract=contract) as arm:
        yield arm


def expert_run(arm: SimArm, seed: int = 1, **changes: object) -> EpisodeRun:
    arm.reset(seed)
    return run_episode(arm, ScriptedRuntime(arm, seed), seed, replace(LOOP, **changes), clock_ns=never)


@pytest.mark.parametrize("latency_ms", [0.0, 100.0, 300.0, 450.0])
@pytest.mark.parametrize("stitching", ["latest", "crossfade"])
def test_the_experts_chunks_put_the_brick_into_the_box_at_any_latency(
    target, latency_ms: float, stitching: str
) -> None:
    run = expert_run(target, latency_ms=latency_ms, stitching=stitching)
    assert run.success
    assert run.held
    assert run.counters.violations == 0
    assert run.counters.refused_chunks == 0


def test_the_same_seed_and_latency_give_the_same_commands(target) -> None:
    one, other = expert_run(target, latency_ms=100.0), expert_run(target, latency_ms=100.0)
    np.testing.assert_array_equal(one.commands_rad, other.commands_rad)


def test_limits_by_name_differ_from_a_robots_only_as_they_say() -> None:
    robot = SupervisorLimits(start_ramp=True, authority_ages=False)
    assert sim_limits("robot") == robot
    for name, told in LIMITS.items():
        assert {n for n in asdict(robot) if getattr(sim_limits(name), n) != getattr(robot, n)} == set(told)


def test_without_a_supervisor_the_commands_are_the_chunks_own_whatever_they_ask_for(target) -> None:
    run = expert_run(target, supervised=False)
    assert run.success
    assert set(run.scales) == {0.0}
    assert run.misses_rad.max() == 0.0


def test_an_episode_without_success_ends_at_its_time_limit(target) -> None:
    run = expert_run(target, time_limit_s=1.0)
    assert not run.success
    assert run.duration_s <= 1.0


class Watched(ScriptedRuntime):
    """The expert, with its calls written down."""

    def __init__(self, arm: SimArm, seed: int) -> None:
        super().__init__(arm, seed)
        self.planned: list[int] = []
        self.remembered: list[int] = []

    def step(self, window, state, **options):  # type: ignore[override]
        self.planned.append(window.tick)
        return super().step(window, state, **options)

    def remember(self, window, state):
        self.remembered.append(window.tick)
        return super().remember(window, state)


@pytest.mark.parametrize(("latency_ms", "planned"), [(0, [0, 8, 16, 24]), (300, [0, 9, 18, 27]), (450, [0, 13, 27])])
def test_a_slow_inference_plans_as_often_as_it_can_and_commits_at_every_stride(
    target, latency_ms: float, planned: list[int]
) -> None:
    target.reset(1)
    runtime = Watched(target, 1)
    run_episode(
        target, runtime, 1, replace(LOOP, latency_ms=latency_ms, replan_ticks=8, time_limit_s=1.01), clock_ns=never
    )
    assert runtime.planned == planned
    commits = sorted({*runtime.remembered, *(tick for tick in planned if tick % 16 == 0)})
    assert commits == [0, 16]


def test_the_base_arm_has_scale_zero_and_the_others_their_settings(target, monkeypatch) -> None:
    seen = []

    def spy(_arm, _runtime, _seed, loop, **_):
        seen.append(loop.settings)
        return expert_run(target, time_limit_s=0.2)

    monkeypatch.setattr("sigma_ros.sim.trials.run_episode", spy)
    for trial in trials(("base", "sigma"), (0.0,)):
        run_trial(target, trial, 0, replace(LOOP, settings=AdapterSettings(min_scale=0.2)), None)
    assert [settings.max_scale for settings in seen] == [0.0, 1.0]
    assert seen[0].min_scale == 0.0


def result_of(target, seed: int, **changes: object):
    return replace(run_trial(target, EXPERT, seed, replace(LOOP, time_limit_s=0.3), None)[0], **changes)


def test_a_run_goes_on_where_it_was_interrupted_and_refuses_other_conditions(tmp_path: Path, target) -> None:
    book = TrialBook(tmp_path, {"setup": "target"})
    book.add(result_of(target, 0))
    with (tmp_path / "episodes.jsonl").open("a") as file:
        file.write('{"arm": "exp')
    again = TrialBook(tmp_path, {"setup": "target"})
    assert again.has(EXPERT, 0)
    assert not again.has(EXPERT, 1)
    again.add(result_of(target, 1))
    assert len(TrialBook(tmp_path, {"setup": "target"}).results) == 2
    with pytest.raises(UsageError, match="other conditions"):
        TrialBook(tmp_path, {"setup": "source"})
    assert TrialBook(tmp_path, {"setup": "source"}, force=True).results == []


def test_the_report_has_wilsons_interval_and_compares_seed_by_seed(target) -> None:
    results = [
        result_of(target, seed, arm=arm, success=good)
        for seed in range(10)
        for arm, good in (("base", seed < 2), ("sigma", seed < 9))
    ]
    starts = dict.fromkeys(range(10), (0.2, 0.0))
    conditions = {"setup": "t", "checkpoint": "c", "trained": True}
    content = document(conditions, results, trials(("base", "sigma"), (0.0,)), starts=starts)
    base, sigma = content["trials"]
    assert (base["successes"], sigma["successes"]) == (2, 9)
    assert (base["low"], base["high"]) == pytest.approx((0.0567, 0.5098), abs=1e-3)
    [comparison] = content["comparisons"]
    assert comparison["success_difference"] == pytest.approx(0.7)
    assert comparison["verdict"] == "better"
    assert "9/10 = 90%" in markdown(content)


@pytest.mark.parametrize("name", ["open", "robot"])
def test_limits_that_are_looser_than_a_robots_stand_beside_the_rates(name: str) -> None:
    conditions = {"setup": "t", "checkpoint": "c", "trained": True}
    limits = {"name": name, "other than a robot's": dict(LIMITS[name])}
    said = "max_residual_rad 3.2 (a robot's: 1.5)" in markdown(
        document(conditions | {"limits": limits}, [], (), starts={})
    )
    assert said is (name == "open")


class Still(ScriptedRuntime):
    """A model that stays where the arm is."""

    info = SimpleNamespace(hash="ab", trained=True)

    def __init__(self, contract: Contract) -> None:
        self._contract = contract

    def step(self, window, state, **options):  # type: ignore[override]
        self._path: Any = SimpleNamespace(at=lambda _: window.newest.positions_rad)
        return super().step(window, state, **options)


def test_the_command_runs_a_model_writes_all_three_files_and_continues(tmp_path: Path, monkeypatch) -> None:
    def load(request, contract):
        assert request.allow_untrained
        return Still(contract)

    monkeypatch.setattr("sigma_ros.cli.scores.sim._load", load)
    command = ["--arms", "base,sigma", "--time-limit-s", "0.5", "--allow-untrained", "--out", str(tmp_path)]
    for episodes, told in (("1", 2), ("2", 4)):
        outcome = CliRunner().invoke(app, [*command, "--episodes", episodes])
        assert outcome.exit_code == 0, outcome.output
        content = json.loads((tmp_path / "sim.json").read_text())
        assert len(content["episodes"]) == told
    assert (tmp_path / "sim.html").stat().st_size > 1000
    assert "sigma, 0 ms" in (tmp_path / "sim.md").read_text()


def test_without_a_latency_the_contracts_own_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "arm.yaml"
    file.write_text("extends: so101\nname: arm\ndelays: {inference_ms: 120}\n")
    command = ["--arms", "expert", "--time-limit-s", "0.5", "--contract", str(file), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, command).exit_code == 0
    [row] = json.loads((tmp_path / "out" / "sim.json").read_text())["trials"]
    assert row["latency_ms"] == 120.0


class Looking(ScriptedRuntime):
    """The expert, which keeps the newest picture of each plan."""

    image_size_px = 16  # type: ignore[assignment]

    def __init__(self, arm: SimArm, seed: int) -> None:
        super().__init__(arm, seed)
        self.seen: list[np.ndarray] = []

    def step(self, window, state, **options):  # type: ignore[override]
        self.seen.append(window.newest.images["up"])
        return super().step(window, state, **options)


def looked(contract: Contract, **changes: object) -> tuple[Looking, EpisodeRun]:
    with SimArm(TARGET, contract=contract) as arm:
        arm.reset(1)
        runtime = Looking(arm, 1)
        loop = replace(LOOP, replan_ticks=1, time_limit_s=1.2, **changes)
        return runtime, run_episode(arm, runtime, 1, loop, clock_ns=never)


@pytest.mark.gl
def test_pictures_are_as_late_as_the_contract_says(small_contract: Contract) -> None:
    late = replace(small_contract, delays=Delays(camera_ns=3 * small_contract.tick_period_ns))
    (prompt, _), (old, _) = looked(small_contract), looked(late)
    assert any(not np.array_equal(prompt.seen[tick], old.seen[tick]) for tick in range(len(old.seen)))
    for tick, picture in enumerate(old.seen):
        np.testing.assert_array_equal(picture, prompt.seen[max(0, tick - 3)])


def test_what_was_proposed_is_kept_in_a_file_of_its_own(tmp_path: Path, target) -> None:
    result, run = run_trial(target, EXPERT, 1, replace(LOOP, time_limit_s=1.0), None)
    book = TrialBook(tmp_path, {})
    book.log_chunks(result, run)
    [file] = (tmp_path / "chunks").iterdir()
    arrays = load_file(file)
    np.testing.assert_array_equal(arrays["tick"], [p.chunk.tick for p in run.proposals])
    assert arrays["base_rad"].shape == (len(run.proposals), 50, 6)
    assert arrays["positions_rad"].shape == (31, 6)
    assert len(arrays["commands_rad"]) == len(run.commands_rad)
    assert "spread" not in arrays
    whole = run.proposals[0]
    rest = {name: getattr(whole.chunk, name)[3:] for name in ("base_rad", "residual_rad")}
    renewed = replace(run, proposals=(*run.proposals, replace(whole, chunk=replace(whole.chunk, **rest))))
    np.testing.assert_equal(chunk_arrays(renewed), arrays)


def test_a_tasks_episodes_say_what_was_asked_and_what_was_chosen(tmp_path: Path) -> None:
    command = ["--task", "M1", "--arms", "expert", "--seed", "61", "--no-film", "--out", str(tmp_path)]
    outcome = CliRunner().invoke(app, command)
    assert outcome.exit_code == 0, outcome.output
    content = json.loads((tmp_path / "sim.json").read_text())
    [episode], conditions = content["episodes"], content["conditions"]
    assert episode["success"]
    assert episode["chosen"] == episode["goal"] == 1 - episode["other"]
    assert (conditions["task"], conditions["time_limit_s"]) == ("M1", 18.0)
    assert "expert, 0 ms: chose in 1 of 1, rightly in 1 of them" in (tmp_path / "sim.md").read_text()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--limits", "none"],
        ["--arms", "nobody"],
        ["--latency-ms", "soon"],
        ["--latency-ms", "900"],
        ["--latency-ms", "0,500"],
        ["--stitching", "glue"],
        ["--on-alarm", "hope"],
        ["--task", "L9", "--arms", "expert"],
        ["--task", "M1", "--intervention", "pray"],
        ["--intervention", "reset"],
        ["--task", "M1", "--intervention", "reset", "--arms", "expert"],
    ],
)
def test_wrong_usage_is_refused_before_anything_is_loaded(tmp_path: Path, wrong: list[str]) -> None:
    outcome = CliRunner().invoke(app, [*wrong, "--out", str(tmp_path / "none")])
    assert isinstance(outcome.exception, UsageError)
    assert not (tmp_path / "none").exists()
