# SPDX-License-Identifier: Apache-2.0
"""Recordings from the page: one at a time, kept or thrown away, judged as `sigma record --live` judges them."""

from pathlib import Path

import pytest
from node_fakes import small_so101, spin_until

from sigma_ros.bags.reader import open_bag
from sigma_ros.errors import UsageError
from sigma_ros.nodes.panel.recording import Recording

pytestmark = pytest.mark.ros


@pytest.fixture
def recording(executor, tmp_path: Path) -> Recording:
    return Recording(tmp_path / "bags", str(small_so101(tmp_path)))


def test_a_saved_recording_is_a_bag_with_its_task_and_its_judgement(recording: Recording, executor, tmp_path) -> None:
    assert recording.view["running"] is False
    recording.start(executor, "fold the towel")
    assert recording.view["running"] is True
    with pytest.raises(UsageError, match="a recording runs already"):
        recording.start(executor, "wave")
    said = recording.save(executor)
    assert "up: nothing came" in said
    assert recording.view == {"running": False, "seconds": 0.0, "said": said}
    (bag,) = (tmp_path / "bags").iterdir()
    with open_bag(bag) as opened:
        assert opened.info.metadata["sigma.task"] == "fold the towel"
    for act in (recording.save, recording.discard):
        with pytest.raises(UsageError, match="nothing is being recorded"):
            act(executor)


def test_a_discarded_recording_is_gone_and_the_panels_end_keeps_one(recording: Recording, executor, tmp_path) -> None:
    recording.start(executor, "")
    recording.discard(executor)
    assert list((tmp_path / "bags").iterdir()) == []
    recording.start(executor, "")
    recording.close(executor)
    assert len(list((tmp_path / "bags").iterdir())) == 1


def test_a_recording_that_a_full_disk_ends_is_saved(recording: Recording, executor) -> None:
    recording.start(executor, "")
    assert recording._node is not None
    recording._node.finished = True
    recording.end_if_full(executor)
    spin_until(executor, lambda: recording.view["running"] is False, what="the end")
    assert recording.said.startswith("saved")
