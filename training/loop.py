# SPDX-License-Identifier: Apache-2.0
"""What every training run shares: progress for the eye, a stop on NaN, its state on disk."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer

from sigma_ros.errors import CheckpointError, SigmaError, UsageError
from sigma_ros.model.checkpoint.folder import load_trained, open_manifest
from sigma_ros.model.checkpoint.manifest import HEADS_FILE, BaseIdentity
from sigma_ros.model.loading import find_sigma
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.telepathy import SemanticMemory

from .data import write_tensors
from .options import PARTS, TrainOptions
from .progress.estimate import duration, memory_bytes

if TYPE_CHECKING:
    from .cache import CachedEpisode

_PLAIN_EVERY_S = 30.0


class TrainingLog:
    """A live line on a terminal (one line per 30 s elsewhere), the cost as soon as a step has shown it, and curves.

    Args:
        total_steps: Steps of the whole run.
        first_step: Step at which this call begins.
        samples_per_step: For the rate.
        quiet: Shows nothing: the other processes of a run.
        track: Takes the numbers of a step and the step, as `Accelerator.log`.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        first_step: int,
        samples_per_step: int,
        quiet: bool = False,
        track: Callable[[dict[str, float], int], None] = lambda _values, _step: None,
    ) -> None:
        self._console = Console(stderr=True, quiet=quiet, markup=False)
        self._track, self._samples = track, samples_per_step
        self._first, self._total = first_step, total_steps
        self._started_s = self._said_s = time.monotonic()
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._progress.add_task("", total=total_steps, completed=first_step)

    def __enter__(self) -> "TrainingLog":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Shows and logs one finished step."""
        elapsed_s = time.monotonic() - self._started_s
        rate = self._samples * (step + 1 - self._first) / max(elapsed_s, 1e-9)
        memory_gb = memory_bytes() / 1e9
        if step == self._first and (left := self._total - step - 1):
            self._say(f"estimate from the first step: {duration(left * elapsed_s)} for {left} more; {memory_gb:.1f} GB")
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        text += f"  {rate:.1f} samples/s  {memory_gb:.2f} GB"
        self._progress.update(self._task, completed=step + 1, description=text)
        self._say_plainly(step, text, rate)
        self._track({**values, "samples_per_s": rate, "memory_gb": memory_gb}, step)

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        """Shows and logs an evaluation between steps."""
        self._say(f"step {step}: " + "  ".join(f"{name} {value:.5f}" for name, value in values.items()))
        self._track({f"held_out/{name}": value for name, value in values.items()}, step)

    def _say_plainly(self, step: int, text: str, rate: float) -> None:
        now_s = time.monotonic()
        if self._console.is_terminal or (now_s - self._said_s < _PLAIN_EVERY_S and step + 1 < self._total):
            return
        self._said_s = now_s
        left_s = (self._total - step - 1) * self._samples / rate
        self._say(f"{step + 1}/{self._total}  {text}  {duration(left_s)} left")

    def _say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False)


def refuse_nan(loss: float, *, step: int, samples: list[str]) -> None:
    """Stops a run whose loss is not finite, naming the batch.

    Raises:
        SigmaError: it is not finite; the weights of before the step are what was saved last.
    """
    if not math.isfinite(loss):
        raise SigmaError(
            "the loss is not finite",
            where=f"step {step}, samples {', '.join(samples)}",
            expected="a finite number",
            got=loss,
            remedy="look at these samples, or lower --learning_rate; the last saved state is whole",
        )


def warmup_cosine(step: int, *, total: int, warmup: int, floor: float = 0.05) -> float:
    """Share of the peak learning rate at a step: linear up, cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def optimizer_of(parameters: Mapping[str, Tensor], weight_decay: float, *, gains: Mapping[str, float]) -> Optimizer:
    """AdamW over named parameters; a group's `gain` is how much faster those whose names begin so learn.

    Adam moves a weight by the whole rate however small its gradient: with one rate for all, a new path beside a good
    policy shrinks, to be rid of its noise, before those who read it have learned to.
    """
    groups: dict[float, list[Tensor]] = {}
    for name, parameter in parameters.items():
        gain = next((gain for prefix, gain in gains.items() if name.startswith(prefix)), 1.0)
        groups.setdefault(gain, []).append(parameter)
    own = [{"params": members, "gain": gain} for gain, members in groups.items()]
    return torch.optim.AdamW(own, weight_decay=weight_decay)


# The state of a training run as one safetensors file, so that nothing is unpickled and resuming is bit for bit.


