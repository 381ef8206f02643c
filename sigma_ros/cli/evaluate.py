# SPDX-License-Identifier: Apache-2.0
"""`sigma evaluate`: many bags on many workers, one summary."""

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import Progress

from sigma_ros.bags.files import find_bags
from sigma_ros.bags.losses import WITH_LOSSES
from sigma_ros.cli import shared_options as options
from sigma_ros.cli.replay_run import COMPLETE, adapter_settings, progress
from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import SigmaError, UsageError
from sigma_ros.evaluation.batch import BagRow, BatchSpec, Unit, checkpoint_stamp, finished, unit_of
from sigma_ros.evaluation.fleet import Workers, import_ray, run_units
from sigma_ros.evaluation.replay import ReplayOptions
from sigma_ros.evaluation.report.document import to_text
from sigma_ros.evaluation.report.summary import pool, summary_document, summary_page, write_rows
from sigma_ros.evaluation.report.write import write_files
from sigma_ros.evaluation.scoring.scores import conditions
from sigma_ros.policy.schedule import Schedule
from sigma_ros.stopping import INTERRUPTED, StopRequest, stop_on_signal
from sigma_ros.supervisor.limits import SupervisorLimits

if TYPE_CHECKING:
    from sigma_ros.bags.reader import Stamps
    from sigma_ros.model.runtime import SigmaRuntime


app = typer.Typer(no_args_is_help=True)


@app.command()
def evaluate(
    bags: Annotated[list[Path], typer.Argument(help="Bags, or folders of bags.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder for summary.json, summary.html, bags.parquet and bags/.")],
    checkpoint: options.Checkpoint,
    contract: options.ContractName = "so101",
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Ray workers, each with the model; 0: in this process, without Ray.")
    ] = 1,
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", help="A running Ray cluster (auto, or host:port).", show_default="this machine"),
    ] = None,
    cpus_per_worker: Annotated[float, typer.Option("--cpus-per-worker", min=0.1, help="For Ray's bookkeeping.")] = 1.0,
    gpus_per_worker: Annotated[
        float, typer.Option("--gpus-per-worker", min=0.0, help="A share lets several workers use one GPU.")
    ] = 0.0,
    task: options.Task = None,
    replan_ticks: options.ReplanTicks = 8,
    seed: options.Seed = 0,
    min_scale: options.MinScale = 0.0,
    max_scale: options.MaxScale = 1.0,
    risk_temperature: options.RiskTemperature = 1.0,
    supervisor: options.Supervised = True,
    allow_untrained: options.AllowUntrained = False,
    base: options.Base = None,
    revision: options.Revision = None,
    tokenizer: options.Tokenizer = None,
    device: options.Device = "auto",
    pages: Annotated[bool, typer.Option("--pages", help="A report.html for every bag too.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Losses make a bag fail, a failed bag the command.")] = False,
    recover: options.Recover = False,
    stamps: options.Stamps = "header",
    fresh: Annotated[bool, typer.Option("--fresh", help="Replay bags anew that an earlier run has finished.")] = False,
) -> None:
    """Replays and scores every bag; an earlier run's results are taken where bag, checkpoint and settings are the same.

    A bag that cannot be used becomes a row with its reason. The results do not depend on the number of workers.
    Exit codes: 0 complete, 3 complete with losses or failed bags, 1 none usable (or any, with --strict), 2 wrong usage,
    130 interrupted (run it again to go on).

    Example: sigma evaluate bags --checkpoint out/sigma --workers 2 --out out/evaluation
    """
    request = Request(
        bags=tuple(bags),
        out=out,
        checkpoint=checkpoint,
        contract=contract,
        workers=workers,
        ray_address=ray_address,
        per_worker=(cpus_per_worker, gpus_per_worker),
        task=task,
        replan_ticks=replan_ticks,
        scales=(min_scale, max_scale, risk_temperature),
        supervised=supervisor,
        loading={
            "device": device,
            "seed": seed,
            "allow_untrained": allow_untrained,
            "base": base,
            "revision": revision,
            "tokenizer": tokenizer,
        },
        pages=pages,
        strict=strict,
        recover=recover,
        stamps=stamps,
        fresh=fresh,
    )
    sys.exit(run(request))


