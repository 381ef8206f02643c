# SPDX-License-Identifier: Apache-2.0
"""python -m training.trials.risk: which signal tells early that an episode will fail, and at what false alarms.

Every signal is looked at up to the same time of each episode, so that a long episode is no signal. No episode is judged
by what it helped to calibrate (novelty's reference, the weights of signals together, the conformal threshold on
successes): the runs are cross-fitted in folds of episode seeds, or calibrate for the runs of `--judge`.

Example:
    python -m training.trials.risk --runs out/sim_seed0 out/sim_seed1 --until-s 5.4
    python -m training.trials.risk --runs out/sim_seed0 out/sim_seed1 --judge out/sim_other_set_up
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray
from rich.console import Console
from scipy import stats

from sigma_ros.errors import UsageError

from .. import exit_code
from .. import parser as command_parser
from .signals import COSTS, LoggedEpisode, read_episode

FALSE_ALARMS = 0.05
FOLDS = 5
_NEIGHBOURS = 5
_TOGETHER = ("disagreement", "novelty")
"""Signals that are free and that `together` adds, each in units of its spread over calibration successes."""


def auroc(
    scores: Float64[ndarray, " episodes"], failed: Bool[ndarray, " episodes"], *, resamples: int = 2000
) -> tuple[float, float, float]:
    """Chance that a failure scores higher than a success, with its 95 % bootstrap interval; NaN without both."""
    if failed.all() or not failed.any():
        return math.nan, math.nan, math.nan
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(scores), size=len(scores)) for _ in range(resamples)]
    found = [_auroc(scores[rows], failed[rows]) for rows in drawn if 0 < failed[rows].sum() < len(rows)]
    low, high = np.quantile(found, [0.025, 0.975])
    return _auroc(scores, failed), float(low), float(high)


def _auroc(scores: ndarray, failed: ndarray) -> float:
    ranks = stats.rankdata(scores)
    bad, good = int(failed.sum()), int((~failed).sum())
    return float((ranks[failed].sum() - bad * (bad + 1) / 2) / (bad * good))


def conformal_threshold(successes: Float64[ndarray, " episodes"], *, false_alarms: float = FALSE_ALARMS) -> float:
    """Smallest threshold that a fresh success exceeds with at most this chance (split conformal); infinite if too few.

    Source: Vovk, Gammerman, Shafer 2005: the ceil((n + 1)(1 - a))-th smallest calibration score.
    """
    place = math.ceil((len(successes) + 1) * (1.0 - false_alarms))
    return float(np.sort(successes)[place - 1]) if place <= len(successes) else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalRow:
    """How one signal did on episodes that did not calibrate it.

    `threshold` is the median over folds, `alarm_s` over failures that gave an alarm.
    """

    signal: str
    cost: str
    episodes: int
    failures: int
    auroc: tuple[float, float, float]
    threshold: float
    false_alarms: tuple[int, int]
    found: tuple[int, int]
    alarm_s: float


def with_novelty(episodes: Sequence[LoggedEpisode], reference: Sequence[LoggedEpisode]) -> list[LoggedEpisode]:
    """The episodes with their distance to the nearest embeddings of other reference episodes, in its own spreads."""
    width = np.concatenate([episode.embedding for episode in reference]).std(axis=0) + 1e-9
    return [replace(e, signals={**e.signals, "novelty": _novelty(e, reference, width)}) for e in episodes]


def _novelty(episode: LoggedEpisode, reference: Sequence[LoggedEpisode], width: ndarray) -> Float64[ndarray, " plans"]:
    others = [other.embedding for other in reference if other.name != episode.name]
    if not others:
        raise UsageError("novelty needs two calibration successes at least", got=f"{len(reference)}")
    known = np.concatenate(others) / width
    far = np.linalg.norm((episode.embedding / width)[:, None] - known[None], axis=2)
    return np.sort(far, axis=1)[:, : min(_NEIGHBOURS, len(known))].mean(axis=1)


def with_sum(episodes: Sequence[LoggedEpisode], reference: Sequence[LoggedEpisode]) -> list[LoggedEpisode]:
    """The episodes with `together`: signals added in units of their spread over the reference's plans."""
    pooled = {name: np.concatenate([e.signals[name] for e in reference]) for name in _TOGETHER}
    usual = {name: (float(values.mean()), float(values.std()) + 1e-9) for name, values in pooled.items()}

    def added(signals: Mapping[str, ndarray]) -> ndarray:
        return np.sum([(signals[name] - mean) / spread for name, (mean, spread) in usual.items()], axis=0)

    return [replace(e, signals={**e.signals, "together": added(e.signals)}) for e in episodes]


Split = tuple[Sequence[LoggedEpisode], Sequence[LoggedEpisode]]
"""Episodes that calibrate, and others that are judged."""


def folds(episodes: Sequence[LoggedEpisode]) -> list[Split]:
    """Every episode is judged once, by episodes of other episode seeds alone: the same brick fails alike."""
    seeds = sorted({episode.seed for episode in episodes})
    held_out = [set(seeds[i::FOLDS]) for i in range(min(FOLDS, len(seeds)))]
    return [([e for e in episodes if e.seed not in out], [e for e in episodes if e.seed in out]) for out in held_out]


