# SPDX-License-Identifier: Apache-2.0
"""`sigma evaluate`: many bags on many workers, one summary."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sigma_ros.cli.options import OUTPUT, RECORDING, WORKERS, GroupedCommand, PolicyArguments, command_of, verb

app = verb()


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest(PolicyArguments):
    """Replays and scores every bag; an earlier run's results are taken where bag, checkpoint and settings are the same.

    A bag that cannot be used becomes a row with its reason. The results do not depend on the number of workers.
    Exit codes: 0 complete, 3 complete with losses or failed bags, 1 none usable (or any, with --strict), 2 wrong usage,
    130 interrupted (run it again to go on).

    Example: sigma evaluate bags --checkpoint out/sigma --workers 2 --out out/evaluation
    """

    bags: Annotated[list[Path], typer.Argument(help="Bags, or folders of bags.")]
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Folder for summary.json, summary.html, bags.parquet and bags/."),
    ]
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            min=0,
            metavar="N",
            help="Ray workers, each with the model; 0: in this process, without Ray.",
            rich_help_panel=WORKERS,
        ),
    ] = 1
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            metavar="ADDRESS",
            help="A running Ray cluster (auto, or host:port).",
            show_default="this machine",
            rich_help_panel=WORKERS,
        ),
    ] = None
    cpus_per_worker: Annotated[
        float,
        typer.Option("--cpus-per-worker", min=0.1, metavar="X", help="For Ray's bookkeeping.", rich_help_panel=WORKERS),
    ] = 1.0
    gpus_per_worker: Annotated[
        float,
        typer.Option(
            "--gpus-per-worker",
            min=0.0,
            metavar="X",
            help="A share lets several workers use one GPU.",
            rich_help_panel=WORKERS,
        ),
    ] = 0.0
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Losses make a bag fail, a failed bag the command.", rich_help_panel=RECORDING),
    ] = False
    pages: Annotated[bool, typer.Option("--pages", help="A report.html for every bag too.", rich_help_panel=OUTPUT)] = (
        False
    )
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Replay bags anew that an earlier run has finished.", rich_help_panel=OUTPUT),
    ] = False


def _run(request: EvaluateRequest) -> int:
    from sigma_ros.cli.scores.evaluate_run import run  # noqa: PLC0415 - help stays fast

    return run(request)


app.command(cls=GroupedCommand, name="evaluate")(command_of(EvaluateRequest, _run))
