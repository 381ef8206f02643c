# SPDX-License-Identifier: Apache-2.0
"""What `sigma evaluate` does: take what is finished, let workers do the rest, summarise."""

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from sigma_ros.bags.files import find_bags
from sigma_ros.bags.losses import WITH_LOSSES
from sigma_ros.cli.options import UNKNOWN_STRIDE
from sigma_ros.cli.scores.evaluate import EvaluateRequest
from sigma_ros.cli.scores.replay_run import COMPLETE, progress
from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import SigmaError
from sigma_ros.evaluation.batch import BagRow, BatchSpec, Unit, checkpoint_stamp, finished, unit_of
from sigma_ros.evaluation.fleet import Workers, import_ray, run_units
from sigma_ros.evaluation.report.document import to_text
from sigma_ros.evaluation.report.summary import pool, summary_document, summary_page, write_rows
from sigma_ros.evaluation.report.write import refuse_unwritable, write_files
from sigma_ros.evaluation.scoring.scores import conditions
from sigma_ros.stopping import INTERRUPTED, StopRequest, stop_on_signal

if TYPE_CHECKING:
    from sigma_ros.model.runtime import SigmaRuntime

FAILED = 1


def run(request: EvaluateRequest) -> int:
    """Evaluates, writes the summary, shows it; gives the exit code."""
    started_s = time.monotonic()
    contract = load_contract(request.contract)
    bags = find_bags(request.bags)
    refuse_unwritable(request.out)
    if request.workers:
        import_ray()
    spec = _spec(request, contract)
    units = [unit_of(bag, spec) for bag in bags]
    kept = {} if request.fresh else {unit.bag: row for unit in units if (row := finished(unit)) is not None}
    workers = Workers(
        count=request.workers,
        address=request.ray_address,
        cpus=request.cpus_per_worker,
        gpus=request.gpus_per_worker,
    )
    with stop_on_signal() as stop:
        rows = _evaluate(units, kept, spec, workers, stop)
        complete = len(rows) == len(units)
        document = _summarise(rows, spec, complete=complete)
    _show(rows, document, request.out, kept=len(kept), asked=len(units), took_s=time.monotonic() - started_s)
    return _exit_code(rows, complete=complete, strict=request.strict)


def load_runtime(checkpoint: str, contract: Contract, loading: Mapping[str, Any]) -> "SigmaRuntime":
    """A worker's model."""
    from sigma_ros.model.runtime import SigmaRuntime  # noqa: PLC0415 - torch is for workers

    return SigmaRuntime.load(checkpoint, contract=contract, **loading)


def _spec(request: EvaluateRequest, contract: Contract) -> BatchSpec:
    loading = request.loading()
    return BatchSpec(
        contract=contract,
        options=request.replaying(memory_stride=UNKNOWN_STRIDE, strict=request.strict),
        load=partial(load_runtime, request.checkpoint, contract, loading),
        out=request.out,
        stamp=checkpoint_stamp(request.checkpoint, **loading),
        pages=request.pages,
        conditions=conditions(shlex.join(["sigma", *sys.argv[1:]]), checkpoint=request.checkpoint, contract=contract),
    )


def _evaluate(
    units: Sequence[Unit], kept: Mapping[Path, BagRow], spec: BatchSpec, workers: Workers, stop: StopRequest
) -> list[BagRow]:
    open_units = [unit for unit in units if unit.bag not in kept]
    with progress() as bar:
        task = bar.add_task(_counted(0, len(open_units)), total=float(sum(unit.size_bytes for unit in open_units)))
        new = run_units(open_units, spec, workers, on_row=_teller(bar, task, len(open_units)), stopped=stop)
    fresh = {Path(row.bag): row for row in new}
    return [row for unit in units if (row := kept.get(unit.bag) or fresh.get(unit.bag)) is not None]


def _teller(bar: Progress, task: Any, total: int) -> Callable[[BagRow, Unit], None]:
    done = {"bags": 0}

    def on_row(row: BagRow, unit: Unit) -> None:
        done["bags"] += 1
        bar.update(task, advance=float(unit.size_bytes), description=_counted(done["bags"], total))
        if row.status == "failed":
            bar.console.print(f"{row.bag}: {row.reason}", style="yellow", highlight=False)

    return on_row


def _counted(done: int, total: int) -> str:
    return f"{done} of {total} bags"


def _summarise(rows: Sequence[BagRow], spec: BatchSpec, *, complete: bool) -> dict[str, Any]:
    folders = [spec.out / "bags" / row.folder for row in rows if row.status != "failed"]
    pooled, first = pool(folders) or (None, {})
    document = summary_document(rows, pooled, first, complete=complete, conditions=spec.conditions)
    page = summary_page(document, pages=spec.pages)
    try:
        spec.out.mkdir(parents=True, exist_ok=True)
        write_files(
            {
                "bags.parquet": lambda path: write_rows(rows, path),
                "summary.html": lambda path: path.write_text(page, encoding="utf-8"),
                "summary.json": lambda path: path.write_text(to_text(document), encoding="utf-8"),
            },
            spec.out,
        )
    except OSError as error:
        raise SigmaError("the summary could not be written", where=spec.out, got=error) from error
    return document


def _show(
    rows: Sequence[BagRow], document: Mapping[str, Any], out: Path, *, kept: int, asked: int, took_s: float
) -> None:
    console = Console(highlight=False, markup=False)
    for warning in document["verdict"]["warnings"]:
        console.print(warning, style="bold yellow")
    console.print(document["verdict"]["headline"], style="bold")
    supervisor = document["supervisor"]
    if supervisor["applied_scale_mean"] is not None:
        applied, wanted = supervisor["applied_scale_mean"], supervisor["requested_scale_mean"]
        console.print(f"scale {applied:.2f} applied of {wanted:.2f} asked for")
    bags = document["bags"]
    console.print(
        f"{bags['complete'] + bags['with_losses']} of {asked} bags usable ({kept} from an earlier run"
        f"{f', {asked - len(rows)} not reached' if len(rows) < asked else ''}), "
        f"{document['samples']} windows, {bags['duration_s'] / 60.0:.1f} min of recording in {took_s:.0f} s"
    )
    console.print(f"summary: {out / 'summary.html'}\n         {out / 'summary.json'}", soft_wrap=True)


def _exit_code(rows: Sequence[BagRow], *, complete: bool, strict: bool) -> int:
    if not complete:
        return INTERRUPTED
    failures = sum(row.status == "failed" for row in rows)
    if failures == len(rows) or (strict and failures):
        return FAILED
    return WITH_LOSSES if any(row.status != "complete" for row in rows) else COMPLETE
