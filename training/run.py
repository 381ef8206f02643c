# SPDX-License-Identifier: Apache-2.0
"""`Run`: one process's share of a training run, that can be saved and goes on bit for bit."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from sigma_ros.camera_names import fitted_from, policy_keys, read_rename
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import CheckpointError
from sigma_ros.lerobot.configuration_sigma import SigmaPolicyConfig
from sigma_ros.lerobot.processor_sigma import contract_place, write_lerobot_files
from sigma_ros.model.checkpoint.folder import identify, save_checkpoint
from sigma_ros.model.checkpoint.manifest import Training
from sigma_ros.model.pi05.folder import open_base_folder
from sigma_ros.model.pi05.loading import load_base
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.telepathy import Recurrence
from sigma_ros.model.tokens import CameraMapping

from . import loop
from .cache import CacheSettings, cached_episodes
from .check_data import check_data
from .data import ShardData
from .held_out import WindowScores, score_windows, usual, usual_size
from .loop import (
    check_same_run,
    load_state,
    optimizer_tensors,
    refuse_nan,
    restore_optimizer,
    save_state,
    warmup_cosine,
)
from .losses import (
    FORESIGHT_TICKS,
    Foresight,
    LossWeights,
    SigmaLossModule,
    action_terms,
    carried,
    total,
    traf_weights,
    with_corrections,
)
from .options import LOSSES, PARTS, TrainOptions
from .plain import PlainFeeder, PlainLossModule
from .progress import estimate
from .streams import Assembler, Lateness, Segment, StreamPlace, Streams
from .telepathy_outputs import Believed, believed

RESIDUAL_WINDOWS = 4
"""Windows per stream and micro-step where the residual alone is trained."""
_GLANCED_EPISODES = 64
"""Pictures of so many episodes say what is usual."""
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
        settings = loop.model_settings(options, SigmaConfig.for_backbone(loaded.backbone, dof=contract.dof))
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
            estimate.say(estimate.memory(self.model, self.data))
        settings = CacheSettings(seed=self.options.noise_seed, phase_step=self.options.phase_step)
        with self.accelerator.main_process_first():
            same: dict[str, Any] = {"mapping": self.mapping, "base_fingerprint": self.base.fingerprint}
            self.episodes = cached_episodes(self.data, self.model, self.normalisation, settings, **same)
        split = {h: [i for i, e in enumerate(self.data.episodes) if e.held_out == h] for h in (False, True)}
        self.train_numbers, self.held_out_numbers = split[False], split[True]
        options, config = self.options, self.model.config
        lateness = Lateness(
            steps=config.residual_steps,
            delay_ticks=self.late_ticks,
            base_age_ticks=min(options.base_age_ticks, self.model.backbone.horizon - 1),
            seed=options.seed,
        )
        self.assembler = Assembler(self.episodes, self.normalisation, lateness)
        self.feeder = None
        if options.arm == "plain_lora":
            self.feeder = PlainFeeder(
                self.model, self.episodes, self.normalisation, mapping=self.mapping, cache_seed=options.noise_seed
            )
        self.streams = Streams(
            [self.episodes[n] for n in self.train_numbers],
            stride=config.memory_stride,
            phase_step=options.phase_step,
            seed=options.seed,
            unroll=options.unroll_windows,
        )

    def _prepare_training(self) -> None:
        options, count = self.options, self.options.gradient_accumulation_steps
        loop.start_glance(self.model, [self.episodes[n] for n in self.train_numbers[:_GLANCED_EPISODES]])
        if options.start_from:
            loop.begin_from(self.model, options.start_from, self.base)
        if options.renew_memory:
            loop.renew_memory(self.model, seed=options.seed)
        self.parameters: dict[str, Tensor] = loop.chosen_parts(self.model, options.train_parts)
        foresight = self._foresight()
        readers = (PARTS["residual"], "foresight.")
        self.optimizer = loop.optimizer_of(
            self.parameters, options.weight_decay, gains=dict.fromkeys(readers, options.residual_gain)
        )
        loss_module: torch.nn.Module = SigmaLossModule(
            self.model,
            gradient_checkpointing=options.gradient_checkpointing,
            hide_motion=options.hide_motion,
            foresight=foresight,
        )
        if self.feeder is not None:
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

    def _foresight(self) -> Foresight | None:
        """What L_fore is read off with, if it counts; it learns with the parts that the run trains."""
        if not self.options.foresight_weight:
            return None
        foresight = Foresight(self.model.config).to(self.model.backbone.device)
        self.parameters |= {f"foresight.{name}": parameter for name, parameter in foresight.named_parameters()}
        return foresight

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
        warmup = max(1, round(options.warmup_share * options.max_steps))
        rate = options.learning_rate * warmup_cosine(self.step, total=options.max_steps, warmup=warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["gain"]
        self.optimizer.zero_grad()
        values: dict[str, float] = {}
        for micro in range(count):
            last = micro == count - 1
            with nullcontext() if last else self.accelerator.no_sync(self.loss_module):
                parts = self.backward(micro)
            for name, part in parts.items():
                values[name] = values.get(name, 0.0) + float(self.accelerator.reduce(part, "mean")) / count
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), options.clip_norm)
        self.optimizer.step()
        self.step += 1
        return values | {"grad": float(norm), "lr": rate}

    def backward(self, micro: int) -> dict[str, Tensor]:
        """Adds the gradient of a micro-step to that of its step; returns the loss and its parts."""
        loss, parts, names = self._micro_step(micro)
        refuse_nan(float(loss.detach()), step=self.step, samples=names)
        self.accelerator.backward(loss / self.options.gradient_accumulation_steps)
        return {"loss": loss.detach(), **parts}

    def size(self, pieces: list[Segment]) -> int:
        """Of a micro-step's work: windows one behind the other, or ticks where there is no memory between them."""
        if self.believed is not None:
            return 1
        counts = [len(piece.rows) for piece in pieces]
        return max(counts) if self.feeder is None else sum(counts)

    def _micro_step(self, micro: int) -> tuple[Tensor, dict[str, Tensor], list[str]]:
        pieces = self.pieces(micro)
        if self.feeder is not None:
            return self._plain_step(micro, pieces)
        if self.believed is not None:
            return self._residual_step(micro, self.believed)
        device = self.model.backbone.device
        steps = max(self._gathered([len(piece.rows) for piece in pieces]))
        windows = [self.assembler.windows(pieces, step, late_at=self.step).to(device) for step in range(steps)]
        previous = carried(self.memories[micro], [piece.fresh for piece in pieces])
        texts = sorted(set(self._gathered(list(windows[0].tasks))))
        later = None
        if self.options.foresight_weight:
            ahead = [self.assembler.later(pieces, step, FORESIGHT_TICKS) for step in range(steps)]
            later = torch.cat(ahead).to(device)
        outcome = self.loss_module(windows, previous, texts, later)
        self.memories[micro] = Recurrence(memory=outcome.memory.detach(), factors=outcome.factors.detach())
        present = torch.cat([window.present for window in windows])
        error = torch.cat([window.base_error for window in windows])
        weights, share = self._weights(error, present, torch.cat([window.corrected for window in windows]))
        progress = self.step / self.options.max_steps
        loss, parts = total(outcome.terms, weights, present, self._scheme(), progress=progress, count=share)
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

    def pieces(self, micro: int) -> list[Segment]:
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
        given = {name: getattr(self.options, f"{name}_weight") for name in LOSSES}
        return LossWeights(**given, **{name: name not in self.options.ablate for name in ("traf", "tsac")})

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
        # A run from before corrections were known has none in its data, so that the weight has changed nothing; one
        # from before the gain had one rate for all, began with the memory that it was given and foresaw nothing.
        before = {"correction_weight": self.options.correction_weight, "residual_gain": 1.0, "renew_memory": False}
        before |= {"foresight_weight": 0.0}
        check_same_run(before | facts, self.facts, where=folder)
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"weight.{name}"])
        device = self.model.backbone.device
        stored = {n: t if n.startswith("adam.step.") else t.to(device) for n, t in tensors.items()}
        restore_optimizer(self.optimizer, self.parameters, stored)
        count = len(self.memories)
        self.memories = [Recurrence(memory=stored[f"memory.{i}"], factors=stored[f"factors.{i}"]) for i in range(count)]
        torch.random.set_rng_state(tensors["random"])
        if facts["step"] > self.options.max_steps:
            expected, got = f"--max_steps {facts['step']} or more", self.options.max_steps
            raise CheckpointError("the run is longer already", where=folder, expected=expected, got=got)
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
        options, data_hash = self.options, self.data.meta.hash
        training = Training(
            trained=True, steps=self.step, seed=options.seed, command=options.command(), data_hash=data_hash
        )
        save_checkpoint(
            self.model,
            folder,
            base=self.base,
            training=training,
            normalisation=self.normalisation,
            rename=self.rename,
            scores={f"held_out_{name}": value for name, value in scores.items()},
            overwrite=True,
        )
        write_lerobot_files(folder, SigmaPolicyConfig(contract=contract_place(options.contract), device="cpu"))
        return scores
