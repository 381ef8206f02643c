# SPDX-License-Identifier: Apache-2.0
r"""Says what each part of Sigma is worth, on held-out episodes, over several training seeds.

Every arm is trained as by `sigma train`, with the same settings and seeds; finished runs are kept, so an interrupted
study resumes. Arms are compared window by window with the untouched base and with the whole of Sigma.
Several processes may share a folder where their seeds or arms differ; a last call with all of them writes the page.

Examples:
    sigma study --base_model_id mini --dataset_dir data/target_shards --out out/study
    sigma study --dataset_dir data/target_shards --out out/study --arms sigma plain_lora --seeds 0 1 2

On real joints, state and text without a camera:
    sigma preprocess --dataset DATASET --contract cr5_joints --episodes $(seq 0 71) --image-size 112 \
        --hold-out-every 4 --out data/cr5_shards
    python -m training.toy.pretrain_mini --dataset_dir data/cr5_shards --contract cr5_joints --max_steps 600 \
        --output_dir out/cr5_base --augment 0
    sigma study --contract cr5_joints --base_model_id out/cr5_base/model --dataset_dir data/cr5_shards \
        --max_steps 60 --batch_size 8 --phase_step 16 --out out/study_cr5
"""

import argparse
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from rich.console import Console

from sigma_ros.border import whole
from sigma_ros.evaluation.scoring.metrics import SPANS, window_mse
from sigma_ros.evaluation.scoring.statistics import Comparison, compare

from . import exit_code, in_range
from . import parser as command_parser
from .held_out import WindowScores
from .options import ABLATIONS, TrainOptions, add_options, from_environment
from .progress.estimate import duration, say
from .train import run_training
from .trials.statistics import SeedChange, change_over_seeds
from .trials.study_page import write_page

ARMS = ("sigma", "plain_lora", *(f"without {part}" for part in ABLATIONS))
UNADAPTED = "sigma, scale 1"
"""The runs of `sigma` with the whole residual: what the adapter adds or costs."""

