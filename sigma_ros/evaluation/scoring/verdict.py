# SPDX-License-Identifier: Apache-2.0
"""What the scores allow to say, in words. A report opens with these sentences; they promise nothing more."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sigma_ros.evaluation.log import ReplayLog
from sigma_ros.evaluation.scoring.scores import CommandedScores, Scores, SupervisorScores
from sigma_ros.evaluation.scoring.statistics import Comparison
from sigma_ros.supervisor.reasons import Reason

SHARE_WITHOUT_ACTION = 0.1
"""From this share of valid ticks without a recorded action on, the verdict says so."""

PRIMARY = "mse_trj"
"""The score that decides: the whole 16-step trajectory."""


_SETUPS = {"source": ": the base's own training set-up, so there is little for Sigma to correct"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """`headline` is one sentence about what was commanded, `supervised` how that differs from what Sigma proposed.

    `supervised` is empty where no supervisor took part. `warnings` must be read before the numbers; `notes` limit what
    they mean.
    """

    headline: str
    supervised: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def verdict_of(logs: Sequence[ReplayLog], scores: Scores) -> Headline:
    """Judges pooled replays of one checkpoint."""
    trained = all(log.policy.trained and log.policy.sigma_trained for log in logs)
    supervised = any(log.run.supervised for log in logs)
    headline = headline_of(scores.comparison, scores.commanded) if trained else _untrained_headline(scores)
    return Headline(
        headline=headline,
        supervised=supervised_line(scores.comparison, scores.commanded, scores.supervisor) if supervised else "",
        warnings=_warnings(logs, scores),
        notes=_notes(logs, scores),
    )


def headline_of(proposed: Mapping[str, Comparison], commanded: CommandedScores) -> str:
    """About the commands where the supervisor gave any in the scored windows, else about what was proposed."""
    comparison = proposed[PRIMARY]
    if not comparison.units:
        return "Nothing was scored: no valid tick on the 16-tick raster has 16 recorded actions from there on."
    if comparison.verdict == "equal":
        return "Sigma equals its base exactly on this recording: every residual was zero, or scaled to zero."
    if not commanded.windows:
        return f"Proposed only, nothing was commanded: {_judged(comparison)}"
    return f"After the supervisor, {_judged(commanded.comparison[PRIMARY])}"


def _judged(comparison: Comparison) -> str:
    if comparison.verdict == "better":
        return f"Sigma beats its base: {_change(comparison)}."
    if comparison.verdict == "worse":
        return f"Sigma is worse than its base: {_change(comparison)}."
    return f"Sigma does not beat its base: {_change(comparison)}; chance alone could explain it."


def supervised_line(
    proposed: Mapping[str, Comparison], commanded: CommandedScores, supervisor: SupervisorScores
) -> str:
    """What was proposed, what of it was held back and why, and how far off that leaves the commands."""
    comparison = proposed[PRIMARY]
    parts = [f"Proposed by Sigma: {_change(comparison)}."] if comparison.units else []
    if supervisor.held_back_ticks and supervisor.held_back_share > 0.0:
        parts.append(
            f"The supervisor held back {supervisor.held_back_share:.0%} of the residual, "
            f"in {supervisor.held_back_ticks} of {supervisor.commanded} ticks "
            f"({_reasons(supervisor.held_back_reasons)})."
        )
    elif supervisor.commanded:
        parts.append("The supervisor held nothing of the residual back.")
    else:
        parts.append("The supervisor commanded nothing.")
    if commanded.windows:
        parts.append(
            f"The commands are {commanded.commanded_rmse_deg:.1f}° off the recording, "
            f"Sigma's chunks {commanded.sigma_rmse_deg:.1f}°, the base's {commanded.baseline_rmse_deg:.1f}° (RMS)."
        )
    return " ".join(parts)


def setups_of(logs: Sequence[ReplayLog]) -> list[str]:
    """The simulated set-ups that the recordings name."""
    return sorted({log.bag.setup for log in logs} - {""})


def _reasons(counts: Mapping[str, int]) -> str:
    """The commonest first, each with what it means."""
    ordered = sorted(counts.items(), key=lambda entry: -entry[1])
    return "; ".join(f"{count}: {reason_text(name)}" for name, count in ordered)


def reason_text(name: str) -> str:
    """A supervisor's reason in words; a tick without one turns the scale down only while it is still rising."""
    if name == Reason.OK.name:
        return "the scale was still rising"
    return f"{Reason[name].sentence} ({name})" if name in Reason.__members__ else name


