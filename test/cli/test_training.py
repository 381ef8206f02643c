# SPDX-License-Identifier: Apache-2.0
"""`sigma train` and its siblings: the training package's own commands, called by the verbs' names."""

import re
from dataclasses import fields

import pytest
from click.testing import CliRunner

import training
from sigma_ros.cli.main import load_verb
from sigma_ros.cli.training import VERBS
from training.options import TrainOptions


def run(verb: str, *arguments: str):
    return CliRunner().invoke(load_verb(verb), list(arguments))


def test_the_verbs_are_those_of_the_package() -> None:
    assert list(VERBS) == list(training.VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_the_packages_own_and_a_call_without_arguments_is_wrong_usage(verb) -> None:
    done = run(verb, "--help")
    assert done.exit_code == 0
    assert verb in done.output
    assert run(verb).exit_code == 2


def test_every_option_of_training_is_explained_in_the_help() -> None:
    shown = " ".join(run("train", "--help").output.split())
    for field in fields(TrainOptions):
        assert f"--{field.name}" in shown
    assert "Share of windows whose joints are shown as if they had stood still" in shown
    assert "[$SIGMA_DATASET_DIR]" in shown


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_in_groups_and_says_what_each_option_means_and_each_number_is(verb) -> None:
    text = run(verb, "--help").output
    assert len(re.findall(r"^\w[\w ]*:$", text, flags=re.MULTILINE)) >= 3
    options = re.split(r"\n  (?=--)", text.partition("\noptions:\n")[2])[1:]
    for words in options:
        assert len(re.findall(r"[a-z]{2,}", words.partition(" ")[2])) > 1, words
        if re.match(r"--[\w-]+ (N|X|PX)\b", words):
            assert re.search(r"\b(default|else)\b", words), words


def test_options_reach_the_package_as_they_are(tmp_path) -> None:
    done = run("train", "--dataset_dir", str(tmp_path), "--output_dir", str(tmp_path / "out"), "--no-such")
    assert done.exit_code == 2
    assert "--no-such" in done.output
