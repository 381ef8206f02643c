# SPDX-License-Identifier: Apache-2.0
r"""Trains LoRA and heads of Sigma on the shards of `sigma preprocess`, on one GPU or many.

The base is frozen: its frame tokens and chunks are computed once and cached beside the shards.
`python -m training.train` is the same command.

Examples:
    sigma train --base_model_id lerobot/pi05_base --dataset_dir data/pickplace --output_dir out/sigma \
        --batch_size 4 --gradient_accumulation_steps 4 --max_steps 300 --dtype bf16
    sigma train --base_model_id mini --dataset_dir data/target_shards --output_dir out/sigma --resume
    accelerate launch --num_processes 2 -m training.train --config my_run.yaml
"""

import sys
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, gather_object
from rich.console import Console
from torch import Tensor

from sigma_ros.addresses import push_folder
from sigma_ros.camera_names import fitted_from, policy_keys, read_rename
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import CheckpointError, MachineError, SigmaError, UsageError, show_error
from sigma_ros.lerobot.configuration_sigma import SigmaPolicyConfig
from sigma_ros.lerobot.files import contract_place, write_lerobot_files
from sigma_ros.model.checkpoint.folder import identify, save_checkpoint
from sigma_ros.model.checkpoint.manifest import Training
from sigma_ros.model.pi05.folder import open_base_folder
from sigma_ros.model.pi05.loading import load_base
from sigma_ros.model.pi05.places import check_pushable
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.telepathy import Recurrence
from sigma_ros.model.tokens import CameraMapping
from sigma_ros.stopping import INTERRUPTED, stop_on_signal

from .cache import CacheSettings, cached_episodes
from .check_data import check_data
from .data import ShardData
from .held_out import WindowScores, score_windows, usual, usual_size
from .loop import (
    TrainingLog,
    begin_from,
    check_same_run,
    chosen_parts,
    load_state,
    optimizer_tensors,
    refuse_nan,
    restore_optimizer,
    save_state,
    warmup_cosine,
)
from .losses import LossWeights, SigmaLossModule, action_terms, total, traf_weights, with_corrections
from .options import TrainOptions, read_options
from .plain import PlainFeeder, PlainLossModule
from .streams import Assembler, Lateness, Segment, StreamPlace, Streams
from .telepathy_outputs import Believed, believed

RESIDUAL_WINDOWS = 4
"""Windows per stream and micro-step where the residual alone is trained."""
CHECKPOINT = "checkpoint"
_GLANCED_EPISODES, _GLANCED_EVERY = 64, 8
"""Pictures of so many episodes, every so many ticks, say what is usual."""
_JUDGED_EPISODES = 20
"""Of the comparison arm, for the usual size of what it changes."""


