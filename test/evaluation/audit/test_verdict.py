# SPDX-License-Identifier: Apache-2.0
"""A policy that depends on a channel is told to use it; one whose channel is cut is told to ignore it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from audited import OTHER_TEXT, always_right, episodes

from sigma_ros.bags.episode import Tick
from sigma_ros.evaluation.audit.channels import observe
from sigma_ros.evaluation.audit.verdict import Audit, judge
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.model.telepathy import Recurrence

pytestmark = pytest.mark.slow

EPISODES = 9


@pytest.fixture(scope="module")
def recorded(runtime: SigmaRuntime) -> list[list[Tick]]:
    return always_right(runtime, episodes(runtime, EPISODES))


def verdicts(audit: Audit, policy: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for one in audit.verdicts:
        if one.policy == policy:
            found.setdefault(str(one.channel), set()).add(one.verdict)
    return found


def audited(runtime: SigmaRuntime, ticks: Sequence[Sequence[Tick]], other_text: str = OTHER_TEXT) -> Audit:
    return judge(observe(runtime, ticks, other_text=other_text), ("base", "checkpoint"))


def test_a_policy_that_depends_on_every_channel_sees_reads_and_remembers(
    runtime: SigmaRuntime, recorded: list[list[Tick]]
) -> None:
    audit = audited(runtime, recorded)
    assert audit.episodes == EPISODES
    assert verdicts(audit, "checkpoint") == {
        "None": {"sees"},
        "pictures": {"sees"},
        "text": {"reads"},
        "memory": {"remembers"},
    }
    assert verdicts(audit, "base")["memory"] == {"ignores"}, "a base has no memory"


@pytest.mark.parametrize("channel", ["pictures", "text", "memory"])
def test_a_channel_that_is_cut_behind_its_tokens_is_ignored(
    runtime: SigmaRuntime, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    act = runtime.model.act

    def cut(given, previous, *, patches, tasks, **rest):  # type: ignore[no-untyped-def]
        if channel == "pictures":
            given, patches = replace(given, pooled=torch.zeros_like(given.pooled)), torch.zeros_like(patches)
        elif channel == "text":
            text, mask = runtime.model.read_text([""])
            given, tasks = replace(given, text=text, text_mask=mask), [""]
        else:
            previous = Recurrence.start(runtime.model.config, batch=1)
        return act(given, previous, patches=patches, tasks=tasks, **rest)

    monkeypatch.setattr(runtime.model, "act", cut)
    audit = audited(runtime, always_right(runtime, episodes(runtime, EPISODES)))
    found = verdicts(audit, "checkpoint")
    assert found.pop(channel) == {"ignores"}
    assert not {"ignores"} & set.union(*found.values())


def test_an_exchange_that_does_not_reach_the_model_is_not_tested(
    runtime: SigmaRuntime, recorded: list[list[Tick]]
) -> None:
    audit = audited(runtime, recorded, other_text=recorded[0][0].window.task)
    assert verdicts(audit, "checkpoint")["text"] == {"not tested"}


def test_a_policy_without_any_skill_is_not_said_to_ignore(runtime: SigmaRuntime) -> None:
    """The recorded actions have nothing to do with what it sees: no channel can be shown to be used."""
    found = verdicts(audited(runtime, episodes(runtime, EPISODES)), "checkpoint")
    assert "sees" not in found["pictures"]
    assert found["None"] == {"unclear"}
