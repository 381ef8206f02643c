# SPDX-License-Identifier: Apache-2.0
"""Strict loading: every tensor from the file or an error that names it. LeRobot's own loader is the counter-example."""

import json
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from safetensors.torch import load_file, save_file
from tiny_base import rewrite, save_tiny, tiny_backbone
from torch import Tensor

from sigma_ros.errors import CheckpointError, UsageError
from sigma_ros.model.pi05 import places
from sigma_ros.model.pi05.folder import OWN_FILE, WEIGHTS_FILE, open_base_folder
from sigma_ros.model.pi05.loading import load_base
from sigma_ros.model.pi05.mini import TINY
from sigma_ros.model.pi05.places import CONFIG_FILE
from sigma_ros.model.pi05.sizes import network_sizes
from sigma_ros.model.pi05.weights import empty_policy, fill_policy, network_tensors, normal_name

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
Copy = Callable[[], Path]


def _kinds() -> list[str]:
    """One tensor of each kind: the first of every name that differs by more than a layer number."""
    names = [name for name, _ in network_tensors(tiny_backbone().policy).values()]
    return sorted({re.sub(r"\.\d+\.", ".N.", name): name for name in reversed(names)}.values())


KINDS = _kinds()


@pytest.fixture(scope="module")
def template(tiny_folder: Path) -> PI05Policy:
    """A network to check files against; what a test leaves in it is overwritten by the next."""
    return empty_policy(open_base_folder(tiny_folder).config, TINY)


def _refused(template: PI05Policy, folder: Path, text: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(text)):
        fill_policy(template, folder, CPU)


def test_the_kinds_cover_the_network() -> None:
    assert len(KINDS) > 40


@pytest.mark.parametrize("name", KINDS)
def test_a_missing_tensor_is_named(template: PI05Policy, damaged: Copy, name: str) -> None:
    folder = rewrite(damaged(), lambda tensors: {k: v for k, v in tensors.items() if k != name})
    _refused(template, folder, f"missing {name}")


@pytest.mark.parametrize("name", KINDS)
def test_a_renamed_tensor_is_missing_and_unexpected(template: PI05Policy, damaged: Copy, name: str) -> None:
    other = name.replace("weight", "weights").replace("bias", "biases")
    folder = rewrite(damaged(), lambda tensors: {other if k == name else k: v for k, v in tensors.items()})
    _refused(template, folder, f"missing {name} | unexpected {other}")


