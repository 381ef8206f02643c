# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: what is written comes back bit for bit, and nothing else is let in."""

import json
import pickle

import numpy as np
import pytest
import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_sigma import batch_of, stir, tiny_backbone, tiny_config, tiny_sigma

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import CheckpointError
from sigma_ros.model.adapter import References
from sigma_ros.model.checkpoint.folder import identify, load_trained, save_checkpoint
from sigma_ros.model.checkpoint.manifest import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    HEADS_FILE,
    MANIFEST_FILE,
    Training,
    file_hash,
    fingerprint,
    read_manifest,
)
from sigma_ros.model.normalise import Normalisation, Scaling
from sigma_ros.model.pi05.mini import TINY, mini_config
from sigma_ros.model.pi05.sizes import network_sizes
from sigma_ros.model.pi05.tensors import list_tensors
from sigma_ros.model.pi05.weights import remove_dead_heads
from sigma_ros.model.sigma import SigmaTelepathyVLA


def statistics(dof=6):
    quantiles = Scaling.quantiles(q01=-np.arange(1.0, dof + 1), q99=np.arange(1.0, dof + 1))
    return Normalisation(state=quantiles, action=quantiles)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A model as after training, and its checkpoint."""
    model = tiny_sigma()
    model.references = References(r_ref=0.0375, tau_ref=7.25)
    folder = tmp_path_factory.mktemp("written") / "sigma"
    digest = save_checkpoint(
        model,
        folder,
        base=identify(model, None),
        training=Training(trained=True, steps=300, seed=4, command="train --steps 300", data_hash="d" * 64),
        normalisation=statistics(),
        scores={"mse_vec": 0.25},
    )
    return model, folder, digest


@pytest.fixture
def copy(written, tmp_path):
    """A copy that a test may damage."""
    folder = tmp_path / "sigma"
    folder.mkdir()
    for file in written[1].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def load(folder, backbone=None, **options):
    return SigmaTelepathyVLA.from_base(
        base_policy=backbone or tiny_backbone(), lora_dir=folder, telepathy_heads_path=folder / HEADS_FILE, **options
    )


def rewrite(folder, name, change):
    """Changes a file's tensors, and the manifest with it, as somebody with bad intentions would."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    rehash(folder, name)


def rehash(folder, name):
    edit(folder, lambda values: values["files"].update({name: file_hash(folder / name)}))


def edit(folder, change):
    values = json.loads((folder / MANIFEST_FILE).read_text())
    change(values)
    (folder / MANIFEST_FILE).write_text(json.dumps(values))


def test_saving_and_loading_gives_every_trained_number_back_bit_for_bit(written):
    model, folder, digest = written
    loaded = load(folder)
    assert loaded.config == model.config
    assert loaded.references == model.references
    for name, parameter in model.trained().items():
        assert torch.equal(parameter, loaded.trained()[name]), name
    batch = batch_of(model, 1)
    ours, theirs = model(batch), loaded(batch)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert read_manifest(folder)[1] == digest


def test_what_was_written_with_the_numbers_comes_back(written):
    manifest, _ = read_manifest(written[1])
    assert manifest.training == Training(
        trained=True, steps=300, seed=4, command="train --steps 300", data_hash="d" * 64
    )
    assert manifest.scores == {"mse_vec": 0.25}
    assert manifest.normalisation.as_dict() == statistics().as_dict()
    card = (written[1] / "README.md").read_text()
    assert "| mse_vec | 0.25 |" in card
    assert "untrained" not in card


def test_a_folder_holds_exactly_the_documented_files(written):
    names = {file.name for file in written[1].iterdir()}
    assert names == {HEADS_FILE, ADAPTER_FILE, ADAPTER_CONFIG_FILE, MANIFEST_FILE, "README.md"}


