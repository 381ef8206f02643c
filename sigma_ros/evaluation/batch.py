# SPDX-License-Identifier: Apache-2.0
"""Many bags: one bag is one unit of work, whose result is a folder and a row. A pure function of bag and settings.

Whoever runs the units (this process, or workers on a cluster) decides nothing about the numbers.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from sigma_ros import __version__
from sigma_ros.bags.files import file_stamp, files_size_bytes, files_stamp
from sigma_ros.border import read_json, write_text
from sigma_ros.contract import Contract
from sigma_ros.errors import SigmaError
from sigma_ros.evaluation.log import ReplayLog
from sigma_ros.evaluation.replay import Hooks, ReplayOptions, replay
from sigma_ros.evaluation.report.document import SCHEMA, plain
from sigma_ros.evaluation.report.write import write_report
from sigma_ros.evaluation.scoring.score import score
from sigma_ros.evaluation.scoring.scores import Scores
from sigma_ros.policy.schedule import Schedule

if TYPE_CHECKING:
    from sigma_ros.model.runtime import SigmaRuntime

UNIT = "unit.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec:
    """What every unit has in common; travels to the workers. `load` makes the runtime, once per worker.

    The model's own memory stride takes the place of the one in `options`. `stamp` names the checkpoint's content, so
    that a resumed evaluation knows whether it is still the same.
    """

    contract: Contract
    options: ReplayOptions
    load: "Callable[[], SigmaRuntime]"
    out: Path
    stamp: str
    pages: bool
    conditions: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class BagRow:
    """One bag's result; a bag that could not be replayed has the `reason` and no numbers. NaN: undefined.

    Everything but `wall_s` is the same whoever computed it.
    """

    bag: str
    folder: str
    name: str
    status: Literal["complete", "losses", "failed"]
    reason: str = ""
    sha256: str = ""
    task: str = ""
    duration_s: float = math.nan
    samples: int = 0
    ticks: int = 0
    invalid_ticks: int = 0
    epochs: int = 0
    baseline_mse_vec: float = math.nan
    baseline_mse_chk: float = math.nan
    baseline_mse_trj: float = math.nan
    sigma_mse_vec: float = math.nan
    sigma_mse_chk: float = math.nan
    sigma_mse_trj: float = math.nan
    commanded_mse_vec: float = math.nan
    commanded_mse_chk: float = math.nan
    commanded_mse_trj: float = math.nan
    baseline_tau_l2: float = math.nan
    baseline_sem_align: float = math.nan
    sigma_tau_l2: float = math.nan
    sigma_sem_align: float = math.nan
    scale_mean: float = math.nan
    supervisor_ticks: int = 0
    commanded: int = 0
    requested_scale_mean: float = math.nan
    applied_scale_mean: float = math.nan
    clipped: int = 0
    holds: int = 0
    violations: int = 0
    breaches: int = 0
    losses: int = 0
    checksummed: bool = True
    wall_s: float = 0.0


MEASURED = ("wall_s",)
"""Fields of a row that differ from run to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A bag and the folder for its result; `fingerprint` changes with anything that could change the result."""

    bag: Path
    folder: Path
    fingerprint: str
    size_bytes: int


def unit_of(bag: Path, spec: BatchSpec) -> Unit:
    """The unit for a bag. Its files' sizes and times stand for their content: hashing waits for the worker."""
    files = files_stamp(bag)
    settings = [spec.contract, spec.options, spec.stamp, spec.pages, __version__, SCHEMA]
    text = json.dumps([files, *(repr(value) for value in settings)])
    name = f"{bag.name}-{hashlib.sha256(str(bag.resolve()).encode()).hexdigest()[:8]}"
    return Unit(
        bag=bag,
        folder=spec.out / "bags" / name,
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
        size_bytes=max(1, files_size_bytes(bag)),
    )


