# SPDX-License-Identifier: Apache-2.0
"""The small model's tokenizer: byte-level BPE in which any text tokenises without a download."""

from collections.abc import Iterator

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from sigma_ros.model.prompt import STATE_BINS, base_prompt

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
