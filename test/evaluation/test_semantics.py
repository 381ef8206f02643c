# SPDX-License-Identifier: Apache-2.0
"""Laws of the semantic measures, on stand-ins that obey, ignore or copy the text."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from bags import TASK, small_contract, write_recording
from jsonschema import Draft202012Validator
from stub_runtime import StubRuntime
from synthetic import SCHEMA_FILE

from sigma_ros.evaluation.replay import ReplayOptions, replay
from sigma_ros.evaluation.report.document import report_document, to_text
from sigma_ros.evaluation.report.page import report_page
from sigma_ros.evaluation.scoring.score import score
from sigma_ros.evaluation.semantics import UNRELATED, Effect, Semantics, Texts, measure
from sigma_ros.policy.schedule import Schedule
from sigma_ros.values import AdapterSettings

CONTRACT = small_contract()
OPTIONS = ReplayOptions(settings=AdapterSettings(), schedule=Schedule(8, 16), supervisor_limits=None)
AWAY_RAD = 0.2


class Obedient(StubRuntime):
    """Proposes something else as soon as the text is not the recorded one."""

    def step(self, window, state, **kwargs):
        inference, state = super().step(window, state, **kwargs)
        if window.task != TASK:
            chunk = inference.chunk
            object.__setattr__(chunk, "base_rad", chunk.base_rad + AWAY_RAD)
        return inference, state


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bags")
    return [write_recording(folder / name, CONTRACT, ticks=100) for name in ("one", "two")]


def study(bags, runtime, **texts) -> dict[str, Effect]:
    found = measure(bags, runtime=runtime, options=OPTIONS, texts=Texts(**texts))
    return {effect.name: effect for effect in found.effects}


def test_a_policy_that_ignores_the_text_shows_no_effect_at_all(bags):
    effects = study(bags, StubRuntime(CONTRACT))
    for name in ("recorded", "wrong", "reworded", "empty"):
        assert effects[name].sigma.verdict == effects[name].base.verdict == "equal"
        assert effects[name].sigma_change_deg == effects[name].base_change_deg == 0.0
        assert effects[name].windows == 12


def test_a_policy_that_obeys_the_text_is_moved_by_every_other_text(bags):
    effects = study(bags, Obedient(CONTRACT))
    for name in ("wrong", "reworded", "empty"):
        assert effects[name].base_change_deg == pytest.approx(math.degrees(AWAY_RAD))
        assert effects[name].sigma.verdict == "worse"
    assert effects["recorded"].sigma.verdict == "equal"


def test_each_condition_is_replayed_with_its_own_text(bags):
    effects = study(bags, StubRuntime(CONTRACT), reworded="kindly: {task}")
    assert effects["recorded"].text == TASK
    assert effects["wrong"].text == CONTRACT.tasks[0], "another task of the contract before an invented one"
    assert effects["reworded"].text == f"kindly: {TASK}"
    assert effects["empty"].text == ""


def test_cutting_the_memory_changes_only_what_comes_after_the_middle(bags):
    """The stand-in's base grows with each committed update: without a memory it stays at the first."""
    effects = study(bags, StubRuntime(CONTRACT))
    cut = effects["memory cut"]
    assert cut.windows == 6, "ticks 48, 64 and 80 of two recordings"
    assert cut.base_change_deg == pytest.approx(math.degrees(1e-3) * np.sqrt(np.mean(np.square([3, 4, 5]))))


def test_a_replay_with_a_forgotten_memory_is_the_same_up_to_there(bags):
    whole, cut = (
        replay(bags[0], contract=CONTRACT, runtime=StubRuntime(CONTRACT), options=options)
        for options in (OPTIONS, ReplayOptions(**{**fields_of(OPTIONS), "forget_from": {0: 48}}))
    )
    for one, other in zip(whole.inferences, cut.inferences, strict=True):
        same = np.array_equal(one.chunk.base_rad, other.chunk.base_rad)
        assert same is (one.chunk.tick < 48)


def fields_of(options: ReplayOptions) -> dict:
    return {name: getattr(options, name) for name in options.__dataclass_fields__}


def test_without_a_memory_nothing_is_retrieved(bags):
    effects = study(bags[:1], StubRuntime(CONTRACT))
    assert all(math.isnan(effect.retrieved_given) for effect in effects.values())


class Copying(StubRuntime):
    """Its memory is a copy of the text's embedding: one-hot, by the text's length."""

    WIDTH = 64

    def __init__(self, contract, *, copies: bool) -> None:
        super().__init__(contract)
        torch = pytest.importorskip("torch")
        layer = torch.nn.Linear(self.WIDTH, self.WIDTH, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.eye(self.WIDTH))
        self.copies = copies
        self.torch = torch
        self.model = SimpleNamespace(
            heads=dict, telepathy=SimpleNamespace(memory_to_text=layer), read_text=self._read_text
        )

    def _read_text(self, texts):
        rows = self.torch.stack([self.torch.from_numpy(self._embedded(text)) for text in texts]).to(self.torch.float32)
        return rows[:, None], self.torch.ones(len(texts), 1, dtype=self.torch.bool)

    def _embedded(self, text):
        return np.eye(self.WIDTH)[len(text) % self.WIDTH]

    def step(self, window, state, **kwargs):
        inference, state = super().step(window, state, **kwargs)
        text = window.task if self.copies else TASK
        object.__setattr__(inference.telepathy, "semantic_memory", self._embedded(text))
        return inference, state


def test_a_memory_that_copies_the_text_is_told_from_one_that_knows_the_scene(bags):
    copying = study(bags[:1], Copying(CONTRACT, copies=True))["wrong"]
    assert (copying.retrieved_given, copying.retrieved_recorded) == (1.0, 0.0)
    knowing = study(bags[:1], Copying(CONTRACT, copies=False))["wrong"]
    assert (knowing.retrieved_given, knowing.retrieved_recorded) == (0.0, 1.0)


def test_the_study_stands_in_the_report_with_its_limits(bags):
    found: Semantics = measure(bags[:1], runtime=StubRuntime(CONTRACT), options=OPTIONS, texts=Texts())
    log = replay(bags[0], contract=CONTRACT, runtime=StubRuntime(CONTRACT), options=OPTIONS)
    document = report_document([log], score(log), {}, {"semantics": found.document()})
    schema = Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))
    assert [error.message for error in schema.iter_errors(json.loads(to_text(document)))] == []
    page = report_page([log], score(log), document)
    assert "cannot show that the policy understood" in page
    assert UNRELATED in found.candidates
