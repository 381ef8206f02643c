# SPDX-License-Identifier: Apache-2.0
r"""python -m training.toy.pretrain_mini: the small pi0.5 learns simulated demonstrations of the source set-up.

LeRobot's own network and loss, on the shards of `training.preprocess`; several draws of noise and time per picture,
because the pictures are what costs; each picture is seen as another camera in another light would have taken it. With
`--scenes_dir` the vision tower also learns to say where things are, for `--locate_steps` alone and then beside the
flow (both: `training.toy.locate`). The weights that are kept are an exponential average over the steps.

Examples: the shipped model. `out/mini/model` takes the place of `sigma_ros/assets/mini` before its Sigma is trained,
`out/smooth/checkpoint` then that of `sigma_ros/assets/mini_sigma`; the last step changes a setting and no weight.

    sigma record --sim --setup source --episodes 160 --seed 1000 --jpeg 90 --disturb 0.05 --out data/source
    sigma record --sim --setup target --episodes 120 --seed 5000 --jpeg 90 --disturb 0.05 --out data/target
    python -m training.preprocess --bags data/source --image-size 112 --hold-out-every 16 --out data/source_shards
    python -m training.preprocess --bags data/target --image-size 112 --hold-out-every 4 --out data/target_shards
    python -m training.toy.pretrain_mini --dataset_dir data/source_shards --output_dir out/first --max_steps 2300 \
        --augment 0
    python -m training.toy.pretrain_mini --dataset_dir data/source_shards --output_dir out/second --max_steps 1100 \
        --init_model out/first/model --learning_rate 7e-4 --warmup_steps 60
    python -m training.toy.locate --setups 600 --seed 3000 --out data/scenes
    python -m training.toy.locate --setups 600 --seed 3001 --out data/scenes
    python -m training.toy.pretrain_mini --dataset_dir data/source_shards --output_dir out/vision --max_steps 2600 \
        --scenes_dir data/scenes --init_model out/second/model --augment 0 --locate_steps 2600 --warmup_steps 50
    python -m training.toy.pretrain_mini --dataset_dir data/source_shards --output_dir out/mini --max_steps 600 \
        --scenes_dir data/scenes --init_model out/vision/model --augment 0.7 --locate_steps 50 --warmup_steps 50 \
        --learning_rate 5e-4
    python -m training.train --base_model_id mini --dataset_dir data/target_shards --output_dir out/mini_sigma \
        --batch_size 16 --gradient_accumulation_steps 1 --max_steps 1200 --learning_rate 1e-3 --phase_step 8 \
        --hide_motion 0.3
    python -m training.preprocess --simulated target --count 42 --seed 5000 --disturb 0.05 --image-size 112 \
        --hold-out-every 7 --out data/late_shards
    python -m training.train --base_model_id mini --start_from out/mini_sigma/checkpoint --train_parts residual \
        --dataset_dir data/late_shards --output_dir out/late --batch_size 16 --gradient_accumulation_steps 1 \
        --max_steps 1200 --learning_rate 5e-4 --phase_step 4 --hide_motion 0.3
    python -m training.preprocess --simulated target --count 220 --seed 6000 --disturb 0.05 --missed 0.35 \
        --image-size 112 --out data/missed_shards
    python -m training.train --base_model_id mini --start_from out/late/checkpoint --train_parts residual \
        --dataset_dir data/missed_shards --output_dir out/missed --batch_size 16 --gradient_accumulation_steps 1 \
        --max_steps 2400 --learning_rate 5e-4 --phase_step 4 --hide_motion 0.3
    python -m training.train --base_model_id mini --start_from out/missed/checkpoint --train_parts residual \
        --dataset_dir data/missed_shards --output_dir out/smooth --batch_size 16 --gradient_accumulation_steps 1 \
        --max_steps 1 --learning_rate 0 --phase_step 4 --hide_motion 0.3 --smoothed_steps 11
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from rich.console import Console
from torch import Tensor

from sigma_ros.camera_names import policy_keys, seated
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import DatasetError
from sigma_ros.model.normalise import Normalisation
from sigma_ros.model.pi05.backbone import Backbone
from sigma_ros.model.pi05.flow import flow_noise
from sigma_ros.model.pi05.folder import open_base_folder
from sigma_ros.model.pi05.loading import save_base
from sigma_ros.model.pi05.mini import MINI, build_mini
from sigma_ros.model.pi05.weights import fill_policy
from sigma_ros.model.tokens import CameraMapping
from sigma_ros.stopping import INTERRUPTED, stop_on_signal

from .. import exit_code
from .. import parser as command_parser
from ..data import EpisodeRows, ShardData
from ..loop import (
    TrainingLog,
    check_same_run,
    load_state,
    optimizer_tensors,
    refuse_nan,
    restore_optimizer,
    save_state,
    warmup_cosine,
)
from ..toy.locate import Locator, Scenes, augmented

_STEP_STREAM = 1
_NOISE_STREAM = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainOptions:
    """Settings of a run; all of them are needed to repeat it.

    `augment` is the strength of `locate.augmented` (0: pictures as they were taken); `init_model` a checkpoint folder
    whose weights the run begins with (empty: random ones). `scenes_dir` is a folder of `training.toy.locate` (empty:
    the flow alone); its task has weight `locate_weight`, `locate_batch` pictures a step and the first `locate_steps`
    alone.
    """

    contract: str = "so101"
    seed: int = 0
    max_steps: int = 3000
    batch_size: int = 32
    draws: int = 2
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    average_decay: float = 0.995
    dtype: str = "bfloat16"
    augment: float = 1.0
    init_model: str = ""
    scenes_dir: str = ""
    locate_batch: int = 64
    locate_steps: int = 0
    locate_weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Pictures, normalised states and actions of some ticks."""

    mapping: CameraMapping
    images: UInt8[Tensor, "batch cameras h w 3"]
    states: Float[np.ndarray, "batch dof"]
    actions: Float[Tensor, "batch horizon dof"]
    tasks: tuple[str, ...]
    names: tuple[str, ...]