def _untrained_headline(scores: Scores) -> str:
    """Random weights can neither win nor lose."""
    comparison = scores.comparison[PRIMARY]
    if scores.samples and comparison.verdict == "equal":
        return "The path works: an untrained Sigma equals its base exactly, as it must."
    nothing = headline_of(scores.comparison, scores.commanded) if not scores.samples else ""
    return f"No verdict on an untrained model. {nothing}".rstrip()


def _change(comparison: Comparison) -> str:
    if not comparison.baseline:
        return f"{PRIMARY} {comparison.sigma:.3g} against 0 of the base"
    less = "lower" if comparison.difference < 0.0 else "higher"
    text = f"{PRIMARY} is {abs(comparison.relative):.1%} {less}"
    if math.isnan(comparison.low):
        return f"{text} on a single {comparison.unit}, which gives no interval"
    units = f"{comparison.units} {comparison.unit}{'s' if comparison.units != 1 else ''}"
    spread = f"{comparison.relative_low:+.1%} to {comparison.relative_high:+.1%}"
    return f"{text} ({comparison.confidence:.0%} interval {spread}, {units})"


def _warnings(logs: Sequence[ReplayLog], scores: Scores) -> tuple[str, ...]:
    warnings = []
    if not all(log.policy.trained for log in logs):
        warnings.append("UNTRAINED MODEL: the weights are random; the numbers show that the path works, nothing else.")
    elif not all(log.policy.sigma_trained for log in logs):
        warnings.append("UNTRAINED SIGMA: its residual is zero by construction, so it equals its base.")
    if not scores.complete:
        warnings.append("INCOMPLETE: the replay was stopped before the recording's end.")
    losses = sum(sum(log.losses.values()) for log in logs)
    if losses:
        warnings.append(f"LOSSES: {losses} messages or ticks of the recording could not be used; see Conditions.")
    valid = sum(int(log.ticks.valid.sum()) for log in logs)
    without = sum(log.ticks.without_action for log in logs)
    if without > SHARE_WITHOUT_ACTION * valid:
        warnings.append(
            f"PARTLY WITHOUT ACTIONS: {without} of {valid} valid ticks have no recorded action; "
            "the verdict does not speak of them."
        )
    if scores.supervisor.violations or scores.supervisor.breaches:
        warnings.append(
            f"LIMITS BROKEN: {scores.supervisor.violations} violations by the supervisor's count, "
            f"{scores.supervisor.breaches} by the report's. This must never happen; please report it."
        )
    if any(log.bag.stamps == "log" for log in logs):
        warnings.append("TIMES OF RECORDING: header stamps were not used, so pictures and joints may be out of step.")
    if not all(log.bag.checksummed for log in logs):
        warnings.append("UNVERIFIABLE: a recording carries no checksums, so damage to it could go unnoticed.")
    return tuple(warnings)


def _notes(logs: Sequence[ReplayLog], scores: Scores) -> tuple[str, ...]:
    notes = [
        "Both arms come from one run: the baseline is the base policy's chunk, Sigma is that chunk plus scale times "
        "residual. The recorded arm does not answer to the commands, so this measures imitation, not success."
    ]
    if scores.commanded.windows:
        notes.append(
            "After the supervisor: its commands at the times of a window's steps. The later steps come from a newer "
            "chunk, which base and Sigma, drawn from one chunk a window, do not have."
        )
    notes += [f"Recorded in the simulated set-up {name}{_SETUPS.get(name, '')}." for name in setups_of(logs)]
    comparison = scores.comparison[PRIMARY]
    if scores.samples and comparison.unit == "window":
        count = len(scores.episodes)
        these = "this recording" if count == 1 else "these recordings"
        notes.append(
            f"With {count} recording{'' if count == 1 else 's'} the interval is over windows; windows of one recording "
            f"resemble each other, so it speaks for {these} only."
        )
    rho, p_value = scores.adapter.risk_error_rho, scores.adapter.risk_error_p
    if not math.isnan(rho):
        link = "shows no link to" if p_value >= 0.05 else "rises with" if rho > 0.0 else "falls with"
        notes.append(f"The adapter's risk {link} the error here: rank correlation {rho:+.2f}, p {p_value:.2g}.")
    return tuple(notes)