@pytest.mark.parametrize("name", KINDS)
def test_a_misshapen_tensor_is_named_with_both_shapes(template: PI05Policy, damaged: Copy, name: str) -> None:
    shapes: list[tuple[int, ...]] = []

    def cut(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        shapes.append(tuple(tensors[name].shape))
        return tensors | {name: tensors[name][:-1].clone()}

    folder = rewrite(damaged(), cut)
    _refused(template, folder, f"shape of {name}: expected {shapes[0]}, got {(shapes[0][0] - 1, *shapes[0][1:])}")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_tensor_that_is_not_finite_is_named(template: PI05Policy, damaged: Copy, name: str, value: float) -> None:
    def poison(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors[name].view(-1)[-1] = value
        return tensors

    _refused(template, rewrite(damaged(), poison), name)


def test_a_transposed_matrix_of_the_same_size_is_refused(template: PI05Policy, damaged: Copy) -> None:
    name = next(name for name in KINDS if name.endswith("mlp.up_proj.weight") and "language_model" in name)
    folder = rewrite(damaged(), lambda tensors: tensors | {name: tensors[name].T.contiguous()})
    _refused(template, folder, f"shape of {name}")


def test_integers_are_refused_as_weights(template: PI05Policy, damaged: Copy) -> None:
    name = "model.action_in_proj.bias"
    folder = rewrite(damaged(), lambda tensors: tensors | {name: tensors[name].to(torch.int32)})
    _refused(template, folder, f"type of {name}: expected a float, got I32")


def test_lerobots_loader_returns_random_weights_where_ours_refuses(damaged: Copy) -> None:
    broken = "model.action_out_proj.weight"
    folder = rewrite(damaged(), lambda tensors: {k: v for k, v in tensors.items() if k != broken})
    stored = load_file(folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:-1000])
    with network_sizes(TINY):
        theirs = PI05Policy.from_pretrained(folder)
    random = [name for name, tensor in theirs.named_parameters() if name in stored and tensor.ndim == 2]
    assert len(random) > 20
    assert not any(torch.equal(dict(theirs.named_parameters())[name], stored[name]) for name in random)
    with pytest.raises(CheckpointError, match="damaged or not safetensors"):
        load_base(folder)


def test_a_loaded_policy_has_the_files_numbers_and_lerobots_types(tiny_folder: Path) -> None:
    stored = load_file(tiny_folder / WEIGHTS_FILE)
    for dtype in ("float32", "bfloat16"):
        loaded = load_base(tiny_folder, dtype=dtype)
        reference = tiny_backbone(dtype).policy
        wanted = {name: p.dtype for name, p in reference.named_parameters()}
        tensors = dict(network_tensors(loaded.backbone.policy).values())
        assert set(tensors) == set(stored)
        for name, parameter in tensors.items():
            assert torch.equal(parameter, stored[name].to(parameter.dtype)), name
            assert parameter.dtype == wanted.get(name, parameter.dtype), name
            assert not parameter.requires_grad
        for (name, ours), theirs in zip(loaded.backbone.policy.named_buffers(), reference.buffers(), strict=True):
            assert torch.equal(ours, theirs), name
        assert loaded.info.dtype == dtype
        assert loaded.info.parameters == sum(p.numel() for p in tensors.values())
        assert loaded.info.weight_bytes == sum(p.nbytes for p in tensors.values())


def test_dead_heads_are_neither_allocated_nor_read(damaged: Copy) -> None:
    head = "model.paligemma_with_expert.gemma_expert.lm_head.weight"
    folder = rewrite(damaged(), lambda tensors: tensors | {head: torch.full((3, 5), float("nan"))})
    loaded = load_base(folder)
    assert loaded.info.ignored == (head,)
    assert not hasattr(loaded.backbone.policy.model.paligemma_with_expert.gemma_expert, "lm_head")
    paligemma = loaded.backbone.policy.model.paligemma_with_expert.paligemma
    assert paligemma.lm_head.weight is paligemma.model.language_model.embed_tokens.weight


EMBEDDING = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
HEAD = "model.paligemma_with_expert.paligemma.lm_head.weight"


def test_head_or_embedding_alone_fills_both(damaged: Copy, tiny_folder: Path) -> None:
    expected = load_file(tiny_folder / WEIGHTS_FILE)[EMBEDDING]
    folder = rewrite(damaged(), lambda tensors: {HEAD if k == EMBEDDING else k: v for k, v in tensors.items()})
    paligemma = load_base(folder).backbone.policy.model.paligemma_with_expert.paligemma
    assert torch.equal(paligemma.model.language_model.embed_tokens.weight, expected)
    assert torch.equal(paligemma.lm_head.weight, expected)


def test_with_head_and_embedding_the_embedding_counts(damaged: Copy, tiny_folder: Path) -> None:
    expected = load_file(tiny_folder / WEIGHTS_FILE)[EMBEDDING]
    folder = rewrite(damaged(), lambda tensors: tensors | {HEAD: tensors[EMBEDDING] + 1.0})
    loaded = load_base(folder)
    assert torch.equal(loaded.backbone.policy.get_parameter(EMBEDDING), expected)
    assert loaded.info.ignored == (HEAD,)


def _transformers_4(name: str) -> str:
    """Names as openpi's export and transformers before 4.52 wrote them."""
    name = name.removeprefix("model.")
    name = name.replace("paligemma.model.language_model.", "paligemma.language_model.model.")
    for part in ("vision_tower", "multi_modal_projector"):
        name = name.replace(f"paligemma.model.{part}", f"paligemma.{part}")
    name = name.replace("paligemma.lm_head", "paligemma.language_model.lm_head")
    return re.sub(r"^time_mlp", "action_time_mlp", name)


@pytest.mark.parametrize(
    "layout",
    [
        _transformers_4,
        lambda name: name.removeprefix("model."),
        lambda name: name.replace("vision_tower.vision_model.", "vision_tower."),
    ],
)
def test_every_key_layout_gives_the_same_weights_and_hash(
    damaged: Copy, tiny_folder: Path, layout: Callable[[str], str]
) -> None:
    folder = rewrite(damaged(), lambda tensors: {layout(k): v for k, v in tensors.items()})
    assert set(load_file(folder / WEIGHTS_FILE)) != set(load_file(tiny_folder / WEIGHTS_FILE))
    ours, reference = load_base(folder), load_base(tiny_folder)
    assert ours.info.weights_hash == reference.info.weights_hash
    for (name, a), b in zip(
        ours.backbone.policy.named_parameters(), reference.backbone.policy.parameters(), strict=True
    ):
        assert torch.equal(a, b), name


def test_normal_names_are_unique() -> None:
    names = [name for name, _ in network_tensors(tiny_backbone().policy).values()]
    assert len({normal_name(name) for name in names}) == len(names)


def test_a_tensor_in_two_layouts_at_once_is_refused(template: PI05Policy, damaged: Copy) -> None:
    folder = rewrite(
        damaged(), lambda tensors: tensors | {"action_in_proj.bias": tensors["model.action_in_proj.bias"] + 1}
    )
    _refused(template, folder, "a tensor is there twice")


def test_the_hash_changes_with_any_number_and_not_with_the_requested_type(damaged: Copy, tiny_folder: Path) -> None:
    first = load_base(tiny_folder, dtype="float32").info.weights_hash
    assert load_base(tiny_folder, dtype="bfloat16").info.weights_hash == first

    def nudge(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors["model.time_mlp_in.bias"][0] += 1e-6
        return tensors

    assert load_base(rewrite(damaged(), nudge)).info.weights_hash != first


def test_shards_with_an_index_load_as_one_file(damaged: Copy, tiny_folder: Path) -> None:
    folder = damaged()
    tensors = load_file(folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).unlink()
    names = sorted(tensors)
    shards = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / shard)
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load_base(folder).info.weights_hash == load_base(tiny_folder).info.weights_hash
    index["weight_map"][names[0]] = "../elsewhere.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="index of the weights files cannot be right"):
        load_base(folder)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('the pickle was opened')",))


def _header(size: int, text: bytes = b"") -> bytes:
    return struct.pack("<Q", size) + text


GOOD_ENTRY = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (pickle.dumps(_Bomb(), protocol=2), "is a pickle"),
        (pickle.dumps(_Bomb(), protocol=5), "is a pickle"),
        (pickle.dumps(_Bomb(), protocol=0), "header is too large"),
        (b"PK\x03\x04" + bytes(100), "is a pickle"),
        (b"", "damaged or not safetensors"),
        (b"\x10", "damaged or not safetensors"),
        (_header(1 << 62), "header is too large"),
        (_header(200 << 20), "header is too large"),
        (_header(1 << 20, b"{}"), "damaged or not safetensors"),
        (_header(4, b"\xff\xfe{}"), "damaged or not safetensors"),
        (_header(len(GOOD_ENTRY), GOOD_ENTRY), "damaged or not safetensors"),
        (_header(len(GOOD_ENTRY), GOOD_ENTRY) + bytes(12), "damaged or not safetensors"),
    ],
)
def test_a_hostile_or_broken_file_is_refused_unopened(damaged: Copy, content: bytes, text: str) -> None:
    folder = damaged()
    (folder / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=text) as refusal:
        load_base(folder)
    assert str(folder / WEIGHTS_FILE) in str(refusal.value)


