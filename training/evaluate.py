# SPDX-License-Identifier: Apache-2.0
r"""Scores a checkpoint on held-out episodes: CHECK A and CHECK B, Sigma against its untouched base in one pass.

Every window goes through the robot's own runtime. Held-out episodes are the score; training episodes stand beside
them, so that overfitting shows. `python -m training.evaluate` is the same command.

Examples:
    sigma train-eval --checkpoint out/sigma/checkpoint --dataset_dir data/target_shards --out out/evaluation
    sigma train-eval --checkpoint mini --dataset_dir data/target_shards --out out/evaluation \
        --seeds 0 1 2 3 4 --ablate memory lora pictures --train_episodes 0
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sigma_ros.camera_names import NO_RENAME, read_rename
from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import UsageError
from sigma_ros.evaluation.log import ReplayLog
from sigma_ros.evaluation.report.document import plain, to_text
from sigma_ros.evaluation.report.write import refuse_existing, write_files, write_report
from sigma_ros.evaluation.scoring.score import score
from sigma_ros.evaluation.scoring.scores import ArmScores, Scores, conditions
from sigma_ros.model.loading import open_checkpoint, required_normalisation
from sigma_ros.model.runtime import SigmaRuntime

from . import exit_code, in_range
from . import parser as command_parser
from .check_data import check_data
from .data import EpisodeRows, ShardData
from .held_out import replay_shard
from .loop import counted_progress
from .progress.estimate import duration, say

REPORT, CHECK_A, CHECK_B = "sigma_eval_report.json", "sigma_eval_checkA.json", "sigma_eval_checkB.json"
PICTURES = "pictures"
"""Of the next episode are shown, to the base too. Where the scores stay as they are, the policy does not look."""

ABLATIONS = ("memory", "lora", PICTURES)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """What to evaluate, and how `SigmaRuntime.load` finds it. `train_episodes` None takes all of the training split."""

    checkpoint: str
    contract: Contract
    data: ShardData
    seeds: tuple[int, ...]
    ablate: tuple[str, ...]
    train_episodes: int | None
    allow_untrained: bool
    command: str
    rename: Mapping[str, str] = NO_RENAME
    base: str | None = None
    revision: str | None = None
    tokenizer: str | None = None
    device: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOutcome:
    """Logs and scores of one arm of the evaluation: a split, a seed, and what was switched off."""

    split: str
    seed: int
    ablated: str | None
    logs: tuple[ReplayLog, ...]
    scores: Scores


def evaluate(plan: EvaluationPlan) -> list[EvaluationOutcome]:
    """Every split and seed, then every ablation on held-out episodes with the first seed."""
    place: dict[str, Any] = {"contract": plan.contract, "base": plan.base, "revision": plan.revision}
    place["rename"] = plan.rename
    opened = open_checkpoint(plan.checkpoint, **place)
    check_data(plan.data, opened.base, plan.contract, required_normalisation(opened), opened.camera_keys)
    runtime = SigmaRuntime.load(
        plan.checkpoint,
        **place,
        device=plan.device,
        tokenizer=plan.tokenizer,
        allow_untrained=plan.allow_untrained,
    )
    held_out, train = plan.data.split(held_out=True), plan.data.split(held_out=False)
    splits = {"held out": held_out, "train": train[: plan.train_episodes]}
    jobs: list[tuple[str, int, str | None]] = [
        (split, seed, None) for split, episodes in splits.items() for seed in plan.seeds if episodes
    ]
    jobs += [("held out", plan.seeds[0], part) for part in plan.ablate if held_out]
    if not jobs:
        raise UsageError("there is nothing to evaluate", where=plan.data.folder, expected="episodes in a split")
    outcomes = []
    count, began_s = sum(len(splits[split]) for split, _, _ in jobs), time.monotonic()
    with counted_progress() as progress:
        bar = progress.add_task("episodes", total=count)
        for split, seed, part in jobs:
            logs = []
            with switched_off(runtime, part):
                runtime.seed = seed
                episodes = splits[split]
                for episode, following in zip(episodes, (*episodes[1:], *episodes[:1]), strict=True):
                    logs.append(_log(episode, runtime, plan, following if part == PICTURES else None))
                    progress.advance(bar)
                    if (split, seed, part) == jobs[0] and len(logs) == 1 < count:
                        left_s = (count - 1) * (time.monotonic() - began_s)
                        say(f"estimate from the first of {count} episodes: {duration(left_s)} for the others")
            outcomes.append(
                EvaluationOutcome(split=split, seed=seed, ablated=part, logs=tuple(logs), scores=score(*logs))
            )
    return outcomes


def _log(
    episode: EpisodeRows, runtime: SigmaRuntime, plan: EvaluationPlan, pictures_of: EpisodeRows | None
) -> ReplayLog:
    entry = next(e for e in plan.data.meta.episodes if e["shard"] == episode.path.name)
    name = f"{Path(entry['recording']).name} ({'held out' if episode.held_out else 'train'})"
    sha256 = plan.data.meta.files[episode.path.name]
    return replay_shard(episode, runtime, plan.contract, name=name, sha256=sha256, pictures_of=pictures_of)


@contextmanager
def switched_off(runtime: SigmaRuntime, part: str | None) -> Iterator[None]:
    """While open, Sigma runs without its memory or without its adapters."""
    model = runtime.model
    if part in (None, PICTURES) or model.telepathy is None:
        yield
        return
    kept = model.telepathy.use_memory, model.reader
    if part == "memory":
        model.telepathy.use_memory = False
    elif part == "lora":
        model.reader = model.plain_reader
    else:
        raise UsageError("this part cannot be switched off", expected=", ".join(ABLATIONS), got=part)
    try:
        yield
    finally:
        model.telepathy.use_memory, model.reader = kept


def write_evaluation(outcomes: Sequence[EvaluationOutcome], plan: EvaluationPlan, out: Path, *, force: bool) -> None:
    """The card's three JSON files, and the replay's report of the held-out episodes with the first seed."""
    first = outcomes[0]
    facts = conditions(plan.command, checkpoint=plan.checkpoint, contract=plan.contract)
    write_report(first.logs, first.scores, out, conditions=facts, force=force)
    documents: dict[str, object] = {
        CHECK_A: check_a(first),
        CHECK_B: {_title(outcome): check_b(outcome.scores) for outcome in outcomes},
        REPORT: {
            "conditions": facts,
            "data": {"hash": plan.data.meta.hash, "source": plan.data.meta.source},
            "arms": [_arm(outcome) for outcome in outcomes],
            "over seeds": over_seeds([o for o in outcomes if o.ablated is None and o.split == first.split]),
        },
    }
    writers: dict[str, Callable[[Path], object]] = {
        name: lambda path, document=document: path.write_text(_text(document), encoding="utf-8")  # type: ignore[misc]
        for name, document in documents.items()
    }
    write_files(writers, out)


def check_a(outcome: EvaluationOutcome) -> dict[str, object]:
    """The card's geometry check: the heads are the same in both arms; factors and alignment should be alike."""
    heads, scores = outcome.logs[0].policy.details["heads"], outcome.scores
    return {
        arm: {"heads": heads, "avg_tau_l2": one.tau_l2, "avg_semantic_text_alignment": one.sem_align}
        for arm, one in (("baseline", scores.baseline), ("sigma", scores.sigma))
    }


