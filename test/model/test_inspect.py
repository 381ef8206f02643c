# SPDX-License-Identifier: Apache-2.0
"""`sigma model inspect` and `sigma model explain`: what they say is what is there."""

import pytest
import torch
from tiny_sigma import tiny_sigma

from sigma_ros.errors import CheckpointError, UsageError
from sigma_ros.model.checkpoint.explain import data_path, explain_model
from sigma_ros.model.checkpoint.folder import identify, save_checkpoint
from sigma_ros.model.checkpoint.inspect import file_statistics, inspect_checkpoint, statistics
from sigma_ros.model.checkpoint.manifest import ADAPTER_FILE, HEADS_FILE, MANIFEST_FILE, Training


@pytest.fixture
def written(tmp_path):
    model = tiny_sigma()
    base = identify(model, None)
    save_checkpoint(
        model, tmp_path / "sigma", base=base, training=Training(trained=True, data_hash="cafe"), scores={"mse_vec": 0.5}
    )
    return model, tmp_path / "sigma"


def test_inspect_counts_tensors_and_states_their_mean_std_and_rms(written):
    model, folder = written
    numbers = torch.cat([parameter.detach().flatten().double() for parameter in model.heads().values()])
    found = file_statistics(folder / HEADS_FILE)
    assert (found.tensors, found.numbers) == (len(model.heads()), numbers.numel())
    assert found.mean == pytest.approx(float(numbers.mean()), abs=1e-12)
    assert found.std == pytest.approx(float(numbers.std(correction=0)))
    assert found.rms == pytest.approx(float(numbers.square().mean().sqrt()))


def test_inspect_says_what_a_checkpoint_is(written):
    text = inspect_checkpoint(str(written[1]))
    for part in (
        "Sigma checkpoint, trained",
        f"{len(written[0].heads())} tensors",
        "mse_vec 0.5",
        "cafe",
        "lora_rank 4",
    ):
        assert part in text


def test_inspect_says_untrained_in_its_first_line(tmp_path):
    model = tiny_sigma(stirred=False)
    save_checkpoint(model, tmp_path / "s", base=identify(model, None), training=Training())
    assert "UNTRAINED" in inspect_checkpoint(str(tmp_path / "s")).splitlines()[0]


@pytest.mark.parametrize(
    ("name", "damage", "text"),
    [
        (ADAPTER_FILE, lambda content: content[:-1] + bytes([content[-1] ^ 1]), r"adapter_model\.safetensors"),
        (HEADS_FILE, lambda _: None, "missing or was changed"),
        (MANIFEST_FILE, lambda _: b"{", r"sigma_config\.json"),
    ],
)
def test_inspect_refuses_what_was_damaged(written, name, damage, text):
    file = written[1] / name
    content = damage(file.read_bytes())
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(CheckpointError, match=text):
        inspect_checkpoint(str(written[1]))


def test_inspect_shows_a_base_policy(tiny_folder):
    text = inspect_checkpoint(str(tiny_folder))
    assert "pi0.5 base policy" in text
    assert "telepathy heads would start untrained" in text


def test_statistics_of_nothing_are_not_numbers():
    assert statistics([]).tensors == 0
    assert statistics([]).mean != statistics([]).mean


def test_the_explained_path_counts_every_parameter_once():
    model = tiny_sigma()
    rows = data_path(model)
    assert sum(row.trained for row in rows) == sum(parameter.numel() for parameter in model.trained().values())
    assert sum(row.frozen for row in rows) == sum(parameter.numel() for parameter in model.backbone.policy.parameters())


def test_the_page_shows_both_sizes_stage_by_stage():
    page = explain_model("both")
    rows = [row.split("|")[1:-1] for row in page.splitlines() if row.startswith("| ")][2:]
    assert [row[0].strip() for row in (rows[0], rows[-1])] == ["both", "adapter"]
    assert all(len(row) == 6 for row in rows)
    assert rows[-1][2].strip() == rows[-1][3].strip() == "[50, 6]"


def test_explain_refuses_an_unknown_size():
    with pytest.raises(UsageError, match="full, mini or both"):
        explain_model("medium")
