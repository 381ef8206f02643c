# SPDX-License-Identifier: Apache-2.0
"""An exchange reaches the model through its own channel and through no other."""

from dataclasses import replace

import pytest
from audited import OTHER_TEXT, episodes

from sigma_ros.errors import SigmaError
from sigma_ros.evaluation.audit.channels import observe, with_pictures_of
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.values import Gap


def test_an_exchange_changes_the_tokens_of_its_channel_alone(runtime: SigmaRuntime) -> None:
    """What a policy remembers follows from what it sees and reads, so the memory may differ then too."""
    observed = observe(runtime, episodes(runtime, 2), other_text=OTHER_TEXT)
    for exchange, heard in observed.exchanged:
        for ours, theirs in zip(observed.recorded, heard, strict=True):
            changed = {name for name in ours.tokens if ours.tokens[name] != theirs.tokens[name]}
            assert exchange.channel in changed
            assert changed <= {exchange.channel, "memory"}


def test_an_audit_needs_two_episodes_and_windows_in_them(runtime: SigmaRuntime) -> None:
    with pytest.raises(SigmaError, match="between episodes"):
        observe(runtime, episodes(runtime, 1), other_text=OTHER_TEXT)
    short = [ticks[:10] for ticks in episodes(runtime, 2)]
    with pytest.raises(SigmaError, match="no window"):
        observe(runtime, short, other_text=OTHER_TEXT)


def test_pictures_of_another_episode_come_tick_by_tick_with_the_own_joints(runtime: SigmaRuntime) -> None:
    ours, theirs = episodes(runtime, 2)
    theirs = theirs[:20]
    ours[5] = replace(ours[5], item=Gap(epoch=0, tick=5, stamp_ns=5, reasons=("dropped",)))
    shown = list(with_pictures_of(ours, theirs))
    assert shown[5] is ours[5]
    for number in (0, 6, 19, 30):
        newest, other = shown[number].window.newest, theirs[min(number, 19)].window.newest
        assert newest.images is other.images
        assert newest.positions_rad is ours[number].window.newest.positions_rad
    assert not shown[8].window.mask[-4]