class Run:
    """One process's share of a training run: model, its streams, their memories, the optimizer."""

    def __init__(self, options: TrainOptions, accelerator: Accelerator) -> None:
        self.options, self.accelerator, self.step = options, accelerator, 0
        self.data = ShardData.open(Path(options.dataset_dir))
        contract = load_contract(options.contract)
        folder = open_base_folder(options.base_model_id, revision=options.base_revision or None)
        self.normalisation = folder.normalisation or self.data.meta.statistics
        keys = policy_keys(contract, rename=read_rename(options.rename), learnt=folder.rename)
        cameras = check_data(self.data, folder, contract, self.normalisation, keys)
        loaded = load_base(
            folder,
            device=str(accelerator.device),
            dtype={"bf16": "bfloat16"}.get(options.dtype, options.dtype),
            tokenizer=options.tokenizer or None,
            allow_untrained=options.allow_untrained,
            fitted_from=fitted_from(contract, keys, folder.image_size_px),
        )
        settings = _settings(options, SigmaConfig.for_backbone(loaded.backbone, dof=contract.dof))
        self.late_ticks = min(options.late_ticks, settings.residual_steps - 1)
        settings = replace(settings, trained_delay_s=round(self.late_ticks / contract.fps, 6))
        self.model = SigmaTelepathyVLA(loaded.backbone, settings, seed=options.seed)
        self.mapping = CameraMapping.of(contract, cameras)
        self.rename = self.mapping.renamed(contract, loaded.backbone.camera_keys)
        self.base = identify(self.model, loaded.info)
        self._prepare_data()
        self._prepare_training()

    def _prepare_data(self) -> None:
        if self.accelerator.is_main_process:
            Console(stderr=True, markup=False).print(_cost(self), highlight=False)
        settings = CacheSettings(seed=self.options.noise_seed, phase_step=self.options.phase_step)
        with self.accelerator.main_process_first():
            self.episodes = cached_episodes(
                self.data,
                self.model,
                self.normalisation,
                settings,
                mapping=self.mapping,
                base_fingerprint=self.base.fingerprint,
            )
        split = {h: [i for i, e in enumerate(self.data.episodes) if e.held_out == h] for h in (False, True)}
        self.train_numbers, self.held_out_numbers = split[False], split[True]
        options = self.options
        lateness = Lateness(
            steps=self.model.config.residual_steps,
            delay_ticks=self.late_ticks,
            base_age_ticks=min(options.base_age_ticks, self.model.backbone.horizon - 1),
            seed=options.seed,
        )
        self.assembler = Assembler(self.episodes, self.normalisation, lateness)
        self.feeder = None
        if self.options.arm == "plain_lora":
            self.feeder = PlainFeeder(
                self.model,
                self.episodes,
                self.normalisation,
                mapping=self.mapping,
                cache_seed=self.options.noise_seed,
            )
        self.streams = Streams(
            [self.episodes[n] for n in self.train_numbers],
            stride=self.model.config.memory_stride,
            phase_step=self.options.phase_step,
            seed=self.options.seed,
            unroll=self.options.unroll_windows,
        )

    def _prepare_training(self) -> None:
        options, count = self.options, self.options.gradient_accumulation_steps
        self._start_glance()
        if options.start_from:
            begin_from(self.model, options.start_from, self.base)
        self.parameters: dict[str, Tensor] = chosen_parts(self.model, options.train_parts)
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        loss_module: torch.nn.Module
        if self.feeder is None:
            loss_module = SigmaLossModule(
                self.model, gradient_checkpointing=options.gradient_checkpointing, hide_motion=options.hide_motion
            )
        else:
            loss_module = PlainLossModule(self.model, self.feeder)
        self.believed = None
        if options.train_parts != "all":
            rows = [(n, self.episodes[n].rows) for n in self.train_numbers]
            self.believed = believed(self.model, self.assembler, rows)
        self.loss_module = self.accelerator.prepare_model(loss_module)
        self.places = [[StreamPlace()] * options.batch_size for _ in range(count)]
        config, device = self.model.config, self.model.backbone.device
        self.memories = [Recurrence.start(config, batch=options.batch_size, device=device) for _ in range(count)]
        torch.manual_seed(options.seed * 1000 + self.accelerator.process_index)

    def _start_glance(self) -> None:
        telepathy = self.model.telepathy
        if telepathy is None or telepathy.glance is None:
            return
        some = [self.episodes[n] for n in self.train_numbers[:_GLANCED_EPISODES]]
        telepathy.glance.start_from(
            (
                e.pooled(0, e.episode.ticks)[::_GLANCED_EVERY],
                torch.from_numpy(e.episode.valid[::_GLANCED_EVERY])[:, None] & e.seen,
            )
            for e in some
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What a resumed run must share."""
        return self.options.run_facts() | {
            "data": self.data.meta.hash,
            "base": self.base.fingerprint,
            "processes": self.accelerator.num_processes,
        }

    def advance(self) -> dict[str, float]:
        """One optimizer step; returns the loss, its parts and the gradient's norm."""
        options, count = self.options, self.options.gradient_accumulation_steps
        self.model.train()
        rate = options.learning_rate * warmup_cosine(
            self.step, total=options.max_steps, warmup=max(1, round(options.warmup_share * options.max_steps))
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        values: dict[str, float] = {}
        for micro in range(count):
            last = micro == count - 1
            with nullcontext() if last else self.accelerator.no_sync(self.loss_module):
                loss, parts, names = self._micro_step(micro)
                refuse_nan(float(loss.detach()), step=self.step, samples=names)
                self.accelerator.backward(loss / count)
            for name, part in {"loss": loss.detach(), **parts}.items():
                values[name] = values.get(name, 0.0) + float(self.accelerator.reduce(part, "mean")) / count
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), options.clip_norm)
        self.optimizer.step()
        self.step += 1
        return values | {"grad": float(norm), "lr": rate}

    def _micro_step(self, micro: int) -> tuple[Tensor, dict[str, Tensor], list[str]]:
        pieces = self._pieces(micro)
        if self.feeder is not None:
            return self._plain_step(micro, pieces)
        if self.believed is not None:
            return self._residual_step(micro, self.believed)
        device = self.model.backbone.device
        steps = max(self._gathered([len(piece.rows) for piece in pieces]))
        windows = [self.assembler.windows(pieces, step, late_at=self.step).to(device) for step in range(steps)]
        memory = self.memories[micro]
        kept = torch.tensor([not piece.fresh for piece in pieces], device=device)
        previous = Recurrence(memory=memory.memory * kept[:, None], factors=memory.factors * kept[:, None, None])
        texts = sorted(set(self._gathered(list(windows[0].tasks))))
        outcome = self.loss_module(windows, previous, texts)
        self.memories[micro] = Recurrence(memory=outcome.memory.detach(), factors=outcome.factors.detach())
        present = torch.cat([window.present for window in windows])
        error = torch.cat([window.base_error for window in windows])
        weights, share = self._weights(error, present, torch.cat([window.corrected for window in windows]))
        scheme = self._scheme()
        loss, parts = total(
            outcome.terms, weights, present, scheme, progress=self.step / self.options.max_steps, count=share
        )
        return loss, parts, [name for window in windows for name in window.names]

    def _residual_step(self, micro: int, known: Believed) -> tuple[Tensor, dict[str, Tensor], list[str]]:
        count = RESIDUAL_WINDOWS * self.options.batch_size
        place = [self.options.seed, self.step, micro, self.accelerator.process_index]
        chosen, hidden = known.draw(count, place, hide_motion=self.options.hide_motion)
        windows = self.assembler.alone(known.places[chosen].tolist(), late_at=self.step).to(self.model.backbone.device)
        terms = action_terms(self.model, known.telepathy_output(self.model, chosen, hidden), windows)
        weights, share = self._weights(windows.base_error, windows.present, windows.corrected)
        loss, parts = total(terms, weights, windows.present, self._scheme(), progress=1.0, count=share)
        return loss, parts, list(windows.names)

    def _plain_step(self, micro: int, pieces: list[Segment]) -> tuple[Tensor, dict[str, Tensor], list[str]]:
        ticks = [(piece.episode, row) for piece in pieces for row in piece.rows]
        place = [self.options.seed, self.step, micro, self.accelerator.process_index]
        seed = int(np.random.SeedSequence(place).generate_state(1)[0])
        losses = self.loss_module(ticks, torch.Generator().manual_seed(seed))
        names = [f"episode {self.episodes[n].episode.episode} tick {row}" for n, row in ticks]
        corrected = torch.tensor([bool(self.episodes[n].episode.corrected[row]) for n, row in ticks])
        factor = self.options.correction_weight
        loss = (losses * with_corrections(torch.ones_like(losses), corrected.to(losses.device), factor=factor)).mean()
        return loss, {"flow": loss.detach()}, names

    def _pieces(self, micro: int) -> list[Segment]:
        """The next piece of each of this process's streams, in places of the whole data set."""
        size = self.options.batch_size
        first = (micro * self.accelerator.num_processes + self.accelerator.process_index) * size
        taken = [self.streams.next(first + i, place) for i, place in enumerate(self.places[micro])]
        self.places[micro] = [place for _, place in taken]
        return [replace(piece, episode=self.train_numbers[piece.episode]) for piece, _ in taken]

    def _gathered[T](self, values: list[T]) -> list[T]:
        return gather_object(values) if self.accelerator.num_processes > 1 else values

    def _weights(self, error: Tensor, present: Tensor, corrected: Tensor) -> tuple[Tensor, float]:
        """TRAF and corrections over the samples of all processes; this one's weights, and what sums are divided by."""
        everywhere, there, by_hand = self.accelerator.gather((error, present, corrected))
        weights = traf_weights(everywhere, there, enabled="traf" not in self.options.ablate)
        weights = with_corrections(weights, by_hand, factor=self.options.correction_weight)
        start = self.accelerator.process_index * len(error)
        return weights[start : start + len(error)], float(there.sum()) / self.accelerator.num_processes

    def _scheme(self) -> LossWeights:
        options = self.options
        return LossWeights(
            far=options.far_weight,
            smooth=options.smooth_weight,
            semantic=options.semantic_weight,
            intent=options.intent_weight,
            tau=options.tau_weight,
            traf="traf" not in options.ablate,
            tsac="tsac" not in options.ablate,
        )

    def scores(self, numbers: list[int]) -> WindowScores:
        """Both arms on the stride windows of some episodes."""
        return score_windows(self.model, self.episodes, self.assembler, numbers, self.feeder)

    def save(self, folder: Path) -> None:
        """Everything that `restore` needs, of this process."""
        tensors = {f"weight.{name}": tensor for name, tensor in self.parameters.items()}
        tensors |= optimizer_tensors(self.optimizer, self.parameters)
        for micro, memory in enumerate(self.memories):
            tensors |= {f"memory.{micro}": memory.memory, f"factors.{micro}": memory.factors}
        tensors["random"] = torch.random.get_rng_state()
        places = [[[place.drawn, place.taken] for place in row] for row in self.places]
        save_state(self._own(folder), tensors, {**self.facts, "step": self.step, "places": places})

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        """Goes on where `save` was called."""
        tensors, facts = load_state(self._own(folder))
        # A run from before corrections were known has none in its data, so that the weight has changed nothing.
        before = {"correction_weight": self.options.correction_weight}
        check_same_run(before | facts, self.facts, where=folder)
        device = self.model.backbone.device
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"weight.{name}"])
        stored = {n: t if n.startswith("adam.step.") else t.to(device) for n, t in tensors.items()}
        restore_optimizer(self.optimizer, self.parameters, stored)
        self.memories = [
            Recurrence(memory=stored[f"memory.{i}"], factors=stored[f"factors.{i}"]) for i in range(len(self.memories))
        ]
        torch.random.set_rng_state(tensors["random"])
        if facts["step"] > self.options.max_steps:
            raise CheckpointError(
                "the run is longer already",
                where=folder,
                expected=f"--max_steps {facts['step']} or more",
                got=self.options.max_steps,
            )
        self.places = [[StreamPlace(*place) for place in row] for row in facts["places"]]
        self.step = facts["step"]

    def _own(self, folder: Path) -> Path:
        return folder / "state" / f"process_{self.accelerator.process_index}"

    def export(self, folder: Path) -> dict[str, float]:
        """Sets the adapter's references from the training windows and writes the checkpoint; returns its scores."""
        if self.feeder is None:
            self.model.references = usual(self.scores(self.train_numbers))
        else:  # nothing but the size of its change can be judged, and every window costs a chunk
            size = usual_size(self.scores(self.train_numbers[:_JUDGED_EPISODES]))
            self.model.references = replace(self.model.references, r_ref=size)
        scores = self.scores(self.held_out_numbers).means() if self.held_out_numbers else {}
        save_checkpoint(
            self.model,
            folder,
            base=self.base,
            training=Training(
                trained=True,
                steps=self.step,
                seed=self.options.seed,
                command=self.options.command(),
                data_hash=self.data.meta.hash,
            ),
            normalisation=self.normalisation,
            rename=self.rename,
            scores={f"held_out_{name}": value for name, value in scores.items()},
            overwrite=True,
        )
        write_lerobot_files(folder, SigmaPolicyConfig(contract=contract_place(self.options.contract), device="cpu"))
        return scores


