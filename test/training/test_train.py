# SPDX-License-Identifier: Apache-2.0
"""The command line of a training: where its options come from, and what it says to those that make no sense."""

import pytest

from sigma_ros.errors import UsageError
from training.options import read_options
from training.train import main


def test_options_come_from_file_environment_and_command_line_in_this_order(tmp_path, monkeypatch):
    config = tmp_path / "run.yaml"
    config.write_text("max_steps: 7\nlearning_rate: 1\nablate: [film]\noutput_dir: b\n", encoding="utf-8")
    monkeypatch.setenv("SIGMA_DATASET_DIR", "from the environment")
    monkeypatch.setenv("SIGMA_OUTPUT_DIR", "a")
    options, resume, overwrite = read_options(["--config", str(config), "--max_steps", "9", "--resume"], None)
    assert (options.max_steps, options.learning_rate, options.ablate) == (9, 1.0, ("film",))
    assert (options.dataset_dir, options.output_dir, resume) == ("from the environment", "b", True)
    assert not overwrite


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--max_steps", "0"], "max_steps must be at least 1"),
        (["--ablate", "wings"], "unknown part wings"),
        (["--arm", "none"], "arm must be one of sigma, plain_lora"),
        (["--log_with", "paper"], "log_with must be one of none, tensorboard, wandb, trackio"),
        (["--lora_rank", "0"], "lora_rank must be at least 1"),
        (["--phase_step", "5"], "phase_step must divide 16"),
        (["--learning_rate", "nan"], "learning_rate must be finite and at least 0.0, got nan"),
        (["--clip_norm", "inf"], "clip_norm must be finite and at least 0.0, got inf"),
        (["--far_weight", "-1"], "far_weight must be finite and at least 0.0"),
        (["--residual_gain", "-1"], "residual_gain must be finite and at least 0.0"),
        (["--renew_memory", "--arm", "plain_lora"], "renew_memory needs the whole of Sigma"),
        (["--renew_memory", "--train_parts", "residual", "--start_from", "mini"], "renew_memory needs the whole"),
        (["--foresight_weight", "1", "--arm", "plain_lora"], "foresight_weight needs the whole of Sigma"),
        (["--hide_motion", "1.5"], r"hide_motion must be in \[0, 1\]"),
    ],
)
def test_options_that_make_no_sense_are_refused(given, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        read_options(["--dataset_dir", "d", "--output_dir", "o", *given], None)


def test_the_command_ends_with_a_code_and_one_message(tmp_path, capsys):
    assert main(["--dataset_dir", str(tmp_path / "none"), "--output_dir", str(tmp_path / "out")]) == 1
    assert "training.preprocess" in capsys.readouterr().err