def check_b(scores: Scores) -> dict[str, object]:
    """The card's score table with its counts."""
    names = ("mse_vec", "mse_chk", "mse_trj", "tau_l2", "sem_align")

    def row(arm: ArmScores) -> dict[str, float]:
        return {name: getattr(arm, name) for name in names}

    return {
        "samples": scores.samples,
        "batches": scores.batches,
        "baseline": row(scores.baseline),
        "sigma": row(scores.sigma),
    }


def over_seeds(outcomes: Sequence[EvaluationOutcome]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over noise seeds of each relative gain (negative is better)."""
    gains = {name: [o.scores.comparison[name].relative for o in outcomes] for name in outcomes[0].scores.comparison}
    return {name: {"mean": float(np.mean(v)), "std": float(np.std(v)), "seeds": len(v)} for name, v in gains.items()}


def _arm(outcome: EvaluationOutcome) -> dict[str, object]:
    scores = outcome.scores
    return {
        "split": outcome.split,
        "seed": outcome.seed,
        "switched off": outcome.ablated,
        "episodes": len(outcome.logs),
        **check_b(scores),
        "comparison": {name: asdict(one) | {"relative": one.relative} for name, one in scores.comparison.items()},
        "adapter": {"scale_mean": scores.adapter.scale_mean, "risk_error_rho": scores.adapter.risk_error_rho},
    }


def _title(outcome: EvaluationOutcome) -> str:
    part = f"without {outcome.ablated}" if outcome.ablated != PICTURES else "another episode's pictures"
    return f"{outcome.split}, seed {outcome.seed}{', ' + part if outcome.ablated else ''}"


def _text(document: object) -> str:
    ready = plain(document)
    assert isinstance(ready, dict)
    return to_text(ready)


def show(outcomes: Sequence[EvaluationOutcome], out: Path) -> None:
    """Prints CHECK B with intervals, and where the files are."""
    table = Table("episodes", "score", "base", "Sigma", "change", "95 % interval", "p")
    for outcome in outcomes:
        for name, one in outcome.scores.comparison.items():
            table.add_row(
                _title(outcome),
                name,
                f"{one.baseline:.5f}",
                f"{one.sigma:.5f}",
                f"{one.relative:+.1%}",
                f"{one.relative_low:+.1%} .. {one.relative_high:+.1%} ({one.unit}s)",
                f"{one.p_value:.2g}",
            )
    console = Console(markup=False)
    console.print(table)
    console.print(f"{out}: {REPORT}, {CHECK_A}, {CHECK_B}, report.html")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("evaluate", __doc__)
    parser.add_argument("--checkpoint", required=True, help="Sigma checkpoint folder, or mini.")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="Folder of `sigma preprocess`.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the JSON files and report.html.")
    parser.add_argument("--force", action="store_true", help="Replace an evaluation in --out.")
    scores = parser.add_argument_group("what is scored")
    scores.add_argument(
        "--seeds", type=in_range(0), nargs="+", default=[0], metavar="N", help="Seeds of the flow noise (default 0)."
    )
    scores.add_argument(
        "--ablate",
        nargs="*",
        choices=ABLATIONS,
        default=[],
        help="Also without these parts; pictures: with the next episode's (default none).",
    )
    scores.add_argument("--train_episodes", type=in_range(0), metavar="N", help="Of the training split (default all).")
    model = parser.add_argument_group("model")
    model.add_argument("--contract", default="so101", help="Contract file or name (default so101).")
    model.add_argument(
        "--rename", nargs="+", default=[], metavar="KEY=KEY", help="Cameras of a base without Sigma: up=base_0_rgb."
    )
    model.add_argument("--base", metavar="PLACE", help="Where the base of a Sigma checkpoint is now.")
    model.add_argument("--revision", help="Hub revision of --base, else of --checkpoint.")
    model.add_argument("--tokenizer", metavar="PLACE", help="Folder or Hub id of the tokenizer.")
    model.add_argument("--device", default="auto", help="Torch device; auto, the default: a GPU if there is one.")
    model.add_argument("--allow_untrained", action="store_true", help="Accept a base with random weights.")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; exit codes 0 done, 1 failed, 2 usage, 130 interrupted."""
    given = sys.argv[1:] if argv is None else argv
    args = vars(_arguments(given))

    def run() -> int:
        out, force = args.pop("out"), args.pop("force")
        refuse_existing(out, force=force)
        plan = EvaluationPlan(
            contract=load_contract(args.pop("contract")),
            data=ShardData.open(args.pop("dataset_dir")),
            seeds=tuple(args.pop("seeds")),
            ablate=tuple(args.pop("ablate")),
            command=shlex.join(["python", "-m", f"{__package__}.evaluate", *given]),
            rename=read_rename(args.pop("rename")),
            **args,
        )
        outcomes = evaluate(plan)
        write_evaluation(outcomes, plan, out, force=force)
        show(outcomes, out)
        return 0

    return exit_code(run, interrupted="interrupted; nothing was written")


if __name__ == "__main__":
    sys.exit(main())