STATE_FILE = "training_state.safetensors"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def optimizer_tensors(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AdamW's moments by parameter name; empty before the first step."""
    return {
        f"adam.{moment}.{name}": optimizer.state[parameter][moment]
        for name, parameter in parameters.items()
        if parameter in optimizer.state
        for moment in _MOMENTS
    }


@torch.no_grad()
def restore_optimizer(optimizer: Optimizer, parameters: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave."""
    for name, parameter in parameters.items():
        values = {moment: stored.get(f"adam.{moment}.{name}") for moment in _MOMENTS}
        if all(value is not None for value in values.values()):
            optimizer.state[parameter] = values


def save_state(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes tensors and JSON facts; the file appears whole or not at all."""
    write_tensors(folder / STATE_FILE, tensors, {"facts": json.dumps(dict(facts))})


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_state` wrote.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = folder / STATE_FILE
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            "the training run cannot be resumed",
            where=path,
            got=error,
            remedy="give the --output_dir of an interrupted run, or start anew without --resume",
        ) from error


def check_same_run(facts: Mapping[str, Any], wanted: Mapping[str, Any], *, where: object) -> None:
    """Refuses to resume with other settings: the curve would be of neither run."""
    differing = [name for name, value in wanted.items() if facts.get(name) != value]
    if differing:
        raise CheckpointError(
            "the run was started with other settings",
            where=where,
            expected=", ".join(f"{name} {facts.get(name)}" for name in differing),
            got=", ".join(f"{name} {wanted[name]}" for name in differing),
            remedy="give the settings of the first call, or another --output_dir",
        )


# A run that begins with another run's weights, and may keep most of them.


@torch.no_grad()
def begin_from(model: SigmaTelepathyVLA, checkpoint: str, base: BaseIdentity) -> tuple[str, ...]:
    """Copies every trained tensor of a checkpoint that has its name and shape here; gives the names that stay new.

    Args:
        model: Filled in place; its settings may differ from the checkpoint's.
        checkpoint: `mini` or a checkpoint folder.
        base: What `model` runs on.

    Raises:
        CheckpointError: it cannot be read, or belongs to another base.
        UsageError: nothing in it fits.
    """
    place = find_sigma(checkpoint)
    place.fetch("*.safetensors")
    folder = place.path
    manifest, _ = open_manifest(lora_dir=folder, heads_path=folder / HEADS_FILE)
    manifest.base.check(base, where=folder)
    other = SigmaTelepathyVLA(model.backbone, manifest.settings)
    load_trained(other, manifest, heads_path=folder / HEADS_FILE, lora_dir=folder)
    known, new = other.trained(), []
    for name, parameter in model.trained().items():
        if name in known and known[name].shape == parameter.shape:
            parameter.copy_(known[name])
        else:
            new.append(name)
    if len(new) == len(model.trained()):
        raise UsageError("no weight of the checkpoint fits the run", where=folder)
    model.references = manifest.references
    return tuple(new)


_CANDIDATE_GAIN, _MEMORY_GAIN = 2.0, 4.0


@torch.no_grad()
def start_memory(model: SigmaTelepathyVLA) -> None:
    """The memory starts as a running mean of what was read, and is read as loudly as what is read now.

    From the usual starting values a cue leaves 2 % of an entry's size in the memory (docs/bed.md).
    """
    path = model.telepathy
    assert path is not None
    width = model.config.memory_width
    path.memory.candidate.weight[:, width:] = _CANDIDATE_GAIN * torch.eye(width)
    for head in (path.intent, path.factors):
        head.get_parameter("0.weight")[:, :width] *= _MEMORY_GAIN


@torch.no_grad()
def renew_memory(model: SigmaTelepathyVLA, *, seed: int) -> None:
    """An untrained memory in the place of one that was learned where nothing had to be kept, and forgets in seconds.

    Its gate begins where `SigmaConfig.memory_gate_bias` has it.
    """
    path, config = model.telepathy, model.config
    assert path is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = SemanticMemory(config.memory_width, gate_bias=config.memory_gate_bias)
    path.memory.load_state_dict(fresh.state_dict())
    start_memory(model)


def chosen_parts(model: SigmaTelepathyVLA, parts: str) -> dict[str, Tensor]:
    """The parameters that a run changes; the others take no gradient any more."""
    chosen = {name: p for name, p in model.trained().items() if name.startswith(PARTS[parts])}
    for name, parameter in model.trained().items():
        parameter.requires_grad_(name in chosen)
    return dict(chosen)


def model_settings(options: TrainOptions, config: SigmaConfig) -> SigmaConfig:
    """The settings of the model that the options ask for; `config` has those of its base's size."""
    changes: dict[str, Any] = {f"use_{n}": False for n in options.ablate if n not in ("traf", "tsac")}
    given = {name: getattr(options, name) for name in ("residual_steps", "smoothed_steps", "lora_rank", "lora_dropout")}
    changes |= {name: value for name, value in given.items() if value is not None}
    if options.lora_rank is not None:
        changes["lora_alpha"] = 2.0 * options.lora_rank
    return replace(config, plain_lora=options.arm == "plain_lora", **changes)


def start_glance(model: SigmaTelepathyVLA, episodes: "Sequence[CachedEpisode]") -> None:
    """Shows the glance what pictures usually look like: every 8th tick of some episodes."""
    if model.telepathy is not None and model.telepathy.glance is not None:
        model.telepathy.glance.start_from(
            (e.pooled(0, e.episode.ticks)[::8], torch.from_numpy(e.episode.valid[::8])[:, None] & e.seen)
            for e in episodes
        )


# The bar that long work over recordings and episodes shows, with the time that is left.


def counted_progress() -> Progress:
    """A bar on stderr that counts finished pieces."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True, markup=False))