def _settings(options: TrainOptions, config: SigmaConfig) -> SigmaConfig:
    changes: dict[str, Any] = {f"use_{n}": False for n in options.ablate if n not in ("traf", "tsac")}
    given = {name: getattr(options, name) for name in ("residual_steps", "lora_rank", "lora_dropout")}
    changes |= {name: value for name, value in given.items() if value is not None}
    if options.lora_rank is not None:
        changes["lora_alpha"] = 2.0 * options.lora_rank
    return replace(config, plain_lora=options.arm == "plain_lora", **changes)


def _cost(run: Run) -> str:
    """What is known of a run's memory before anything is computed; its first step tells the time."""
    base_bytes = sum(p.numel() * p.element_size() for p in run.model.backbone.parameters())
    trained = sum(p.numel() for p in run.model.trained().values())
    ticks = sum(episode.ticks for episode in run.data.episodes)
    return (
        f"estimate: {base_bytes / 1e9:.2f} GB of frozen base, {trained * _BYTES_TRAINED / 1e9:.2f} GB for "
        f"{trained / 1e6:.2f} M trained parameters with AdamW, activations on top; the base looks once at "
        f"{ticks} ticks of {len(run.data.episodes)} episodes"
    )


_BYTES_TRAINED = 16
"""Per parameter in float32: itself, its gradient, two moments."""