class Ticks:
    """Every valid tick with a recorded action of one split, as samples."""

    def __init__(
        self,
        episodes: tuple[EpisodeRows, ...],
        normalisation: Normalisation,
        horizon: int,
        mapping: CameraMapping,
    ) -> None:
        self._episodes = episodes
        self._mapping = mapping
        self._normalisation = normalisation
        self._horizon = horizon
        self.index = [
            (number, int(row))
            for number, episode in enumerate(episodes)
            for row in np.flatnonzero(episode.valid & episode.acted)
        ]
        if not self.index:
            raise DatasetError("no tick to learn from", expected="episodes with valid ticks in this split")

    def draw(self, count: int, *, seed: int, step: int) -> Batch:
        """The batch of a step: a function of seed and step alone."""
        return self.batch(np.random.default_rng([seed, _STEP_STREAM, step]).integers(len(self.index), size=count))

    def spread(self, count: int) -> Batch:
        """Evenly spaced samples, the same at every call."""
        return self.batch(np.linspace(0, len(self.index) - 1, num=min(count, len(self.index))).astype(int))

    def batch(self, places: Int[np.ndarray, " batch"]) -> Batch:
        """The samples at these places of `index`."""
        chosen = [self.index[place] for place in places]
        rows = [(self._episodes[number], row) for number, row in chosen]
        actions = np.stack([episode.actions_from(row, self._horizon) for episode, row in rows])
        frames = [episode.frames(row, row + 1) for episode, row in rows]
        return Batch(
            mapping=self._mapping,
            images=self._mapping.images(np.concatenate(frames)),
            states=self._normalisation.state.normalise(np.stack([episode.states[row] for episode, row in rows])),
            actions=torch.from_numpy(self._normalisation.action.normalise(actions)),
            tasks=tuple(episode.task for episode, _ in rows),
            names=tuple(f"episode {episode.episode} tick {row}" for episode, row in rows),
        )


def read_batch(backbone: Backbone, batch: Batch) -> dict[str, Any]:
    """What `Backbone.prefix` takes; the prompt is cut to the longest of the batch."""
    count, mapping = len(batch.names), batch.mapping
    pairs = [backbone.tokenize(task, batch.states[i : i + 1]) for i, task in enumerate(batch.tasks)]
    mask = torch.cat([mask for _, mask in pairs])
    longest = int(mask.sum(dim=1).max())
    return {
        "image_tokens": mapping.patches(batch.images, backbone),
        "image_mask": mapping.mask(count, backbone.device),
        "tokens": torch.cat([tokens for tokens, _ in pairs])[:, :longest],
        "mask": mask[:, :longest],
    }


def autocast(backbone: Backbone, options: PretrainOptions) -> torch.autocast:
    """Bfloat16 where the options ask for it."""
    return torch.autocast(backbone.device.type, dtype=torch.bfloat16, enabled=options.dtype == "bfloat16")


