# SPDX-License-Identifier: Apache-2.0
"""The stages of a new policy on a real arm, and the evidence that one needs of the stage before it.

shadow: the policy only proposes, beside an arm that somebody else moves. ghost: the supervisor decides too, and its
commands go nowhere. slow: the arm moves, bounded by the preset `cautious`. full: as it is meant. `stage_node` writes
the evidence. The standard library and `yaml` alone: launch files use it.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sigma_ros.border import write_text
from sigma_ros.contract_text import contract_yaml
from sigma_ros.errors import UsageError

STAGES = ("shadow", "ghost", "slow", "full")
FORMAT = "sigma_stage_1"
DAY_S = 86400.0
_LEAST_S = 60.0

Judge = Callable[[Mapping[str, float]], list[str]]


def _of_shadow(measured: Mapping[str, float]) -> list[str]:
    late, silent = measured["late_share"], measured["unhealthy_share"]
    return [
        *([f"{late:.0%} of the chunks came too late, 1% at most"] if late > 0.01 else []),
        *([f"the policy could not act for {silent:.0%} of the time, 5% at most"] if silent > 0.05 else []),
    ]


def _of_motion(measured: Mapping[str, float]) -> list[str]:
    said = {"violations": "limit violations", "stops": "stops"}
    found = [f"{measured[name]:.0f} {text}, none is allowed" for name, text in said.items() if measured[name]]
    held = measured["held_share"]
    return [*found, *([f"held for {held:.0%} of the time, 10% at most"] if held > 0.1 else [])]


_JUDGES: Mapping[str, Judge] = {"shadow": _of_shadow, "ghost": _of_motion, "slow": _of_motion, "full": _of_motion}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one run of a stage measured, and what it was a run of.

    `contract_hash`: of the contract's text with what it extends. `checkpoint` as it was given, `checkpoint_hash` as
    the policy said. `run`: random name; `ended_s`: seconds since 1970. `measured["seconds"]`: proposing or moving.
    """

    stage: str
    contract: str
    contract_hash: str
    checkpoint: str
    checkpoint_hash: str
    run: str
    ended_s: float
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def is_short(self) -> bool:
        """Whether the run was too short to say anything good."""
        return self.measured["seconds"] < _LEAST_S

    @property
    def failures(self) -> list[str]:
        """What was wrong, in words; empty where nothing was, however short the run."""
        return _JUDGES[self.stage](self.measured)

    def write(self, folder: Path) -> Path:
        """Writes `STAGE.json`, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self.stage}.json"
        write_text(file, json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")
        return file


def contract_hash(contract: str) -> str:
    """Identity of a contract's text."""
    return hashlib.sha256(contract_yaml(contract).encode()).hexdigest()


def read_evidence(file: Path) -> Evidence:
    """Reads what `write` wrote.

    Raises:
        UsageError: it is not there, or not evidence of this format.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if document.pop("format") != FORMAT:
            raise ValueError("another format")
        found = Evidence(**document)
        numbers = [found.ended_s, *found.measured.values()]
        if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
            raise ValueError("a number is missing")
        _ = found.failures, found.is_short
    except FileNotFoundError as error:
        raise UsageError(
            "there is no evidence of the stage before", where=file, remedy=f"run {_launch(file)}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError("the evidence cannot be read", where=file, got=error, remedy=f"run {_launch(file)}") from error
    return found


def _launch(file: Path) -> str:
    return f"ros2 launch sigma_ros bringup.launch.py stage:={file.stem}"


def required(
    stage: str, folder: Path, *, contract: str, checkpoint: str, days: float, waived: str, now_s: float
) -> Evidence | None:
    """The evidence that `stage` rests on; None for the first one, and where it is waived by its name.

    Raises:
        UsageError: it is absent, too old, of another contract or checkpoint, or bad; or `waived` names another stage.
    """
    before = STAGES[STAGES.index(stage) - 1] if stage != STAGES[0] else ""
    if waived:
        if waived != before:
            raise UsageError("that evidence is not asked for", where="waive", got=waived, expected=before or "nothing")
        return None
    if not before:
        return None
    file = folder / f"{before}.json"
    found = read_evidence(file)
    age_days = (now_s - found.ended_s) / DAY_S
    wrong = [
        *([f"it is of {found.stage}"] if found.stage != before else []),
        *([f"it is of another contract, {found.contract}"] if found.contract_hash != contract_hash(contract) else []),
        *([f"it is of another checkpoint, {found.checkpoint}"] if found.checkpoint != checkpoint else []),
        *([f"it is {age_days:.1f} days old"] if not 0.0 <= age_days <= days else []),
        *([f"that run lasted {found.measured['seconds']:.0f} s, {_LEAST_S:.0f} s at least"] if found.is_short else []),
        *found.failures,
    ]
    if wrong:
        raise UsageError(
            f"stage:={stage} rests on evidence of {before} that does not hold",
            where=file,
            got="; ".join(wrong),
            remedy=f"run {_launch(file)}, or take it on yourself with waive:={before}",
        )
    return found
