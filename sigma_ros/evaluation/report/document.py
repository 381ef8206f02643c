# SPDX-License-Identifier: Apache-2.0
"""`report.json` as a document: scores, facts and conditions. Its schema is `docs/report.schema.json`.

Everything but `timing` and `conditions` is the same, byte for byte, when a replay is repeated.
NaN and infinity have no place in JSON and become null.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from sigma_ros.contract import Contract
from sigma_ros.evaluation.log import SCORED_STEPS, ReplayLog
from sigma_ros.evaluation.scoring.scores import CommandedScores, ErrorScores, Scores, SweepScores
from sigma_ros.evaluation.scoring.statistics import Comparison
from sigma_ros.evaluation.scoring.verdict import setups_of, verdict_of
from sigma_ros.policy.schedule import SCORE_STRIDE_TICKS

SCHEMA = "sigma_ros/report/2"
STUDIES = ("semantics", "latency")
"""Top-level keys that are null unless they were asked for."""

MEASURED_KEYS = ("timing", "conditions")
"""Top-level keys that may differ between two replays of the same recording."""


def report_document(
    logs: Sequence[ReplayLog],
    scores: Scores,
    conditions: Mapping[str, object],
    extras: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """The whole report as plain JSON values, in the order a reader wants; `extras` are optional studies."""
    first = logs[0]
    verdict = verdict_of(logs, scores)
    document = {
        "schema": SCHEMA,
        "complete": scores.complete,
        "verdict": asdict(verdict),
        "samples": scores.samples,
        "batches": scores.batches,
        "baseline": _arm(scores.baseline, first.contract),
        "sigma": _arm(scores.sigma, first.contract),
        "commanded": commanded_values(scores.commanded, first.contract),
        "comparison": comparisons(scores.comparison),
        "adapter": {**asdict(scores.adapter), "settings": asdict(first.run.settings)},
        "supervisor": {"enabled": first.run.supervised, **asdict(scores.supervisor)},
        "sweep": sweep_values(scores.sweep),
        "smoothness": asdict(scores.smoothness),
        "ticks": _ticks(logs),
        "episodes": [
            {**asdict(row), "sha256": log.bag.sha256, "duration_s": log.bag.duration_s, "task": log.run.task}
            for log, row in zip(logs, scores.episodes, strict=True)
        ],
        "checkpoint": {
            "hash": first.policy.checkpoint_hash,
            "trained": first.policy.trained,
            "sigma_trained": first.policy.sigma_trained,
            "base": first.policy.base_id,
            "details": dict(first.policy.details),
        },
        "bag": _bags(logs),
        "contract": {"name": first.contract.name, "fps": first.contract.fps, "joints": first.contract.joint_names},
        "replay": _replay(logs),
        **{name: (extras or {}).get(name) for name in STUDIES},
        "timing": asdict(scores.timing),
        "conditions": dict(conditions),
    }
    values = plain(document)
    assert isinstance(values, dict)
    return values


def to_text(document: Mapping[str, object]) -> str:
    """The document as indented JSON with a newline at the end."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def commanded_values(commanded: CommandedScores, contract: Contract) -> dict[str, object]:
    """What was commanded as a document."""
    return {**_arm(commanded, contract), "comparison": comparisons(commanded.comparison)}


def comparisons(rows: Mapping[str, Comparison]) -> dict[str, object]:
    """Comparisons by the error they are of, as a document."""
    return {name: comparison_values(row) for name, row in rows.items()}


def _arm(arm: ErrorScores, contract: Contract) -> dict[str, object]:
    by_joint = {
        key: {
            joint: {span: values[i] for span, values in getattr(arm, key).items()}
            for i, joint in enumerate(contract.joint_names)
        }
        for key in ("joint_mse", "joint_rmse_deg")
    }
    return {**asdict(arm), **by_joint}


def sweep_values(sweep: SweepScores) -> dict[str, object]:
    """The sweep over fixed scales as a document."""
    return {**asdict(sweep), "adapter_against_best": comparison_values(sweep.adapter_against_best)}


def comparison_values(comparison: Comparison) -> dict[str, object]:
    """A comparison as a document, with what follows from its numbers."""
    return {**asdict(comparison), "relative": comparison.relative, "verdict": comparison.verdict}


def _replay(logs: Sequence[ReplayLog]) -> dict[str, object]:
    run = logs[0].run
    return {
        "mode": run.mode,
        "tasks": sorted({log.run.task for log in logs}),
        "replan_ticks": run.replan_ticks,
        "memory_stride": run.memory_stride,
        "seed": run.seed,
        "score_stride_ticks": SCORE_STRIDE_TICKS,
        "scored_steps": SCORED_STEPS,
    }


def _ticks(logs: Sequence[ReplayLog]) -> dict[str, object]:
    reasons: Counter[str] = Counter()
    for log in logs:
        reasons.update(log.ticks.reasons)
    return {
        "total": sum(len(log.ticks) for log in logs),
        "invalid": sum(log.losses.get("invalid_ticks", 0) for log in logs),
        "without_action": sum(log.ticks.without_action for log in logs),
        "inferences": sum(len(log.inferences) for log in logs),
        "published_chunks": sum(entry.published for log in logs for entry in log.inferences),
        "reasons": dict(sorted(reasons.items())),
    }


def _bags(logs: Sequence[ReplayLog]) -> dict[str, object]:
    """One recording's facts, or those of all: durations and losses added, the hash over the sorted hashes."""
    hashes = [log.bag.sha256 for log in logs]
    losses: Counter[str] = Counter()
    for log in logs:
        losses.update(log.losses)
    return {
        "count": len(logs),
        "name": ", ".join(log.bag.name for log in logs),
        "sha256": hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest(),
        "duration_s": sum(log.bag.duration_s for log in logs),
        "messages": sum(log.bag.messages for log in logs),
        "setup": ", ".join(setups_of(logs)),
        "storage": ", ".join(sorted({log.bag.storage for log in logs})),
        "checksummed": all(log.bag.checksummed for log in logs),
        "losses": dict(sorted(losses.items())),
    }


def plain(value: object) -> object:
    """JSON values: tuples become lists, NaN and infinity null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"{type(value).__name__} has no place in a report: {value!r}")