def flow_loss(backbone: Backbone, batch: Batch, *, options: PretrainOptions, step: int) -> Tensor:
    """Pi0.5's loss of a batch; noise and times are a function of seed and step."""
    core, count = backbone.policy.model, len(batch.names)
    seed = np.random.SeedSequence([options.seed, _NOISE_STREAM, step]).generate_state(1)[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed))
        noise = torch.randn(count, options.draws, backbone.horizon, backbone.max_dof)
        time = core.sample_time(count * options.draws, torch.device("cpu")).unflatten(0, (count, options.draws))
    dof = batch.actions.shape[2]
    actions = torch.nn.functional.pad(batch.actions, (0, backbone.max_dof - dof)).to(backbone.device)
    with autocast(backbone, options):
        prefix = backbone.prefix(**read_batch(backbone, batch))
        losses = backbone.flow_loss(
            prefix, actions=actions, noise=noise.to(backbone.device), time=time.to(backbone.device)
        )
    return losses[..., :dof].float().mean()


@torch.no_grad()
def chunk_errors(backbone: Backbone, batch: Batch) -> dict[str, float]:
    """Mean squared error of whole chunks against the recorded actions, on 1, 8, 16 and all steps."""
    sizes = {"horizon": backbone.horizon, "max_dof": backbone.max_dof}
    noise = torch.cat([flow_noise(seed=0, epoch=0, tick=i, **sizes) for i in range(len(batch.names))])
    chunks = backbone.base_chunk(**read_batch(backbone, batch), noise=noise)[..., : batch.actions.shape[2]]
    squared = (chunks.cpu() - batch.actions).square().mean(dim=(0, 2))
    spans = {"mse_vec": 1, "mse_chk": 8, "mse_trj": 16, "mse_all": backbone.horizon}
    return {name: float(squared[:steps].mean()) for name, steps in spans.items()}


class PretrainRun:
    """Weights, their average and the optimizer of one run."""

    def __init__(self, data: ShardData, options: PretrainOptions) -> None:
        self.options = options
        self.data = data
        contract = load_contract(options.contract)
        self.backbone = build_mini(contract, options.seed)
        self.normalisation = data.meta.statistics
        if options.init_model:
            folder = open_base_folder(options.init_model)
            fill_policy(self.backbone.policy, folder.path, self.backbone.device)
            self.normalisation = folder.normalisation or self.normalisation
        self.backbone.policy.train()
        self.parameters = {
            name: parameter.requires_grad_(True)  # noqa: FBT003
            for name, parameter in self.backbone.policy.named_parameters()
        }
        self.locator: Locator | None = None
        if options.scenes_dir:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(options.seed)
                self.locator = Locator(Scenes.open(Path(options.scenes_dir)), self.backbone.width)
            self.parameters |= {f"locator.{name}": p for name, p in self.locator.named_parameters()}
        self.average = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=options.learning_rate, weight_decay=options.weight_decay, betas=(0.9, 0.98)
        )
        self.step = 0
        cameras = seated(policy_keys(contract), self.backbone.camera_keys, where=f"contract {contract.name}")
        mapping = CameraMapping.of(contract, cameras)
        reading = (self.normalisation, self.backbone.horizon, mapping)
        self.train = Ticks(data.split(held_out=False), *reading)
        held_out = data.split(held_out=True)
        self.held_out = Ticks(held_out, *reading) if held_out else None

    @property
    def facts(self) -> dict[str, object]:
        """What a resumed run must share."""
        return {**asdict(self.options), "data": self.data.meta.hash}

    def advance(self) -> dict[str, float]:
        """One optimizer step; returns its losses.

        Raises:
            SigmaError: a loss is not finite.
        """
        options = self.options
        losses: dict[str, Tensor] = {}
        names: tuple[str, ...] = ("scenes",)
        if self.locator is None or self.step >= options.locate_steps:
            batch = self.train.draw(options.batch_size, seed=options.seed, step=self.step)
            names = batch.names
            images = augmented(batch.images, strength=options.augment, seed=options.seed, step=self.step)
            batch = replace(batch, images=images)
            losses["loss"] = flow_loss(self.backbone, batch, options=options, step=self.step)
        if self.locator is not None:
            with autocast(self.backbone, options):
                losses["locate"] = self.locator.loss(
                    self.backbone, count=options.locate_batch, seed=options.seed, step=self.step
                )
        weights = {"loss": 1.0, "locate": options.locate_weight}
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        refuse_nan(float(loss.detach()), step=self.step, samples=list(names))
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * warmup_cosine(
                self.step, total=options.max_steps, warmup=options.warmup_steps
            )
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), options.clip_norm)
        self.optimizer.step()
        decay = min(options.average_decay, (1 + self.step) / (10 + self.step))
        averages, values = list(self.average.values()), [p.detach() for p in self.parameters.values()]
        torch._foreach_lerp_(averages, values, 1.0 - decay)
        self.step += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def save(self, folder: Path) -> None:
        """All that `restore` needs."""
        tensors = {f"weight.{name}": tensor for name, tensor in self.parameters.items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        tensors |= optimizer_tensors(self.optimizer, self.parameters)
        save_state(folder, tensors, {**self.facts, "step": self.step})

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        """Goes on where `save` was called."""
        tensors, facts = load_state(folder)
        check_same_run(facts, self.facts, where=folder)
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"weight.{name}"])
            self.average[name].copy_(tensors[f"average.{name}"])
        restore_optimizer(self.optimizer, self.parameters, tensors)
        self.step = facts["step"]

    @torch.no_grad()
    def averaged_errors(self, count: int) -> dict[str, float]:
        """Chunk errors of the averaged weights on held-out ticks."""
        if self.held_out is None and self.locator is None:
            return {}
        kept = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._put(self.average)
        self.backbone.policy.eval()
        errors = {} if self.held_out is None else chunk_errors(self.backbone, self.held_out.spread(count))
        if self.locator is not None:
            errors["brick_error_px"] = self.locator.brick_error_px(self.backbone)
        self.backbone.policy.train()
        self._put(kept)
        return errors

    @torch.no_grad()
    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])

    def export(self, folder: Path, *, made_by: str) -> None:
        """Writes the averaged weights in bfloat16 as a checkpoint folder."""
        self._put(self.average)
        self.backbone.policy.eval()
        save_base(
            self.backbone,
            folder,
            sizes=MINI,
            normalisation=self.normalisation,
            trained=True,
            made_by=made_by,
            weights_dtype=torch.bfloat16,
        )