def finished(unit: Unit) -> BagRow | None:
    """The row of an earlier run, if it is of this very unit and nothing was wrong with it; failures are tried again."""
    try:
        kept = cast(dict[str, Any], read_json(unit.folder / UNIT))
        values: dict[str, Any] = {key: math.nan if value is None else value for key, value in kept["row"].items()}
        row = BagRow(**values)
    except (SigmaError, KeyError, TypeError, AttributeError):
        return None
    return row if kept.get("fingerprint") == unit.fingerprint and row.status != "failed" else None


def evaluate(unit: Unit, spec: BatchSpec, runtime: "SigmaRuntime") -> BagRow:
    """Replays and scores one bag, leaves its report in the unit's folder, and gives its row.

    Whatever is wrong with the bag becomes the row's reason, also what nobody foresaw: one bag must not end the others.
    """
    started_ns = time.perf_counter_ns()
    schedule = Schedule(spec.options.schedule.replan_ticks, runtime.memory_stride)
    options = replace(spec.options, schedule=schedule, pictures=spec.pages)
    try:
        log = replay(unit.bag, contract=spec.contract, runtime=runtime, options=options, hooks=Hooks())
        scores = score(log)
        write_report([log], scores, unit.folder, conditions=spec.conditions, force=True, page=spec.pages)
    except SigmaError as error:
        return failed(unit, str(error), wall_s=_since_s(started_ns))
    except Exception as error:
        return failed(unit, f"{type(error).__name__}: {error}", wall_s=_since_s(started_ns))
    row = _row(unit, log, scores, wall_s=_since_s(started_ns))
    keep(unit, row)
    return row


def failed(unit: Unit, reason: str, *, wall_s: float = 0.0) -> BagRow:
    """The row of a bag without numbers; also kept in the unit's folder."""
    row = BagRow(
        bag=str(unit.bag), folder=unit.folder.name, name=unit.bag.name, status="failed", reason=reason, wall_s=wall_s
    )
    keep(unit, row)
    return row


def keep(unit: Unit, row: BagRow) -> None:
    """Writes the row beside the unit's report; where it stands, the unit is done.

    Raises:
        SigmaError: the disk refused it.
    """
    told = {"fingerprint": unit.fingerprint, "row": plain(asdict(row))}
    try:
        unit.folder.mkdir(parents=True, exist_ok=True)
        write_text(unit.folder / UNIT, json.dumps(told, indent=1))
    except OSError as error:
        raise SigmaError("a bag's result could not be written", where=unit.folder, got=error) from error


def _row(unit: Unit, log: ReplayLog, scores: Scores, *, wall_s: float) -> BagRow:
    arms = {"baseline": scores.baseline, "sigma": scores.sigma}
    known = asdict(scores.supervisor) | asdict(scores.episodes[0])
    known |= {f"{arm}_{name}": getattr(of, name) for arm, of in arms.items() for name in ("tau_l2", "sem_align")}
    known |= {
        "bag": str(unit.bag),
        "folder": unit.folder.name,
        "name": log.bag.name,
        "status": "losses" if log.losses else "complete",
        "sha256": log.bag.sha256,
        "task": log.run.task,
        "duration_s": log.bag.duration_s,
        "supervisor_ticks": scores.supervisor.ticks,
        "losses": sum(log.losses.values()),
        "checksummed": log.bag.checksummed,
        "wall_s": wall_s,
    }
    return BagRow(**{field.name: known[field.name] for field in fields(BagRow) if field.name in known})


def _since_s(started_ns: int) -> float:
    return (time.perf_counter_ns() - started_ns) / 1e9


def checkpoint_stamp(checkpoint: str, **given: Any) -> str:
    """Names a checkpoint's content by its files' names, sizes and times, or by its id, and how it is loaded."""
    place = Path(checkpoint).expanduser()
    files = [file_stamp(file) for file in sorted(place.rglob("*")) if file.is_file()] if place.is_dir() else []
    text = json.dumps([str(checkpoint), files, given], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
