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
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration
from rich.console import Console

from sigma_ros.addresses import push_folder
from sigma_ros.errors import MachineError, UsageError
from sigma_ros.model.pi05.places import check_pushable
from sigma_ros.stopping import INTERRUPTED, stop_on_signal

from . import exit_code
from .loop import TrainingLog
from .options import TrainOptions, read_options
from .progress import estimate
from .run import Run

CHECKPOINT = "checkpoint"


def _start_tracking(options: TrainOptions, accelerator: Accelerator, *, first_step: int) -> None:
    if options.log_with == "none":
        return
    own = {"tensorboard": {"purge_step": first_step}}
    named = {"name": Path(options.output_dir).name}
    accelerator.init_trackers(
        "sigma", config={"command": options.command()}, init_kwargs={options.log_with: own.get(options.log_with, named)}
    )


def train(run: Run, out: Path, *, alike: int = 1) -> bool:
    """Says the time, then steps until the end (True) or a signal (False); the state is saved in both cases."""
    options, accelerator = run.options, run.accelerator
    main = accelerator.is_main_process
    if run.step < options.max_steps:
        told = estimate.steps(run, alike=alike)
        if main:
            estimate.say(told)
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


def run_training(options: TrainOptions, *, resume: bool, overwrite: bool = False, alike: int = 1) -> tuple[Run, bool]:
    """The whole of a run; True when it came to its end and the checkpoint is written.

    `overwrite` replaces a run that is in the output folder, `resume` goes on with it; so many runs `alike` are to be
    done, for the estimate of time.

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
    complete = train(run, out, alike=alike)
    accelerator.wait_for_everyone()
    if complete and accelerator.is_main_process:
        run.export(out / CHECKPOINT)
        if options.push_to_hub:
            push_folder(out / CHECKPOINT, options.push_to_hub, kind="model", private=options.private)
    return run, complete


def main(argv: list[str] | None = None) -> int:
    """Runs the command; exit codes 0 done, 1 failed, 2 usage, 130 interrupted (--resume goes on)."""
    return exit_code(lambda: _run(argv), interrupted="interrupted before the state was saved")


def _run(argv: list[str] | None) -> int:
    console = Console(stderr=True, markup=False)
    options, resume, overwrite = read_options(argv, __doc__)
    run, complete = run_training(options, resume=resume, overwrite=overwrite)
    if not complete:
        console.print(f"stopped after step {run.step}; --resume goes on")
        return INTERRUPTED
    if run.accelerator.is_main_process:
        console.print(f"{Path(options.output_dir) / CHECKPOINT}: trained for {run.step} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
