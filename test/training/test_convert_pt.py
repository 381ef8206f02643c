# SPDX-License-Identifier: Apache-2.0
"""Shards of the original layout become ours without running their code, or are refused."""

import numpy as np
import pytest
import torch

from sigma_ros.errors import DatasetError
from training.convert_pt import main, read_samples
from training.data import ShardData


def sample(episode: int, frame: int) -> dict:
    ticks = torch.arange(frame, frame + 16)[:, None]
    return {
        "vis_obs": torch.full((16, 2, 3, 24, 32), (frame % 7) / 7.0),
        "robot_state": 20.0 * torch.sin(0.05 * ticks + torch.arange(6)).abs(),
        "action_trajectory": 20.0 * torch.sin(0.05 * (ticks + 1) + torch.arange(6)).abs(),
        "text": "pick the brick",
        "episode_index": episode,
        "frame_index": torch.tensor(frame),
    }


def test_samples_that_follow_each_other_are_one_episode_again(tmp_path):
    torch.save([sample(0, 0), sample(0, 16)], tmp_path / "shard_00000.pt")
    torch.save([sample(0, 32), sample(1, 0), sample(1, 48)], tmp_path / "shard_00001.pt")
    files = [str(tmp_path / f"shard_0000{i}.pt") for i in (0, 1)]
    assert main(["--pt", *files, "--out", str(tmp_path / "out"), "--image-size", "16", "--hold-out-every", "0"]) == 0
    data = ShardData.open(tmp_path / "out")
    assert [episode.ticks for episode in data.episodes] == [48, 16, 16]
    expected = np.concatenate([sample(0, frame)["robot_state"].numpy() for frame in (0, 16, 32)])
    np.testing.assert_array_equal(data.episodes[0].states, expected)
    assert data.meta.windows == ((0, 0), (0, 16), (0, 32), (1, 0), (2, 0))
    picture = data.episodes[0].frames(20, 21)[0, 1, 8, 8]
    np.testing.assert_array_equal(picture, np.full(3, round(255 * 2 / 7)))


class Evil:
    """Would run a command when unpickled."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("code of the shard was run",))


def test_code_in_a_shard_is_not_run(tmp_path):
    torch.save([{"vis_obs": Evil()}], tmp_path / "evil.pt")
    with pytest.raises(DatasetError, match="without running its code"):
        read_samples(tmp_path / "evil.pt")


def test_other_entries_are_named(tmp_path, capsys):
    other = sample(0, 0)
    other["actions"] = other.pop("action_trajectory")
    torch.save([other], tmp_path / "other.pt")
    assert main(["--pt", str(tmp_path / "other.pt"), "--out", str(tmp_path / "out")]) == 1
    assert "--action_key" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
