# SPDX-License-Identifier: Apache-2.0
"""The recurrent state is a value: it can be kept in a file, and the run goes on as if nothing had happened."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_sigma import TASK, run, sights, tiny_sigma

from sigma_ros.errors import CheckpointError
from sigma_ros.model.step import initial_state, load_state, save_state

HASH = "a" * 64


@pytest.fixture(scope="module")
def midway():
    model = tiny_sigma()
    recording = sights(model, 40)
    _, state = run(model, initial_state(model, epoch=2, task=TASK), recording, range(22))
    return model, recording, state


def test_a_restored_run_continues_bit_for_bit(midway, tmp_path):
    model, recording, state = midway
    save_state(state, tmp_path / "state.safetensors", model_hash=HASH)
    like = initial_state(model, epoch=0, task="")
    restored = load_state(tmp_path / "state.safetensors", like=like, model_hash=HASH)
    ours, end = run(model, state, recording, range(22, 38))
    theirs, restored_end = run(model, restored, recording, range(22, 38))
    for tick, proposal in ours.items():
        assert torch.equal(proposal.action.base, theirs[tick].action.base)
        assert torch.equal(proposal.action.residual.composite, theirs[tick].action.residual.composite)
        assert torch.equal(proposal.action.telepathy_output.intent, theirs[tick].action.telepathy_output.intent)
    assert torch.equal(end.memory, restored_end.memory)
    assert (restored.epoch, restored.task, restored.commits) == (2, TASK, state.commits)
    assert restored.ring.ticks == state.ring.ticks


def test_a_run_never_writes_into_the_state_it_was_given(midway):
    model, recording, state = midway
    before = {name: getattr(state.ring, name).clone() for name in ("pooled", "seen", "states", "patches")}
    memory = state.memory.clone()
    run(model, state, recording, range(22, 38))
    assert torch.equal(memory, state.memory)
    assert all(torch.equal(tensor, getattr(state.ring, name)) for name, tensor in before.items())


def test_the_state_cannot_be_changed(midway):
    with pytest.raises(dataclasses.FrozenInstanceError):
        midway[2].epoch = 3


def test_a_state_of_another_model_is_refused(midway, tmp_path):
    state = midway[2]
    save_state(state, tmp_path / "s", model_hash=HASH)
    with pytest.raises(CheckpointError, match="belongs to another model"):
        load_state(tmp_path / "s", like=state, model_hash="b" * 64)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.pop("memory"), "tensor memory does not fit"),
        (lambda t: t.update(memory=torch.zeros(3)), "tensor memory does not fit"),
        (lambda t: t["memory"].fill_(float("nan")), "tensor memory is not finite"),
        (lambda t: t["ring.pooled"].fill_(float("inf")), r"tensor ring\.pooled is not finite"),
    ],
)
def test_a_damaged_state_is_refused_by_name(midway, tmp_path, change, text):
    state = midway[2]
    path = tmp_path / "s"
    save_state(state, path, model_hash=HASH)
    tensors = load_file(path)
    change(tensors)
    metadata = {
        "format": "sigma_recurrent_state_1",
        "model_hash": HASH,
        "epoch": "0",
        "task": "",
        "commits": "0",
        "ticks": str(list(state.ring.ticks)),
    }
    save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError, match=text):
        load_state(path, like=state, model_hash=HASH)


def test_a_file_that_is_no_state_is_refused(midway, tmp_path):
    (tmp_path / "s").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_state(tmp_path / "s", like=midway[2], model_hash=HASH)
    save_file({"memory": torch.zeros(1)}, tmp_path / "t")
    with pytest.raises(CheckpointError, match="not a recurrent state"):
        load_state(tmp_path / "t", like=midway[2], model_hash=HASH)


@pytest.mark.parametrize("kind", ["text", "tensors", "folder", "link", "dangling link"])
def test_only_an_earlier_state_is_ever_replaced(midway, tmp_path, kind):
    _, _, state = midway
    target, theirs = tmp_path / "state.safetensors", tmp_path / "theirs"
    theirs.write_text("of the user")
    if kind == "text":
        target.write_text("of the user")
    elif kind == "tensors":
        save_file({"weights": torch.zeros(3)}, target)
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to(theirs if kind == "link" else tmp_path / "nowhere")
    before = target.read_bytes() if kind in ("text", "tensors") else b""
    with pytest.raises(CheckpointError, match="overwrite"):
        save_state(state, target, model_hash=HASH)
    assert theirs.read_text() == "of the user"
    assert not before or target.read_bytes() == before
    assert not (tmp_path / "nowhere").exists()


def test_an_earlier_state_is_replaced_and_a_folder_is_made(midway, tmp_path):
    _, _, state = midway
    target = tmp_path / "states" / "state.safetensors"
    save_state(state, target, model_hash=HASH)
    save_state(state, target, model_hash=HASH)
    assert [path.name for path in target.parent.iterdir()] == ["state.safetensors"]
