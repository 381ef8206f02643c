# SPDX-License-Identifier: Apache-2.0
"""The small pi0.5: LeRobot's classes with small sizes and a tokenizer of its own (about 6 M parameters).

Same code path as the full model for images, prompt with discretised state, flow matching and real-time
chunking. It learns a simulated task on a CPU; it knows nothing else of the world.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from sigma_ros.contract import Contract
from sigma_ros.model.normalise import Normalisation, Scaling
from sigma_ros.model.pi05.backbone import STATE_BINS, Backbone, base_prompt
from sigma_ros.model.pi05.loading import save_base
from sigma_ros.model.pi05.sizes import Sizes, network_sizes
from sigma_ros.model.pi05.weights import remove_dead_heads

# The small model's tokenizer: byte-level BPE in which any text tokenises without a download.


VOCABULARY = 1024
_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
_WORDS = (
    "pick place put push pull lift move grasp grab drop stack open close turn rotate insert take bring",
    "slide press pour wipe fold hold release reach align sort brick block cube box bin tray plate bowl",
    "cup mug bottle can lid drawer door button towel cloth banana apple orange lemon tape pen marker",
    "screwdriver tool ball ring peg hole table shelf robot arm gripper red green blue yellow pink purple",
    "white black gray brown transparent small large big left right front back top bottom middle center",
    "inside outside into onto in on at to from of with over under next near the a an and then it all up",
    "down both first second third lego toy object task",
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most 1024 tokens: any text tokenises; state bins and common task words are one token."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\d+| ?\p{L}+| ?[^\s\p{L}\d]|\s"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in _SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(), trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", bpe.token_to_id("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        padding_side="right",
    )


def _corpus() -> Iterator[str]:
    for number in range(-1, STATE_BINS):
        yield from (f" {number}",) * 8
    for word in " ".join(_WORDS).split():
        yield from (word, f" {word}", f" {word}")
    for task in ("pink lego brick into the transparent box", "put the banana on the plate"):
        yield from (base_prompt(task, np.zeros(6)),) * 4


MINI = Sizes(
    vocabulary=VOCABULARY,
    depth=6,
    head_dim=24,
    language_width=192,
    language_mlp=640,
    expert_width=128,
    expert_mlp=384,
    vision_width=128,
    vision_mlp=384,
    vision_depth=4,
    vision_heads=4,
)
TINY = Sizes(
    vocabulary=VOCABULARY,
    depth=2,
    head_dim=16,
    language_width=64,
    language_mlp=128,
    expert_width=32,
    expert_mlp=64,
    vision_width=48,
    vision_mlp=96,
    vision_depth=2,
    vision_heads=2,
)
"""For tests: 0.3 M parameters."""

IMAGE_PX = 112
CHUNK_STEPS = 50
MAX_DOF = 8
MAX_TOKENS = 64


def build_mini(
    contract: Contract, seed: int = 0, *, sizes: Sizes = MINI, dtype: str = "float32", full_prompt: bool = False
) -> Backbone:
    """A small pi0.5 for a contract's joints and cameras, with random weights from `seed`.

    `full_prompt` keeps pi0.5's own 224 px, 32 action dimensions and 200 tokens (for benches at full width).
    """
    config = mini_config(contract, dtype=dtype, full_prompt=full_prompt)
    with torch.random.fork_rng(devices=[]), network_sizes(sizes):
        torch.manual_seed(seed)
        policy = PI05Policy(config)
    remove_dead_heads(policy)
    return Backbone(policy, build_tokenizer())


def mini_config(contract: Contract, *, dtype: str = "float32", full_prompt: bool = False) -> PI05Config:
    """LeRobot's config of the small model: the contract's cameras by `dataset_key`, in its order."""
    size_px = 224 if full_prompt else IMAGE_PX
    images = {
        camera.dataset_key: PolicyFeature(type=FeatureType.VISUAL, shape=(3, size_px, size_px))
        for camera in contract.cameras
    }
    joints = PolicyFeature(type=FeatureType.STATE, shape=(contract.dof,))
    padded = 32 if full_prompt else max(MAX_DOF, contract.dof)
    return PI05Config(
        input_features={**images, "observation.state": joints},
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(contract.dof,))},
        dtype=dtype,
        device="cpu",
        chunk_size=CHUNK_STEPS,
        n_action_steps=CHUNK_STEPS,
        image_resolution=(size_px, size_px),
        max_action_dim=padded,
        max_state_dim=padded,
        tokenizer_max_length=200 if full_prompt else MAX_TOKENS,
        empty_cameras=0 if images else 1,  # LeRobot's way for robots without one: the policy has it, nobody sees it
        push_to_hub=False,
    )


def limit_normalisation(contract: Contract) -> Normalisation:
    """Statistics that span the joints' hard limits: what an untrained model has instead of data."""
    ends = np.sort(np.stack([contract.to_policy(contract.lower_rad), contract.to_policy(contract.upper_rad)]), axis=0)
    span = Scaling.quantiles(ends[0], ends[1])
    return Normalisation(state=span, action=span)


def make_mini(contract: Contract, folder: Path, *, seed: int = 0, made_by: str) -> None:
    """Writes an untrained small model (bfloat16 on disk) as a checkpoint folder."""
    save_base(
        build_mini(contract, seed),
        folder,
        sizes=MINI,
        normalisation=limit_normalisation(contract),
        trained=False,
        made_by=made_by,
        weights_dtype=torch.bfloat16,
    )