def test_peft_reads_the_adapters_onto_the_policy(written):
    model, folder, _ = written
    backbone = tiny_backbone()
    adapted = PeftModel.from_pretrained(backbone.policy, str(folder))
    embeds, mask = torch.randn(1, 9, backbone.width), torch.ones(1, 9, dtype=torch.bool)
    layers = adapted.base_model.model.model.paligemma_with_expert.paligemma.model.language_model
    theirs = layers(
        inputs_embeds=embeds,
        attention_mask=torch.zeros(1, 1, 9, 9),
        position_ids=torch.arange(9)[None],
        use_cache=False,
    ).last_hidden_state
    torch.testing.assert_close(model.reader(embeds, mask, read=9), theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(theirs, model.plain_reader(embeds, mask, read=9), atol=1e-3)


def test_a_checkpoint_written_in_float32_serves_a_bfloat16_base(written):
    loaded = load(written[1], dtype="bfloat16")
    assert loaded.backbone.dtype == torch.bfloat16
    assert torch.isfinite(loaded(batch_of(loaded, 1))["telepathy_residual"]).all()


def test_the_fingerprint_of_a_base_is_the_same_in_both_number_types_and_differs_between_bases():
    ours = fingerprint(tiny_backbone().policy)
    backbone = tiny_backbone()
    backbone.policy.model.paligemma_with_expert.to_bfloat16_for_selected_params("bfloat16")
    assert fingerprint(backbone.policy) == ours
    assert fingerprint(tiny_backbone(seed=1).policy) != ours


def test_the_fingerprint_does_not_depend_on_the_unused_heads_that_lerobot_keeps():
    with network_sizes(TINY):
        policy = PI05Policy(mini_config(load_contract("so101")))
    joint = policy.model.paligemma_with_expert
    joint.paligemma.lm_head.weight = joint.paligemma.model.language_model.embed_tokens.weight
    as_lerobot_has_it = fingerprint(policy)
    remove_dead_heads(policy)
    assert fingerprint(policy) == as_lerobot_has_it


def test_an_untrained_checkpoint_says_so(tmp_path):
    model = tiny_sigma(stirred=False)
    save_checkpoint(model, tmp_path / "s", base=identify(model, None), training=Training())
    assert "untrained: the residual is zero" in (tmp_path / "s" / "README.md").read_text()


@pytest.mark.parametrize("switch", [{"plain_lora": True}, {"use_lora": False}, {"use_film": False}])
def test_ablations_round_trip_with_the_files_they_have(tmp_path, switch):
    model = tiny_sigma(**switch)
    save_checkpoint(model, tmp_path / "s", base=identify(model, None), training=Training(trained=True))
    loaded = load(tmp_path / "s")
    assert loaded.config == model.config
    assert all(torch.equal(p, loaded.trained()[name]) for name, p in model.trained().items())


def test_from_base_without_a_checkpoint_is_untrained():
    backbone = tiny_backbone()
    model = SigmaTelepathyVLA.from_base(
        base_policy=backbone.policy, device="cpu", dtype=torch.float32, tokenizer=backbone.tokenizer
    )
    assert not model(batch_of(model, 1))["telepathy_residual"].any()


def test_an_existing_folder_is_kept_unless_overwriting_is_asked_for(written, copy):
    model = written[0]
    before = (copy / HEADS_FILE).read_bytes()
    with pytest.raises(CheckpointError, match="the output folder exists"):
        save_checkpoint(model, copy, base=identify(model, None), training=Training())
    assert (copy / HEADS_FILE).read_bytes() == before
    save_checkpoint(model, copy, base=identify(model, None), training=Training(), overwrite=True)
    assert not read_manifest(copy)[0].training.trained


def test_a_model_that_is_not_finite_is_not_written(tmp_path):
    model = tiny_sigma()
    with torch.no_grad():
        model.telepathy.readouts[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"telepathy\.readouts is not finite and is not written"):
        save_checkpoint(model, tmp_path / "s", base=identify(model, None), training=Training())
    assert list(tmp_path.iterdir()) == []


def test_a_model_merged_for_serving_is_not_written(tmp_path):
    model = tiny_sigma()
    model.merge_for_serving()
    with pytest.raises(CheckpointError, match="adapters were merged"):
        save_checkpoint(model, tmp_path / "s", base=identify(model, None), training=Training())
    assert list(tmp_path.iterdir()) == []


ATTACKS = {
    "missing": (lambda t: t.pop("telepathy.readouts"), r"missing telepathy\.readouts"),
    "extra": (lambda t: t.update(extra=torch.zeros(2)), "unexpected extra"),
    "shape": (lambda t: t.update({"telepathy.readouts": torch.zeros(3, 64)}), r"shape of telepathy\.readouts"),
    "type": (
        lambda t: t.update({"telepathy.readouts": t["telepathy.readouts"].half()}),
        r"type of telepathy\.readouts: expected F32, got F16",
    ),
    "nan": (lambda t: t["telepathy.readouts"].fill_(float("nan")), r"not finite.*telepathy\.readouts"),
    "inf": (lambda t: t["telepathy.readouts"].fill_(float("inf")), r"not finite.*telepathy\.readouts"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_heads_that_do_not_fit_are_refused_by_name(copy, attack):
    change, text = ATTACKS[attack]
    rewrite(copy, HEADS_FILE, change)
    with pytest.raises(CheckpointError, match=text):
        load(copy)


def test_a_refused_file_changes_nothing_in_the_model(copy):
    rewrite(copy, HEADS_FILE, ATTACKS["nan"][0])
    backbone = tiny_backbone()
    model = SigmaTelepathyVLA(backbone, tiny_config(backbone))
    before = {name: p.detach().clone() for name, p in model.trained().items()}
    with pytest.raises(CheckpointError):
        load_trained(model, read_manifest(copy)[0], heads_path=copy / HEADS_FILE, lora_dir=copy)
    assert all(torch.equal(before[name], p) for name, p in model.trained().items())


@pytest.mark.parametrize("attack", ["missing", "nan"])
def test_adapters_that_do_not_fit_are_refused_by_name(copy, attack):
    name = sorted(load_file(copy / ADAPTER_FILE))[0]
    change = (lambda t: t.pop(name)) if attack == "missing" else (lambda t: t[name].fill_(float("nan")))
    rewrite(copy, ADAPTER_FILE, change)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load(copy)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", [HEADS_FILE, ADAPTER_FILE])
def test_a_pickle_is_refused_by_content_before_it_is_opened(copy, name, protocol):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was opened",))

    (copy / name).write_bytes(pickle.dumps(Trap(), protocol=protocol))
    rehash(copy, name)
    with pytest.raises(CheckpointError, match=r"pickle|not safetensors|header is too large"):
        load(copy)


def test_a_torch_archive_is_refused_before_it_is_opened(copy):
    torch.save({"telepathy.readouts": torch.zeros(2)}, copy / HEADS_FILE)
    rehash(copy, HEADS_FILE)
    with pytest.raises(CheckpointError, match="is a pickle, which can run code"):
        load(copy)


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580, 0x010280])
def test_a_header_whose_length_has_a_pickles_first_bytes_is_read(tmp_path, length):
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    file = tmp_path / "model.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + header + bytes(4))
    assert list(list_tensors(file)) == ["a"]


def test_the_cards_old_pickle_files_are_named_but_not_opened(copy):
    (copy / HEADS_FILE).rename(copy / "sigma_telepathy_heads.pt")
    with pytest.raises(CheckpointError, match=r"pickle files, which are never opened: sigma_telepathy_heads\.pt"):
        load(copy)


def test_a_file_changed_after_writing_is_refused(copy):
    content = bytearray((copy / HEADS_FILE).read_bytes())
    content[-2] ^= 1
    (copy / HEADS_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="was changed after it was written"):
        load(copy)


def test_a_truncated_file_is_refused(copy):
    content = (copy / HEADS_FILE).read_bytes()
    (copy / HEADS_FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged or not safetensors"):
        load(copy)


def test_another_base_is_refused(copy):
    with pytest.raises(CheckpointError, match="belongs to another base policy"):
        load(copy, tiny_backbone(seed=1))


def test_heads_and_adapters_of_different_checkpoints_are_refused(written, copy):
    edit(copy, lambda values: values["training"].update(seed=5))
    with pytest.raises(CheckpointError, match="of different checkpoints"):
        SigmaTelepathyVLA.from_base(tiny_backbone(), lora_dir=copy, telepathy_heads_path=written[1] / HEADS_FILE)


MANIFESTS = {
    "format": (lambda v: v.update(format="sigma_checkpoint_9"), "not a Sigma checkpoint of this format"),
    "unknown field": (lambda v: v.update(hook="os.system"), r"unknown: \['hook'\]"),
    "missing field": (lambda v: v.pop("references"), r"missing: \['references'\]"),
    "unknown setting": (lambda v: v["settings"].update(evil=1), "unknown: evil"),
    "wrong size": (lambda v: v["settings"].update(memory_width="64"), "memory_width is '64'"),
    "huge size": (lambda v: v["settings"].update(memory_width=10**12), "memory_width is 1000000000000"),
    "senseless size": (lambda v: v["settings"].update(memory_width=60_000), "senseless sizes"),
    "bool for size": (lambda v: v["settings"].update(memory_width=True), "memory_width is True"),
    "other width": (lambda v: v["settings"].update(width=2048), "do not fit the base policy"),
    "other dof": (lambda v: v["settings"].update(dof=7), "corrected_joints needs 7 entries"),
    "nan reference": (lambda v: v["references"].update(r_ref=float("nan")), r"references\.r_ref"),
    "zero reference": (lambda v: v["references"].update(tau_ref=0.0), "tau_ref must be finite and above 0"),
    "path escape": (lambda v: v["files"].update({"../../etc/passwd": "0"}), "files that do not belong to it"),
    "trained text": (lambda v: v["training"].update(trained="yes"), "trained has the wrong type"),
    "nan score": (lambda v: v["scores"].update(mse_vec=float("inf")), r"scores\.mse_vec"),
    "no list": (lambda v: v.update(files=[]), "files is not an object"),
    "statistics": (lambda v: v["normalisation"]["state"].update(q01=[1.0] * 6, q99=[0.0] * 6), "degenerate"),
    "joints": (
        lambda v: v.update(normalisation=statistics(5).as_dict()),
        "settings and statistics are of different robots",
    ),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_cannot_be_right_is_refused(copy, case):
    change, text = MANIFESTS[case]
    edit(copy, change)
    with pytest.raises(CheckpointError, match=text):
        load(copy)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"null"])
def test_a_manifest_that_is_no_object_is_refused(copy, content):
    (copy / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=MANIFEST_FILE.replace(".", r"\.")):
        load(copy)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"r": 99}, "adapters' r "),
        ({"target_modules": ["lm_head"]}, "target_modules"),
        ({"peft_type": "IA3"}, "peft_type"),
    ],
)
def test_an_adapter_description_of_other_adapters_is_refused(copy, change, text):
    values = json.loads((copy / ADAPTER_CONFIG_FILE).read_text())
    (copy / ADAPTER_CONFIG_FILE).write_text(json.dumps(values | change))
    rehash(copy, ADAPTER_CONFIG_FILE)
    with pytest.raises(CheckpointError, match=text):
        load(copy)


def test_a_place_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="this is no checkpoint"):
        SigmaTelepathyVLA.from_base(tiny_backbone(), lora_dir=tmp_path)


def test_heads_without_adapters_are_refused_where_the_settings_need_them(copy):
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        SigmaTelepathyVLA.from_base(tiny_backbone(), telepathy_heads_path=copy / HEADS_FILE)


def test_writing_twice_gives_the_same_bytes(written, tmp_path):
    model, folder, _ = written
    stir(model, std=0.0)
    manifest, _ = read_manifest(folder)
    save_checkpoint(
        model,
        tmp_path / "again",
        base=manifest.base,
        training=manifest.training,
        normalisation=manifest.normalisation,
        scores=manifest.scores,
    )
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name
