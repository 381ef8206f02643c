# SPDX-License-Identifier: Apache-2.0
"""`sigma evaluate`: many bags on many workers, one summary."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from sigma_ros.cli import shared_options as options

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
    fresh: Annotated[bool, typer.Option("--fresh", help="Replay bags anew that an earlier run has finished.")] = False,
) -> None:
    """Replays and scores every bag; an earlier run's results are taken where bag, checkpoint and settings are the same.

    A bag that cannot be used becomes a row with its reason. The results do not depend on the number of workers.
    Exit codes: 0 complete, 3 complete with losses or failed bags, 1 none usable (or any, with --strict), 2 wrong usage,
    130 interrupted (run it again to go on).

    Example: sigma evaluate bags --checkpoint out/sigma --workers 2 --out out/evaluation
    """
    from sigma_ros.cli.evaluate_run import Request, run  # noqa: PLC0415 - keeps `sigma --help` fast

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
        fresh=fresh,
    )
    sys.exit(run(request))