def _start_tracking(options: TrainOptions, accelerator: Accelerator, *, first_step: int) -> None:
    if options.log_with == "none":
        return
    own = {"tensorboard": {"purge_step": first_step}}
    named = {"name": Path(options.output_dir).name}
    accelerator.init_trackers(
        "sigma", config={"command": options.command()}, init_kwargs={options.log_with: own.get(options.log_with, named)}
    )


def train(run: Run, out: Path) -> bool:
    """Steps until the end (True) or a signal (False); the state is saved in both cases."""
    options, accelerator = run.options, run.accelerator
    main = accelerator.is_main_process
    pieces = options.batch_size * options.gradient_accumulation_steps * accelerator.num_processes
    _start_tracking(options, accelerator, first_step=run.step)
    log = TrainingLog(
        total_steps=options.max_steps,
        first_step=run.step,
        samples_per_step=round(pieces * run.streams.windows_per_piece),
        quiet=not main,
        track=accelerator.log,
    )
    with stop_on_signal() as stop, log:
        while run.step < options.max_steps and not _anyone(accelerator, asked=bool(stop)):
            log.step(run.step, run.advance())
            due = options.eval_every and (run.step % options.eval_every == 0 or run.step == options.max_steps)
            if due and main and run.held_out_numbers:
                # the adapter's references are set after the last step
                log.scores(run.step, run.scores(run.held_out_numbers).means(adapted=False))
            if run.step % options.save_every == 0:
                run.save(out)
        run.save(out)
    for tracker in accelerator.trackers:
        tracker.finish()
    return run.step >= options.max_steps


