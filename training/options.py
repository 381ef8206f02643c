# SPDX-License-Identifier: Apache-2.0
"""Settings of `training.train`: one frozen value from defaults, a YAML file, the environment and the command line."""

import argparse
import inspect
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from math import inf
from pathlib import Path
from typing import Any, get_args

from sigma_ros.border import read_yaml
from sigma_ros.errors import SigmaError, UsageError

from . import parser as command_parser

ABLATIONS = ("memory", "glance", "film", "lora", "vector", "chunk", "trajectory", "late", "traf", "tsac")
"""Parts that can be switched off, by the names of `SigmaConfig.use_*` and of the training schemes."""

PARTS = {"all": "", "residual": "residual.", "late": "residual.branches.late."}
"""What a run may train: everything, the residual branches, the late one alone; and how those names begin."""

LOSSES = ("far", "smooth", "semantic", "intent", "tau", "foresight")
"""Terms of the loss beside the actions, whose weights are options."""

CHOICES = {
    "arm": ("sigma", "plain_lora"),
    "train_parts": tuple(PARTS),
    "dtype": ("auto", "float32", "bfloat16", "bf16"),
    "log_with": ("none", "tensorboard", "wandb", "trackio"),
}
"""What an option may be, where it is one of a few words."""

ENVIRONMENT = {
    "base_model_id": "SIGMA_BASE_MODEL",
    "dataset_dir": "SIGMA_DATASET_DIR",
    "output_dir": "SIGMA_OUTPUT_DIR",
}
"""Variables that stand for an option (see `sigma_env.example`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """Attributes are the command line's options; steps, batch and accumulation have the model card's values.

    Attributes:
        base_model_id: Folder, Hub id, or `mini`.
        dataset_dir: Folder of `training.preprocess`.
        output_dir: State, logs and the checkpoint.
        base_revision: Hub revision of the base.
        contract: Robot whose joints and cameras the data has.
        rename: Which camera of the robot feeds which of the base's, where their names differ: `up=base_0_rgb`.
        tokenizer: Folder or Hub id; else $SIGMA_TOKENIZER, the base's own, PaliGemma's.
        batch_size: Streams per process and micro-step; each gives the windows of a piece of an episode.
        gradient_accumulation_steps: Micro-steps per optimiser step.
        max_steps: Optimiser steps.
        dtype: Number type of the base, auto: its own; bf16 is bfloat16. Heads and adapters stay float32.
        learning_rate: Peak, reached after `warmup_share` of the steps, then a cosine to 5 % of it.
        warmup_share: Share of the steps in which the learning rate rises.
        weight_decay: AdamW's.
        clip_norm: Largest norm of a step's gradient.
        residual_gain: The residual learns so many times as fast as the telepathy path. Above 1 where something has to
            be remembered: with one rate for all the path shrinks before the residual has learned to read it.
        far_weight: Weight of L_act_far.
        smooth_weight: Weight of L_act_smooth.
        semantic_weight: Largest weight of L_sem.
        intent_weight: Largest weight of L_int.
        tau_weight: Weight of L_tau.
        foresight_weight: Weight of L_fore: the factors of a window tell where the demonstration is 64, 128 and 256
            ticks later. 0 switches it off; where something seen or said decides seconds later, the memory learns it.
        correction_weight: How much more a window counts at whose tick an operator acted instead of the policy
            (`sigma/intervention` in the recording).
        lora_rank: Columns of each low-rank adapter; else what the base's size has.
        lora_dropout: Share of inputs dropped in front of the adapters; else what the base's size has.
        hide_motion: Share of windows whose joints are shown as if they had stood still: in a recording their motion
            gives away where the teacher goes, at the start of an episode it does not (copycat problem,
            arXiv:2010.14876).
        phase_step: Phases of the stride are multiples of it; 16 has one phase and the smallest cache.
        noise_seed: Of the base chunks' noise; runs that share it share a cache.
        residual_steps: Steps of the chunk that the residual corrects; else all of them.
        smoothed_steps: Width of a smoothing that takes the trembling out of base and residual together, an odd number.
        late_ticks: Largest latency that is drawn for a window: the chunk's steps behind it are what is executed.
        base_age_ticks: Oldest base chunk on which a renewed residual is trained; needs a small phase_step.
        start_from: Checkpoint on the same base whose heads and adapters the run begins with, where they fit.
        renew_memory: The memory begins anew, and loud, whatever `start_from` has: one that was learned on a task that
            needs none forgets within seconds.
        train_parts: All, the residual, or its last branch (late); the rest stays as `start_from` has it. What its
            telepathy path believes is then computed once, so a step costs next to nothing, and its windows are drawn
            one by one.
        seed: Of weights, streams and dropout.
        arm: Sigma, or the comparison: adapters in the base at as many trained parameters.
        ablate: Parts that are switched off.
        unroll: Windows through which a gradient flows into the memory: `episode`, or a number of them. What was seen
            longer ago than that cannot be learned to be remembered.
        gradient_checkpointing: Less memory for more time.
        eval_every: Steps between looks at held-out windows; 0 never.
        save_every: Steps between saved states.
        log_with: Who draws the curves: files below the output folder (tensorboard), or a service's own library.
        allow_untrained: Accept a base that says it has random weights.
        push_to_hub: Repository (owner/name) that the finished checkpoint is uploaded to.
        private: Make that repository a private one.
    """

    base_model_id: str = "lerobot/pi05_base"
    dataset_dir: str = ""
    output_dir: str = ""
    base_revision: str = ""
    contract: str = "so101"
    rename: tuple[str, ...] = ()
    tokenizer: str = ""
    batch_size: int = 4
    gradient_accumulation_steps: int = 4
    max_steps: int = 300
    dtype: str = "auto"
    learning_rate: float = 5e-4
    warmup_share: float = 0.05
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    residual_gain: float = 1.0
    far_weight: float = 0.5
    smooth_weight: float = 0.5
    semantic_weight: float = 0.1
    intent_weight: float = 0.1
    tau_weight: float = 0.05
    foresight_weight: float = 0.0
    correction_weight: float = 2.0
    lora_rank: int | None = None
    lora_dropout: float | None = None
    hide_motion: float = 0.0
    phase_step: int = 4
    noise_seed: int = 0
    residual_steps: int | None = None
    smoothed_steps: int = 1
    late_ticks: int = 15
    base_age_ticks: int = 15
    start_from: str = ""
    renew_memory: bool = False
    train_parts: str = "all"
    seed: int = 0
    arm: str = "sigma"
    ablate: tuple[str, ...] = ()
    unroll: str = "episode"
    gradient_checkpointing: bool = True
    eval_every: int = 50
    save_every: int = 50
    log_with: str = "none"
    allow_untrained: bool = False
    push_to_hub: str = ""
    private: bool = False

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be {'finite and ' * isinstance(least, float)}at least {least}, got {value}"
            for name, least in _LEAST.items()
            if (value := getattr(self, name)) is not None and not least <= value < inf
        ]
        if not 0.0 <= self.hide_motion <= 1.0:
            problems.append(f"hide_motion must be in [0, 1], got {self.hide_motion}")
        problems += [f"{name} is missing" for name in ("dataset_dir", "output_dir") if not getattr(self, name)]
        problems += [f"unknown part {name} to ablate" for name in self.ablate if name not in ABLATIONS]
        problems += [
            f"{name} must be one of {', '.join(known)}, got {value}"
            for name, known in CHOICES.items()
            if (value := getattr(self, name)) not in known
        ]
        if self.train_parts != "all" and not self.start_from:
            problems.append(f"train_parts {self.train_parts} needs start_from")
        whole = self.train_parts == "all" and self.arm == "sigma"
        for name in ("renew_memory", "foresight_weight"):
            if getattr(self, name) and not whole:
                problems.append(f"{name} needs the whole of Sigma to be trained")
        if self.arm == "plain_lora" and self.start_from:
            problems.append("the comparison arm starts from its base")
        if self.arm == "plain_lora" and self.ablate:
            problems.append("the comparison arm has no parts to ablate")
        if self.unroll != "episode" and not (str(self.unroll).isdecimal() and int(self.unroll) >= 1):
            problems.append(f"unroll must be episode or a number of windows, got {self.unroll}")
        if 16 % max(1, self.phase_step):
            problems.append(f"phase_step must divide 16, got {self.phase_step}")
        if problems:
            raise UsageError("the training options make no sense", got=" | ".join(problems), remedy="see --help")

    @property
    def unroll_windows(self) -> int | None:
        """`unroll` as `Streams` takes it."""
        return None if self.unroll == "episode" else int(self.unroll)

    def run_facts(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed; with more `max_steps` it becomes longer."""
        free = {*_PLACES, "eval_every", "save_every", "log_with", "allow_untrained", "max_steps"}
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in free}
        values |= {name: stored for name, stored in _STORED_UNSET.items() if values[name] is None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def command(self) -> str:
        """The command that repeats the run, without its places."""
        parts = [f"python -m {__package__}.train"]
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default and field.name not in _PLACES:
                text = shlex.join(value) if isinstance(value, tuple) else "" if value is True else str(value)
                parts.append(f"--{field.name} {text}".rstrip())
        return " ".join(parts)


_PLACES = ("dataset_dir", "output_dir", "base_model_id", "tokenizer", "push_to_hub", "private")
"""Where things are: a run may be resumed and repeated elsewhere."""

_STORED_UNSET = {"lora_rank": 0, "lora_dropout": -1.0, "residual_steps": 0}
"""How the state of a run says that an option was left to the base."""

_LEAST = {
    "batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_steps": 1,
    "phase_step": 1,
    "seed": 0,
    "noise_seed": 0,
    "save_every": 1,
    "eval_every": 0,
    "lora_rank": 1,
    "lora_dropout": 0.0,
    "residual_steps": 1,
    "smoothed_steps": 1,
    "late_ticks": 0,
    "base_age_ticks": 0,
    **dict.fromkeys(
        ("learning_rate", "warmup_share", "weight_decay", "clip_norm", "correction_weight", "residual_gain"), 0.0
    ),
    **{f"{loss}_weight": 0.0 for loss in LOSSES},
}


def read_options(argv: list[str] | None, description: str | None) -> tuple[TrainOptions, bool, bool]:
    """Options, whether to resume and whether to overwrite.

    Later sources win: defaults, environment, `--config`, command line.

    Raises:
        UsageError: a value makes no sense, or the file has an unknown name.
    """
    given = vars(_parser(description).parse_args(argv))
    resume, config = given.pop("resume", False), given.pop("config", None)
    overwrite = given.pop("overwrite", False)
    values = from_environment()
    if config is not None:
        values |= _read_config(config)
    values |= given
    values |= {name: tuple(values[name]) for name in ("ablate", "rename") if name in values}
    return TrainOptions(**values), resume, overwrite


def from_environment() -> dict[str, Any]:
    """The options that variables of the environment give."""
    return {name: os.environ[variable] for name, variable in ENVIRONMENT.items() if os.environ.get(variable)}


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = command_parser("train", description, argument_default=argparse.SUPPRESS)
    parser.add_argument("--config", type=Path, help="YAML file with any of the options below")
    parser.add_argument("--resume", action="store_true", help="go on with the state in --output_dir")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --output_dir")
    for title, names in _GROUPS.items():
        add_options(parser.add_argument_group(title), names)
    return parser


def add_options(group: Any, names: str, *, defaults: Mapping[str, object] | None = None) -> None:
    """Gives a group of an argument parser some of `TrainOptions`, as `sigma train` explains them.

    Args:
        group: Of argparse.
        names: The fields, with spaces between.
        defaults: Of a command that has others.
    """
    explained, known = _texts(), {field.name: field for field in fields(TrainOptions)}
    for name in names.split():
        _add(group, known[name], explained[name], (defaults or {}).get(name, known[name].default))


_GROUPS = {
    "places": "base_model_id base_revision dataset_dir output_dir contract rename tokenizer start_from renew_memory",
    "size of the run": "max_steps batch_size gradient_accumulation_steps phase_step dtype gradient_checkpointing",
    "what is trained": "arm ablate train_parts lora_rank lora_dropout residual_steps smoothed_steps unroll",
    "latency and habits": "late_ticks base_age_ticks hide_motion",
    "optimiser": "learning_rate residual_gain warmup_share weight_decay clip_norm",
    "losses": "far_weight smooth_weight semantic_weight intent_weight tau_weight foresight_weight correction_weight",
    "record": "seed noise_seed eval_every save_every log_with allow_untrained push_to_hub private",
}
"""The help's sections; every option stands in one."""


def _texts() -> dict[str, str]:
    """What each option means: the attributes of `TrainOptions`' docstring, so that it is said once."""
    lines = inspect.cleandoc(TrainOptions.__doc__ or "").partition("Attributes:\n")[2]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", lines, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _add(group: Any, field: Field[Any], text: str, default: Any) -> None:
    stated = default not in ("", (), None) and not isinstance(default, bool)
    told = (f"{text} (default {default})" if stated else text).replace("%", "%%")
    if field.name in ENVIRONMENT:
        told += f" [${ENVIRONMENT[field.name]}]"
    if field.name == "ablate":
        group.add_argument("--ablate", nargs="*", metavar="PART", help=f"{told} Any of {', '.join(ABLATIONS)}.")
    elif field.name == "rename":
        group.add_argument("--rename", nargs="+", metavar="KEY=KEY", help=told)
    elif field.type is bool:
        group.add_argument(f"--{field.name}", action=argparse.BooleanOptionalAction, help=told)
    else:
        kind = _kind(field)
        metavar = "|".join(CHOICES.get(field.name, ())) or {int: "N", float: "X"}.get(kind, "TEXT")
        group.add_argument(f"--{field.name}", type=kind, metavar=metavar, help=told)


def _kind(field: Field[Any]) -> type:
    """Of a value, without the None of an option that may be left out."""
    return type(field.default) if field.default is not None else get_args(field.type)[0]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        values = read_yaml(path)
    except SigmaError as error:
        raise UsageError("the config file cannot be read", where=path, got=error.got or error.what) from error
    names = {field.name: _kind(field) for field in fields(TrainOptions)}
    if not isinstance(values, dict) or not set(values) <= set(names):
        unknown = sorted(set(values) - set(names)) if isinstance(values, dict) else type(values).__name__
        raise UsageError("the config file has unknown names", where=path, expected=", ".join(names), got=unknown)
    return {name: _converted(v, names[name]) for name, v in values.items()}


def _converted(value: Any, kind: type) -> Any:
    """YAML's 4 where the option is 4.0 or "4"."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return kind(value) if whole and kind in (float, str) else value