def study(splits: Sequence[Split], *, until_s: float, false_alarms: float = FALSE_ALARMS) -> list[SignalRow]:
    """A row for each signal, over the judged episodes of all splits.

    Raises:
        UsageError: there is nothing to calibrate with, or nothing to judge.
    """
    judged: dict[str, list[_Judged]] = {name: [] for name in COSTS}
    for calibration, held_out in splits or [((), ())]:
        successes = [episode for episode in calibration if episode.success]
        if len(successes) < 2 or not held_out:
            got = f"{len(successes)} successes to calibrate with, {len(held_out)} episodes to judge"
            raise UsageError("too few episodes for a study of risk", expected="2 successes and 1 episode", got=got)
        reference = with_novelty(successes, successes)
        calm = with_sum(reference, reference)
        fresh = with_sum(with_novelty(held_out, successes), reference)
        for name, found in judged.items():
            found.extend(_judged(name, calm, fresh, until_s, false_alarms))
    return [_row(name, found) for name, found in judged.items() if found]


@dataclass(frozen=True, slots=True)
class _Judged:
    """One episode by one signal: its largest value, the threshold that held for it, and when it was first above."""

    failed: bool
    score: float
    threshold: float
    alarm_s: float | None


def _judged(
    name: str, calm: Sequence[LoggedEpisode], fresh: Sequence[LoggedEpisode], until_s: float, false_alarms: float
) -> list[_Judged]:
    usual = np.array([_largest(episode, name, until_s) for episode in calm if name in episode.signals])
    at = conformal_threshold(usual, false_alarms=false_alarms)
    return [
        _Judged(not e.success, _largest(e, name, until_s), at, _first_alarm_s(e, name, at, until_s))
        for e in fresh
        if name in e.signals and len(usual)
    ]


def _row(name: str, judged: Sequence[_Judged]) -> SignalRow:
    failed = np.array([one.failed for one in judged])
    alarms = [one.alarm_s for one in judged if one.failed and one.alarm_s is not None]
    false = sum(one.alarm_s is not None for one in judged if not one.failed)
    return SignalRow(
        signal=name,
        cost=COSTS[name],
        episodes=len(judged),
        failures=int(failed.sum()),
        auroc=auroc(np.array([one.score for one in judged]), failed),
        threshold=float(np.median([one.threshold for one in judged])),
        false_alarms=(false, int((~failed).sum())),
        found=(len(alarms), int(failed.sum())),
        alarm_s=float(np.median(alarms)) if alarms else math.nan,
    )


def _largest(episode: LoggedEpisode, name: str, until_s: float) -> float:
    return float(np.max(episode.signals[name][episode.times_s <= until_s], initial=-math.inf))


def _first_alarm_s(episode: LoggedEpisode, name: str, threshold: float, until_s: float) -> float | None:
    above = (episode.signals[name] > threshold) & (episode.times_s <= until_s)
    return float(episode.times_s[above][0]) if above.any() else None


def markdown(rows: Sequence[SignalRow]) -> str:
    """The table of docs/results.md."""
    lines = ["| signal | costs | AUROC | threshold | false alarms | failures found | median alarm |"]
    lines.append("| " + " | ".join(["---"] * 7) + " |")
    for row in rows:
        at, low, high = row.auroc
        failed = f"{row.failures} of {row.episodes} failed"
        alarm = "-" if math.isnan(row.alarm_s) else f"{row.alarm_s:.1f} s"
        lines.append(
            f"| {row.signal} | {row.cost} | {at:.2f} ({low:.2f} to {high:.2f}), {failed} "
            f"| {row.threshold:.3g} | {row.false_alarms[0]} of {row.false_alarms[1]} "
            f"| {row.found[0]} of {row.found[1]} | {alarm} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; 0 done, 2 usage."""
    parser = command_parser("trials.risk", __doc__)
    parser.add_argument("--runs", nargs="+", type=Path, required=True, help="folders of `sigma sim --log-chunks`")
    parser.add_argument("--judge", nargs="+", type=Path, default=(), help="judge these, by all of --runs")
    parser.add_argument("--latency-ms", default="*", help="of one latency alone: where it decides, it is no risk")
    parser.add_argument("--until-s", type=float, default=5.4, help="later plans are not looked at")
    parser.add_argument("--false-alarms", type=float, default=FALSE_ALARMS, help="share of successes that may alarm")
    given = parser.parse_args(argv)

    def run() -> int:
        episodes = _read(given.runs, given.latency_ms)
        splits = [(episodes, _read(given.judge, given.latency_ms))] if given.judge else folds(episodes)
        table = markdown(study(splits, until_s=given.until_s, false_alarms=given.false_alarms))
        Console(highlight=False, markup=False).print(table, soft_wrap=True)
        return 0

    return exit_code(run, interrupted="interrupted")


def _read(folders: Sequence[Path], latency_ms: str) -> list[LoggedEpisode]:
    logs = f"sigma_{latency_ms}_*.safetensors"
    return [read_episode(file) for folder in folders for file in sorted((folder / "chunks").glob(logs))]


if __name__ == "__main__":
    sys.exit(main())