def train(run: PretrainRun, out: Path, *, eval_every: int, save_every: int) -> bool:
    """Steps until the end (True) or a signal (False); the state is saved in both cases."""
    options = run.options
    log = TrainingLog(total_steps=options.max_steps, first_step=run.step, samples_per_step=options.batch_size)
    with stop_on_signal() as stop, log:
        while run.step < options.max_steps and not stop:
            losses = run.advance()
            log.step(run.step - 1, {**losses, "lr": run.optimizer.param_groups[0]["lr"]})
            if run.step % eval_every == 0 or run.step == options.max_steps:
                log.scores(run.step, run.averaged_errors(64))
            if run.step % save_every == 0:
                run.save(out)
        run.save(out)
    return run.step >= options.max_steps


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    defaults = PretrainOptions()
    parser = command_parser("toy.pretrain_mini", __doc__)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of training.preprocess")
    parser.add_argument("--output_dir", type=Path, required=True, help="state and logs; the model goes to DIR/model")
    for name, value in asdict(defaults).items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"default {value}")
    parser.add_argument("--eval_every", type=int, default=500, help="steps between looks at held-out ticks")
    parser.add_argument("--save_every", type=int, default=100, help="steps between saved states")
    parser.add_argument("--resume", action="store_true", help="go on with the state in --output_dir")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; exit codes 0 done, 1 failed, 2 usage, 130 interrupted (--resume goes on)."""
    args = _arguments(argv)
    return exit_code(lambda: _run(args), interrupted="interrupted before the state was saved")


def _run(args: argparse.Namespace) -> int:
    console = Console(stderr=True, markup=False)
    options = PretrainOptions(**{name: getattr(args, name) for name in asdict(PretrainOptions())})
    run = PretrainRun(ShardData.open(args.dataset_dir), options)
    if args.resume:
        run.restore(args.output_dir)
    if not train(run, args.output_dir, eval_every=args.eval_every, save_every=args.save_every):
        console.print(f"stopped after step {run.step}; --resume goes on")
        return INTERRUPTED
    given = " ".join(f"--{name} {value}" for name, value in asdict(options).items())
    run.export(args.output_dir / "model", made_by=f"python -m {__package__}.pretrain_mini {given}")
    console.print(f"{args.output_dir / 'model'}: a trained small pi0.5 after {run.step} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
