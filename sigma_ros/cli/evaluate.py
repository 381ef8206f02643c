# SPDX-License-Identifier: Apache-2.0
"""`sigma evaluate`: many bags on many workers, one summary."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.command()
def evaluate(
    bags: Annotated[list[Path], typer.Argument(help="Bags, or folders of bags.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder for summary.json, summary.html, bags.parquet and bags/.")],
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", help="`mini`, a Sigma checkpoint folder, or a base folder or Hub id.")
    ],
    contract: Annotated[
        str, typer.Option("--contract", help="Contract file, or a shipped one's name (so101, cr5).")
    ] = "so101",
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
    task: Annotated[
        str | None, typer.Option("--task", help="Task text in place of the recorded ones.", show_default="recorded")
    ] = None,
    replan_ticks: Annotated[int, typer.Option("--replan-ticks", min=1, help="Ticks between two chunks.")] = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the flow noise.")] = 0,
    min_scale: Annotated[float, typer.Option("--min-scale", min=0.0, max=1.0, help="Adapter's least scale.")] = 0.0,
    max_scale: Annotated[float, typer.Option("--max-scale", min=0.0, max=1.0, help="Adapter's largest scale.")] = 1.0,
    risk_temperature: Annotated[
        float, typer.Option("--risk-temperature", min=1e-6, help="How much risk halves the scale; more is bolder.")
    ] = 1.0,
    supervisor: Annotated[
        bool, typer.Option("--supervisor/--no-supervisor", help="Run the supervisor at 50 Hz of bag time.")
    ] = True,
    allow_untrained: Annotated[
        bool, typer.Option("--allow-untrained", help="Accept a base with random weights.")
    ] = False,
    base: Annotated[str | None, typer.Option("--base", help="Where the base of a Sigma checkpoint is now.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Hub revision of the base.")] = None,
    tokenizer: Annotated[str | None, typer.Option("--tokenizer", help="Tokenizer folder or Hub id.")] = None,
    device: Annotated[str, typer.Option("--device", help="Torch device, or auto.")] = "auto",
    pages: Annotated[bool, typer.Option("--pages", help="A report.html for every bag too.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Losses make a bag fail, a failed bag the command.")] = False,
    recover: Annotated[bool, typer.Option("--recover", help="Read cut-off bags as far as they go.")] = False,
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
