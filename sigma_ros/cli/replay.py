# SPDX-License-Identifier: Apache-2.0
"""`sigma replay`: recordings through the policy and the supervisor, without a ROS graph, into a report."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sigma_ros.cli import shared_options as options

app = typer.Typer(no_args_is_help=True)


class Format(StrEnum):
    """What the summary is printed as."""

    TEXT = "text"
    MD = "md"


@app.command()
def replay(
    *,
    bag: Annotated[list[Path], typer.Option("--bag", help="A bag, or a folder of bags; may be given more than once.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for report.json, report.html and chunks.parquet.")],
    checkpoint: options.Checkpoint,
    contract: options.ContractName = "so101",
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
    rename: options.Rename = None,
    strict: options.Strict = False,
    recover: options.Recover = False,
    stamps: options.Stamps = "header",
    force: Annotated[bool, typer.Option("--force", help="Replace a report that is there.")] = False,
    semantic: Annotated[
        bool, typer.Option("--semantic", help="Also: do text and memory matter? Five more replays of each recording.")
    ] = False,
    wrong_text: Annotated[
        str | None, typer.Option("--wrong-text", help="The wrong text; where the contract has another task, that one.")
    ] = None,
    reworded_text: Annotated[
        str | None, typer.Option("--reworded-text", help="The same task in other words; may hold {task}.")
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(
            "--latency", help="What do late chunks cost? Milliseconds, ~jitter, !spike@share: 0,30,100~20,100!500@0.05"
        ),
    ] = None,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Also play at the recording's speed with the live worker.")
    ] = False,
    rerun: Annotated[
        Path | None, typer.Option("--rerun", help="Also a recording for the Rerun viewer (of several bags: FILE_NAME).")
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="What is printed at the end: text, or md for a pull request.")
    ] = Format.TEXT,
) -> None:
    """Replays recordings and scores Sigma against its base.

    Exit codes: 0 complete, 3 complete with losses, 1 failed, 2 wrong usage, 130 interrupted (report marked incomplete).

    Example: sigma replay --bag out/demo/recording --checkpoint mini --out out/report
    """
    from sigma_ros.cli.replay_run import Request, run  # noqa: PLC0415 - keeps `sigma --help` fast

    request = Request(
        bags=tuple(bag),
        out=out,
        checkpoint=checkpoint,
        contract=contract,
        task=task,
        replan_ticks=replan_ticks,
        seed=seed,
        scales=(min_scale, max_scale, risk_temperature),
        supervised=supervisor,
        allow_untrained=allow_untrained,
        base=base,
        revision=revision,
        tokenizer=tokenizer,
        device=device,
        rename=tuple(rename or ()),
        strict=strict,
        recover=recover,
        stamps=stamps,
        force=force,
        semantic=semantic,
        other_texts=(wrong_text, reworded_text),
        latency=latency,
        realtime=realtime,
        rerun=rerun,
        as_markdown=form is Format.MD,
    )
    sys.exit(run(request))