def test_a_torch_save_archive_named_safetensors_is_refused(damaged: Copy) -> None:
    folder = damaged()
    torch.save({"a": torch.zeros(2)}, folder / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match="is a pickle"):
        load_base(folder)


def test_a_folder_with_pickles_only_is_refused_by_name(damaged: Copy) -> None:
    folder = damaged()
    (folder / WEIGHTS_FILE).rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"never opened: pytorch_model\.bin"):
        load_base(folder)


def test_an_adapter_alone_is_told_from_a_policy(damaged: Copy) -> None:
    folder = damaged()
    (folder / WEIGHTS_FILE).rename(folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="an adapter without its base; remedy: merge"):
        load_base(folder)


def test_random_weights_are_loaded_only_on_request(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny", trained=False)
    with pytest.raises(CheckpointError, match=r"random weights.*--allow-untrained"):
        load_base(folder)
    assert not load_base(folder, allow_untrained=True).info.trained


def _edit(folder: Path, file: str, **changes: Any) -> Path:
    values = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))
    return folder


@pytest.mark.parametrize(
    ("file", "changes", "text"),
    [
        (CONFIG_FILE, {"type": "act"}, "not a pi0.5 policy; where: .*config.json; expected: type pi05; got: type act"),
        (CONFIG_FILE, {"surprise": 1}, "does not fit the installed LeRobot.*surprise"),
        (CONFIG_FILE, {"chunk_size": "many"}, "does not fit the installed LeRobot"),
        (CONFIG_FILE, {"n_action_steps": 80}, "does not fit the installed LeRobot.*greater than chunk_size"),
        (CONFIG_FILE, {"chunk_size": 0, "n_action_steps": 0}, "impossible size.*chunk_size 0, n_action_steps 0"),
        (CONFIG_FILE, {"n_action_steps": -3}, "impossible size.*n_action_steps -3"),
        (CONFIG_FILE, {"num_inference_steps": 0}, "impossible size.*num_inference_steps 0"),
        (CONFIG_FILE, {"chunk_size": 10**9}, "impossible size.*1 to 4096"),
        (CONFIG_FILE, {"image_resolution": [0, 224]}, "impossible size.*image_resolution 0"),
        (CONFIG_FILE, {"dtype": "float16"}, "does not fit the installed LeRobot.*float16"),
        (CONFIG_FILE, {"use_relative_actions": True}, "pipelines are missing.*relative actions"),
        (
            CONFIG_FILE,
            {"normalization_mapping": {"STATE": "MEAN_STD", "ACTION": "MEAN_STD"}},
            "pipelines are missing.*MEAN_STD",
        ),
        (OWN_FILE, {"sizes": {"depth": 2}}, "network sizes cannot be read"),
        ("normalisation.json", {"state": {}}, "quantiles cannot be read"),
    ],
)
def test_a_file_that_cannot_be_right_is_named(damaged: Copy, file: str, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(CheckpointError, match=text):
        load_base(_edit(damaged(), file, **changes))


def test_a_file_that_is_not_json_is_named(damaged: Copy) -> None:
    folder = damaged()
    (folder / CONFIG_FILE).write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot be read; where: .*config\.json"):
        load_base(folder)


def test_another_network_size_does_not_load(damaged: Copy) -> None:
    sizes = json.loads((damaged() / OWN_FILE).read_text())["sizes"]
    with pytest.raises(CheckpointError, match="do not fit the network"):
        load_base(_edit(damaged(), OWN_FILE, sizes=sizes | {"depth": 3}))


def test_a_name_that_is_no_place_is_a_usage_error(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(UsageError, match="no such checkpoint"):
        load_base(str(tmp_path / "nothing" / "here" / "at-all"))
    with pytest.raises(UsageError, match="a revision belongs to a Hub id"):
        load_base(tiny_folder, revision="main")


def test_a_hub_id_is_fetched_at_its_revision(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def fetch(repo: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert not any(pattern.endswith((".bin", ".pt")) for pattern in allow_patterns)
        assert ignore_patterns == ["*/*"], "nothing of folders inside it"
        assert asked or not any("model" in pattern for pattern in allow_patterns), "what is small comes first"
        asked.append((repo, revision))
        return str(tiny_folder)

    monkeypatch.setattr(places, "snapshot_download", fetch)
    info = load_base("someone/some_pi05", revision="abc123").info
    assert asked == [("someone/some_pi05", "abc123"), ("someone/some_pi05", tiny_folder.name)]
    assert (info.source, info.revision) == ("someone/some_pi05", tiny_folder.name)


def test_a_hub_that_cannot_be_reached_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(repo: str, **_: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(places, "snapshot_download", fetch)
    with pytest.raises(CheckpointError, match="cannot be fetched from the Hub; where: lerobot/pi05_base@main"):
        load_base("lerobot/pi05_base")


def test_the_tokenizer_comes_from_argument_then_variable_then_folder(
    damaged: Copy, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare = damaged()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"paligemma-3b-pt-224 is gated.*SIGMA_TOKENIZER"):
        load_base(bare, tokenizer=str(tmp_path))
    monkeypatch.setenv("SIGMA_TOKENIZER", str(tiny_folder))
    assert load_base(bare).backbone.tokenizer.pad_token == "<pad>"
    with pytest.raises(CheckpointError, match="tokenizer cannot be loaded"):
        load_base(tiny_folder, tokenizer=str(tmp_path))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(damaged: Copy) -> None:
    folder = damaged()
    values = json.loads((folder / "tokenizer.json").read_text())
    values["added_tokens"] += [
        {"id": 5000 + i, "content": f"<x{i}>", "special": True, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False}
        for i in range(1200)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="does not belong to the model"):
        load_base(folder)


def test_an_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sigma_ros.model.pi05.loading.save_tensors", stop)
    with pytest.raises(KeyboardInterrupt):
        save_tiny(tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []
