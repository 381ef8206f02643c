# SPDX-License-Identifier: Apache-2.0
"""`sigma preprocess`, `train`, `train-eval`, `study`: the training package's commands, with its options."""

import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import click

from sigma_ros.errors import UsageError
from sigma_ros.starting import training_package

VERBS = {
    "preprocess": "Turn bags or a LeRobot data set into training shards.",
    "train": "Train Sigma's heads and LoRA on a frozen base.",
    "train-eval": "Score a checkpoint on held-out episodes of the shards.",
    "study": "Train and score what each part of Sigma is worth.",
}
"""Verb -> one line for the help."""

_EXAMPLES = {
    "preprocess": "sigma preprocess --bags out/bag --image-size 112 --out data/shards",
    "train": "sigma train --base_model_id mini --dataset_dir data/shards --output_dir out/sigma",
    "train-eval": "sigma train-eval --checkpoint out/sigma/checkpoint --dataset_dir data/shards --out out/evaluation",
    "study": "sigma study --dataset_dir data/shards --out out/study",
}


def command(verb: str) -> click.Command:
    """The verb's command; everything behind it goes to the training package as it is, `--help` too."""

    @click.command(
        verb,
        help=f"{VERBS[verb]}\n\nExample: {_EXAMPLES[verb]}",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    )
    @click.pass_context
    def run(context: click.Context) -> None:
        _check_shards(context.args)
        package = training_package()
        main = import_module(f"{package.__name__}.{package.VERBS[verb]}").main
        sys.exit(main(context.args))

    return run


def _check_shards(given: list[str]) -> None:
    """Before seconds of imports."""
    folder = dict(pairwise(given)).get("--dataset_dir")
    if folder is not None and not Path(folder).is_dir():
        raise UsageError(
            "there is no such folder of shards", where=folder, remedy="make it with: sigma preprocess --out DIR"
        )
