# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lerobot.policies.pi05 import modeling_pi05
from tiny_base import random_images

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import CheckpointError
from sigma_ros.model.pi05.backbone import base_prompt
from sigma_ros.model.pi05.loading import load_base
from sigma_ros.model.pi05.mini import MINI, TINY, VOCABULARY, build_mini, build_tokenizer, make_mini
from sigma_ros.model.pi05.places import shipped_assets
from sigma_ros.model.pi05.sizes import FULL, Sizes, network_sizes

TOKENIZER = build_tokenizer()


@given(st.text(max_size=80).filter(lambda text: "<" not in text))
def test_any_text_tokenises_and_comes_back(text: str) -> None:
    tokens = TOKENIZER(text)["input_ids"]
    assert max(tokens) < VOCABULARY
    assert TOKENIZER.unk_token_id not in tokens
    back = TOKENIZER.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert TOKENIZER(back)["input_ids"] == tokens


def test_each_state_bin_is_one_token_of_its_own() -> None:
    tokens = [TOKENIZER(f" {number}", add_special_tokens=False)["input_ids"] for number in range(256)]
    assert {len(t) for t in tokens} == {1}
    assert len({t[0] for t in tokens}) == 256


def test_a_prompt_begins_with_bos_and_fits(so101: Contract) -> None:
    tokens = TOKENIZER(base_prompt(so101.tasks[0], np.full(so101.dof, 0.5)))["input_ids"]
    assert tokens[0] == TOKENIZER.bos_token_id
    assert len(tokens) <= 32


def test_the_tokenizer_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_tokenizer().save_pretrained(tmp_path / name)
    first, second = (tmp_path / name / "tokenizer.json" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size <= 200_000


def test_the_small_model_has_about_six_million_parameters_and_a_grid_that_pools_to_four(so101: Contract) -> None:
    backbone = build_mini(so101)
    assert 5e6 < sum(p.numel() for p in backbone.policy.parameters()) < 7e6
    assert backbone.patch_grid % 4 == 0
    assert backbone.horizon == 50


def test_weights_follow_from_the_seed_and_leave_torchs_generator_alone(so101: Contract) -> None:
    state = torch.get_rng_state()
    first, again, other = (build_mini(so101, seed, sizes=TINY).policy.state_dict() for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_lerobots_constructors_are_restored_even_after_a_failure() -> None:
    before = (modeling_pi05.get_gemma_config, modeling_pi05.PiGemmaForCausalLM)
    with network_sizes(TINY):
        assert modeling_pi05.get_gemma_config("gemma_2b").width == TINY.language_width
    with pytest.raises(AttributeError), network_sizes(TINY):
        modeling_pi05.PiGemmaForCausalLM(config=None)
    assert (modeling_pi05.get_gemma_config, modeling_pi05.PiGemmaForCausalLM) == before
    assert modeling_pi05.get_gemma_config("gemma_2b").width == FULL.language_width == 2048


def test_full_sizes_are_lerobots_own() -> None:
    for variant, width, mlp in (("gemma_2b", 2048, 16_384), ("gemma_300m", 1024, 4096)):
        with network_sizes(FULL):
            ours = vars(modeling_pi05.get_gemma_config(variant))
        assert ours == vars(modeling_pi05.get_gemma_config(variant))
        assert (ours["width"], ours["mlp_dim"]) == (width, mlp)


@pytest.mark.parametrize("change", [{"depth": 0}, {"head_dim": 15}, {"vision_heads": 5}, {"depth": 2.5}])
def test_sizes_that_cannot_be_built_are_refused(change: dict[str, int]) -> None:
    values = {name: getattr(MINI, name) for name in Sizes.__slots__} | change
    with pytest.raises(CheckpointError, match="network size"):
        Sizes.from_dict(values)


def test_make_mini_writes_a_folder_that_the_common_loader_reads(tmp_path: Path) -> None:
    cr5 = load_contract("cr5")
    make_mini(cr5, tmp_path / "mini", seed=1, made_by="a test")
    loaded = load_base(tmp_path / "mini", allow_untrained=True)
    built = build_mini(cr5, 1)
    assert loaded.backbone.camera_keys == ("observation.images.top",)
    assert not loaded.info.trained
    for (name, ours), theirs in zip(loaded.backbone.policy.named_parameters(), built.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs.to(torch.bfloat16).to(torch.float32)), name
    text = "stack the green cube on the plate"
    assert torch.equal(loaded.backbone.tokenize_text([text])[0], built.tokenize_text([text])[0])


def test_an_existing_output_folder_is_left_alone(tmp_path: Path, so101: Contract) -> None:
    (tmp_path / "mini").mkdir()
    with pytest.raises(CheckpointError, match="the output folder exists"):
        make_mini(so101, tmp_path / "mini", made_by="a test")
    assert list((tmp_path / "mini").iterdir()) == []
    assert [p.name for p in tmp_path.iterdir()] == ["mini"]


def test_the_shipped_model_is_small_and_needs_to_be_asked_for_while_untrained() -> None:
    folder = shipped_assets("mini")
    assert (folder / "model.safetensors").stat().st_size < 20e6
    assert (folder / "tokenizer.json").stat().st_size < 200e3
    loaded = load_base(folder, allow_untrained=True)
    if not loaded.info.trained:
        with pytest.raises(CheckpointError, match="random weights"):
            load_base(folder)
    assert loaded.info.sizes == MINI
    tokens = loaded.backbone.encode_images(random_images(loaded.backbone, 1)[0])
    assert tokens.shape == (2, 64, MINI.language_width)
