# SPDX-License-Identifier: Apache-2.0
"""What `sigma replay` does: check everything that is cheap, load the model, replay each bag, write the report."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from sigma_ros.bags.files import find_bags
from sigma_ros.bags.losses import WITH_LOSSES
from sigma_ros.bags.reader import Stamps, open_bag
from sigma_ros.bags.topics import check_topics
from sigma_ros.cli.scores.replay import ReplayRequest
from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import UsageError
from sigma_ros.evaluation.late_replay import row_on_the_clock, rows_in_bag_time
from sigma_ros.evaluation.latency import Latency, parse_latencies
from sigma_ros.evaluation.log import ReplayLog
from sigma_ros.evaluation.replay import Hooks, ReplayOptions, replay
from sigma_ros.evaluation.report.markdown import report_markdown
from sigma_ros.evaluation.report.rerun import import_rerun, write_rerun
from sigma_ros.evaluation.report.write import (
    ReportPaths,
    refuse_existing,
    refuse_unwritable,
    refuse_unwritable_file,
    write_or_keep,
)
from sigma_ros.evaluation.scoring.score import score
from sigma_ros.evaluation.scoring.scores import Scores, conditions
from sigma_ros.evaluation.scoring.verdict import verdict_of
from sigma_ros.evaluation.semantics import CONDITIONS, REWORDED, UNRELATED, Texts, measure
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.stopping import INTERRUPTED, StopRequest, stop_on_signal

COMPLETE = 0


def run(request: ReplayRequest) -> int:
    """Replays, writes the report and shows its summary; gives the exit code."""
    refuse_existing(request.out, force=request.force)
    refuse_unwritable(request.out)
    contract = load_contract(request.contract)
    request.adapter()
    if request.latency is not None and request.realtime:
        raise UsageError("--latency is in bag time, --realtime on this machine's clock", remedy="ask for one of them")
    _latencies(request)
    if request.rerun is not None:
        import_rerun()
        refuse_unwritable_file(request.rerun)
    bags = find_bags(request.bags)
    for bag in bags:
        with open_bag(
            bag, strict=request.strict, recover=request.recover, stamps=cast(Stamps, request.stamps)
        ) as opened:
            check_topics(opened, contract)
    runtime = SigmaRuntime.load(request.checkpoint, contract=contract, **request.loading())
    with stop_on_signal() as stop:
        options = replace(
            request.replaying(memory_stride=runtime.memory_stride, strict=request.strict),
            residual_every_tick=request.residual_every_tick,
        )
        logs = _replay_all(bags, contract, runtime, options, stop)
        scores = score(*logs, complete=len(logs) == len(bags))
        extras = _studies(request, bags, runtime, options, stop)
        facts = conditions(shlex.join(["sigma", *sys.argv[1:]]), checkpoint=request.checkpoint, contract=contract)
        paths = write_or_keep(logs, scores, request.out, conditions=facts, force=request.force, extras=extras)
    if request.rerun is not None:
        for log in logs:
            name = request.rerun.stem if len(logs) == 1 else f"{request.rerun.stem}_{log.name}"
            write_rerun(log, request.rerun.with_stem(name))
    if request.form == "md":
        typer.echo(report_markdown(json.loads(paths.json.read_text(encoding="utf-8"))), nl=False)
    else:
        show(logs, scores, paths)
    if not scores.complete:
        return INTERRUPTED
    return WITH_LOSSES if any(log.losses for log in logs) else COMPLETE


def show(logs: Sequence[ReplayLog], scores: Scores, paths: ReportPaths) -> None:
    """Prints verdict, scores and where the report is."""
    console = Console(highlight=False, markup=False)
    verdict = verdict_of(logs, scores)
    for warning in verdict.warnings:
        console.print(warning, style="bold yellow")
    console.print(verdict.headline, style="bold")
    if verdict.supervised:
        console.print(verdict.supervised)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("score", "base", "Sigma", "change", "after the\nsupervisor", "change"):
        table.add_column(column, justify="left" if column == "score" else "right", no_wrap=True)
    commanded = scores.commanded
    for name, row in scores.comparison.items():
        after = commanded.comparison[name]
        table.add_row(
            name,
            f"{row.baseline:.4g}",
            f"{row.sigma:.4g}",
            f"{row.relative:+.1%}",
            *((f"{getattr(commanded, name):.4g}", f"{after.relative:+.1%}") if commanded.windows else ("-", "")),
        )
    for name in ("tau_l2", "sem_align"):
        table.add_row(name, f"{getattr(scores.baseline, name):.4g}", f"{getattr(scores.sigma, name):.4g}", "", "", "")
    console.print(table)
    supervisor, timing = scores.supervisor, scores.timing
    scale = (
        f"{supervisor.applied_scale_mean:.3g} applied of {supervisor.requested_scale_mean:.3g} asked for"
        if supervisor.commanded
        else f"{scores.adapter.scale_mean:.2f} asked for"
    )
    console.print(
        f"{scores.samples} windows of {len(logs)} recording(s); scale {scale}; "
        f"supervisor {supervisor.ticks} ticks, {supervisor.clipped} bounded, {supervisor.violations} violations; "
        f"tick {timing.tick_ms_p50:.0f} ms (p99 {timing.tick_ms_p99:.0f}), {timing.realtime_factor:.1f}x real time"
    )
    console.print(f"report: {paths.page}\n        {paths.json}", soft_wrap=True)


def _replay_all(
    bags: Sequence[Path], contract: Contract, runtime: SigmaRuntime, options: ReplayOptions, stop: StopRequest
) -> list[ReplayLog]:
    logs: list[ReplayLog] = []
    with progress() as bar:
        total = bar.add_task("replay", total=float(len(bags)))
        for bag in bags:
            bar.update(total, description=bag.name)
            hooks = Hooks(stopped=stop, progress=_teller(bar, total, len(logs)))
            logs.append(replay(bag, contract=contract, runtime=runtime, options=options, hooks=hooks))
            if stop:
                break
    return logs


def _latencies(request: ReplayRequest) -> tuple[Latency, ...]:
    text = request.latency
    if text is None:
        return ()
    if text == "contract":
        text = f"{(load_contract(request.contract).delays.inference_ns or 0) / 1e6:g}"
    return parse_latencies(text, seed=request.seed)


def _studies(
    request: ReplayRequest, bags: Sequence[Path], runtime: SigmaRuntime, options: ReplayOptions, stop: StopRequest
) -> dict[str, object]:
    """The optional studies that were asked for, by their keys in the report."""
    studies: dict[str, object] = {}
    if request.semantic:
        texts = Texts(wrong=request.wrong_text or UNRELATED, reworded=request.reworded_text or REWORDED)
        with _study_progress(CONDITIONS * len(bags), len(bags)) as told:
            found = measure(bags, runtime=runtime, options=options, texts=texts, progress=told, stopped=stop)
        studies["semantics"] = found.document()
    latencies = _latencies(request)
    if latencies or request.realtime:
        with _study_progress(max(1, len(latencies)) * len(bags), len(bags)) as told:
            studies["latency"] = (
                rows_in_bag_time(bags, latencies, runtime, options, told=told, stopped=stop)
                if latencies
                else row_on_the_clock(bags, runtime, options, told=told, stopped=stop)
            )
    return studies


@contextmanager
def _study_progress(replays: int, bags: int) -> Iterator[Callable[[str, int, float], None]]:
    with progress() as bar:
        task = bar.add_task("study", total=float(replays))
        begun: dict[str, int] = {}

        def told(name: str, number: int, share: float) -> None:
            bar.update(task, description=name, completed=begun.setdefault(name, len(begun)) * bags + number + share)

        yield told


def _teller(bar: Progress, task: TaskID, done: int) -> Callable[[float], None]:
    return lambda share: bar.update(task, completed=done + share)


def progress() -> Progress:
    """A bar on stderr with the time that is left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True, markup=False),
        transient=True,
    )