_ARRAYS = tuple(WindowScores.__dataclass_fields__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """One arm: errors per seed and window, the comparisons of their mean over seeds, and those between seeds."""

    name: str
    seeds: tuple[int, ...]
    errors: dict[str, Float64[ndarray, "seeds windows"]]
    against_base: dict[str, Comparison]
    against_sigma: dict[str, Comparison]
    seeds_against_sigma: dict[str, SeedChange]
    semantic_change: dict[str, float]


def arm_options(arm: str, common: TrainOptions) -> TrainOptions:
    """The training options of an arm."""
    if arm == "plain_lora":
        return replace(common, arm="plain_lora")
    return replace(common, ablate=(arm.removeprefix("without "),)) if arm.startswith("without ") else common


def _scores_file(arm: str, seed: int, out: Path) -> Path:
    return out / "runs" / f"{arm.replace(' ', '_')}_seed{seed}.npz"


def run_arm(arm: str, seed: int, common: TrainOptions, out: Path, *, alike: int = 1) -> WindowScores | None:
    """Scores of one run, from disk or trained now; None when it was interrupted. `alike` as in `run_training`."""
    file = _scores_file(arm, seed, out)
    if not file.is_file():
        place = out / "work" / file.stem
        options = replace(arm_options(arm, common), seed=seed, output_dir=str(place))
        resume = (place / "state").is_dir()
        run, complete = run_training(options, resume=resume, alike=alike)
        if not complete:
            return None
        scores = run.scores(run.held_out_numbers)
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as partial, partial.open("wb") as opened:
            np.savez_compressed(opened, **{name: getattr(scores, name) for name in _ARRAYS})
        shutil.rmtree(place)
    with np.load(file) as stored:
        return WindowScores(**{name: stored[name] for name in _ARRAYS})


def summarise(results: dict[str, dict[int, WindowScores]]) -> list[ArmResult]:
    """Every arm that has runs, compared with the base and with Sigma over the seeds that both have."""
    sigma = results.get("sigma", {})
    arms = {name: {s: one.sigma for s, one in runs.items()} for name, runs in results.items() if runs}
    if sigma:
        arms[UNADAPTED] = {seed: one.full for seed, one in sigma.items()}
    summary = []
    for name, squared in arms.items():
        own = results.get(name, sigma)
        first = next(iter(own.values()))
        shared = sorted(set(squared) & set(sigma))
        errors, against_base, against_sigma, seeds_against_sigma = {}, {}, {}, {}
        for span, steps in SPANS.items():
            ours = np.stack([window_mse(squared[seed], steps) for seed in sorted(squared)])
            errors[span] = ours
            base = window_mse(first.base, steps)
            against_base[span] = compare(base, ours.mean(axis=0), first.episode)
            if shared and name != "sigma":
                theirs = np.stack([window_mse(sigma[seed].sigma, steps) for seed in shared])
                mine = np.stack([window_mse(squared[seed], steps) for seed in shared])
                against_sigma[span] = compare(theirs.mean(axis=0), mine.mean(axis=0), first.episode)
                seeds_against_sigma[span] = change_over_seeds(theirs.mean(axis=1), mine.mean(axis=1))
        summary.append(
            ArmResult(
                name=name,
                seeds=tuple(sorted(squared)),
                errors=errors,
                against_base=against_base,
                against_sigma=against_sigma,
                seeds_against_sigma=seeds_against_sigma,
                semantic_change=_semantic_change(own),
            )
        )
    return summary


def _semantic_change(runs: dict[int, WindowScores]) -> dict[str, float]:
    """How far tau_l2 and sem_align with adapters are from those without, as a share; the card calls them similar."""
    changes = {}
    for name in ("tau_l2", "sem_align"):
        pairs = np.concatenate([getattr(one, name) for one in runs.values()])
        plain, adapted = pairs.mean(axis=0)
        changes[name] = float((adapted - plain) / plain) if plain else float("nan")
    return changes


def study(common: TrainOptions, arms: list[str], seeds: list[int], out: Path) -> bool:
    """Seed after seed, so that every arm has some before any has all; False when it was interrupted."""
    results: dict[str, dict[int, WindowScores]] = {arm: {} for arm in arms}
    left = [(seed, arm) for seed in seeds for arm in arms if not _scores_file(arm, seed, out).is_file()]
    say(f"{len(left)} of {len(arms) * len(seeds)} runs of {common.max_steps} steps to do")
    began_s, count = time.monotonic(), 0
    for seed in seeds:
        for arm in arms:
            new = (seed, arm) in left
            say(f"seed {seed}: {arm}")
            scores = run_arm(arm, seed, common, out, alike=len(left) - count)
            if scores is None:
                return False
            results[arm][seed] = scores
            count += new
            if new and count < len(left):
                rest_s = (time.monotonic() - began_s) / count * (len(left) - count)
                say(f"estimate from {count} done: {duration(rest_s)} for {len(left) - count} more runs")
        write_page(summarise(results), common, out)
    return True


_DEFAULTS: dict[str, Any] = {
    "base_model_id": "mini",
    "batch_size": 16,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-3,
    "phase_step": 16,
    "eval_every": 0,
}
"""Where a study differs from a single run."""


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("study", __doc__, argument_default=argparse.SUPPRESS)
    group = parser.add_argument_group("the study")
    group.add_argument("--out", type=Path, required=True, help="Folder for runs, results.md and results.svg.")
    group.add_argument(
        "--arms",
        nargs="+",
        choices=ARMS,
        metavar="ARM",
        default=list(ARMS),
        help=f"Any of {', '.join(ARMS)} (default all).",
    )
    group.add_argument(
        "--seeds",
        type=in_range(0),
        nargs="+",
        metavar="N",
        default=[0, 1, 2, 3, 4],
        help="Training seeds (default 0 to 4).",
    )
    each = parser.add_argument_group("every run")
    add_options(each, "base_model_id dataset_dir contract max_steps batch_size", defaults=_DEFAULTS)
    add_options(each, "learning_rate phase_step unroll log_with", defaults=_DEFAULTS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; exit codes 0 done, 1 failed, 2 usage, 130 interrupted (the same command resumes)."""
    given = vars(_arguments(argv))
    out, arms, seeds = (given.pop(name) for name in ("out", "arms", "seeds"))

    def run() -> int:
        common = TrainOptions(**_DEFAULTS | from_environment() | {"output_dir": str(out)} | given)
        if not study(common, arms, seeds, out):
            raise KeyboardInterrupt
        Console(stderr=True, markup=False).print(f"{out / 'results.md'}")
        return 0

    return exit_code(run, interrupted="interrupted; the same command resumes")


if __name__ == "__main__":
    sys.exit(main())