def _anyone(accelerator: Accelerator, *, asked: bool) -> bool:
    """Whether any process was asked to stop; all of them stop after the same step."""
    if accelerator.num_processes == 1:
        return asked
    return bool(accelerator.reduce(torch.tensor(float(asked), device=accelerator.device), "sum") > 0)


def _refuse_replacing(out: Path, *, overwrite: bool) -> None:
    """A trained checkpoint, or the state of a run, is not lost by a forgotten `--resume`."""
    there = [name for name in (CHECKPOINT, "state") if (out / name).exists()]
    if there and not overwrite:
        raise UsageError(
            "the output folder has a trained run",
            where=out,
            got=", ".join(there),
            remedy="--resume goes on (with more --max_steps too), --overwrite replaces it, or give another folder",
        )


def run_training(options: TrainOptions, *, resume: bool, overwrite: bool = False) -> tuple[Run, bool]:
    """The whole of a run; True when it came to its end and the checkpoint is written.

    `overwrite` replaces a run that is in the output folder, `resume` goes on with it.

    Raises:
        SigmaError: options, data, base or state do not fit, or the loss is not finite.
    """
    out, tracked = Path(options.output_dir), options.log_with != "none"
    if tracked and find_spec(options.log_with) is None:
        raise MachineError(
            f"{options.log_with} is not installed",
            where=f"--log_with {options.log_with}",
            remedy=f"pip install {options.log_with}, or leave --log_with out",
        )
    accelerator = Accelerator(
        log_with=options.log_with if tracked else None,
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out / "tensorboard")),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=bool(options.ablate))],
    )
    if options.push_to_hub:
        check_pushable(options.push_to_hub, base=options.base_model_id)
    if not resume:
        _refuse_replacing(out, overwrite=overwrite)
    run = Run(options, accelerator)
    if resume:
        run.restore(out)
    complete = train(run, out)
    accelerator.wait_for_everyone()
    if complete and accelerator.is_main_process:
        run.export(out / CHECKPOINT)
        if options.push_to_hub:
            push_folder(out / CHECKPOINT, options.push_to_hub, kind="model", private=options.private)
    return run, complete


def main(argv: list[str] | None = None) -> int:
    """Runs the command; exit codes 0 done, 1 failed, 2 usage, 130 interrupted (--resume goes on)."""
    console = Console(stderr=True, markup=False)
    try:
        options, resume, overwrite = read_options(argv, __doc__)
        run, complete = run_training(options, resume=resume, overwrite=overwrite)
    except SigmaError as error:
        show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        console.print("interrupted before the state was saved")
        return INTERRUPTED
    if not complete:
        console.print(f"stopped after step {run.step}; --resume goes on")
        return INTERRUPTED
    if run.accelerator.is_main_process:
        console.print(f"{Path(options.output_dir) / CHECKPOINT}: trained for {run.step} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