# What `sigma evaluate` does: take what is finished, let workers do the rest, summarise.


FAILED = 1
MEMORY_STRIDE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The command's arguments; `loading` are those of `SigmaRuntime.load`, `per_worker` are CPUs and GPUs."""

    bags: tuple[Path, ...]
    out: Path
    checkpoint: str
    contract: str
    workers: int
    ray_address: str | None
    per_worker: tuple[float, float]
    task: str | None
    replan_ticks: int
    scales: tuple[float, float, float]
    supervised: bool
    loading: Mapping[str, Any]
    pages: bool
    strict: bool
    recover: bool
    stamps: str = "header"
    fresh: bool


def run(request: Request) -> int:
    """Evaluates, writes the summary, shows it; gives the exit code."""
    started_s = time.monotonic()
    contract = load_contract(request.contract)
    bags = find_bags(request.bags)
    if request.out.exists() and not request.out.is_dir():
        raise UsageError("the output is not a folder", where=request.out, remedy="give a folder to --out")
    if request.workers:
        import_ray()
    spec = _spec(request, contract)
    units = [unit_of(bag, spec) for bag in bags]
    kept = {} if request.fresh else {unit.bag: row for unit in units if (row := finished(unit)) is not None}
    with stop_on_signal() as stop:
        rows = _evaluate(units, kept, spec, _workers(request), stop)
        document = _summarise(rows, spec, complete=len(rows) == len(units), conditions=_conditions(request, contract))
    asked = len(units)
    _show(rows, document, request.out, kept=len(kept), asked=asked, took_s=time.monotonic() - started_s)
    return _exit_code(rows, complete=len(rows) == len(units), strict=request.strict)


def load_runtime(checkpoint: str, contract: Contract, loading: Mapping[str, Any]) -> "SigmaRuntime":
    """A worker's model."""
    from sigma_ros.model.runtime import SigmaRuntime  # noqa: PLC0415 - torch is for workers

    return SigmaRuntime.load(checkpoint, contract=contract, **loading)


def _spec(request: Request, contract: Contract) -> BatchSpec:
    options = ReplayOptions(
        settings=adapter_settings(request.scales),
        schedule=Schedule(request.replan_ticks, MEMORY_STRIDE),
        supervisor_limits=SupervisorLimits.for_replay() if request.supervised else None,
        task=request.task,
        strict=request.strict,
        recover=request.recover,
        stamps=cast("Stamps", request.stamps),
        ahead=True,
    )
    return BatchSpec(
        contract=contract,
        options=options,
        load=partial(load_runtime, request.checkpoint, contract, request.loading),
        out=request.out,
        stamp=checkpoint_stamp(request.checkpoint, **request.loading),
        pages=request.pages,
        conditions=_conditions(request, contract),
    )


def _workers(request: Request) -> Workers:
    cpus, gpus = request.per_worker
    return Workers(count=request.workers, address=request.ray_address, cpus=cpus, gpus=gpus)


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


def _summarise(
    rows: Sequence[BagRow], spec: BatchSpec, *, complete: bool, conditions: Mapping[str, object]
) -> dict[str, Any]:
    folders = [spec.out / "bags" / row.folder for row in rows if row.status != "failed"]
    pooled, first = pool(folders) or (None, {})
    document = summary_document(rows, pooled, first, complete=complete, conditions=conditions)
    try:
        spec.out.mkdir(parents=True, exist_ok=True)
        write_files(
            {
                "bags.parquet": lambda path: write_rows(rows, path),
                "summary.html": lambda path: path.write_text(summary_page(document), encoding="utf-8"),
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


def _conditions(request: Request, contract: Contract) -> dict[str, object]:
    return conditions(shlex.join(["sigma", *sys.argv[1:]]), checkpoint=request.checkpoint, contract=contract)
