# SPDX-License-Identifier: Apache-2.0
"""`sigma replay`: recordings through the policy and the supervisor, without a ROS graph, into a report."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

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
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", help="`mini`, a Sigma checkpoint folder, or a base folder or Hub id.")
    ],
    contract: Annotated[
        str, typer.Option("--contract", help="Contract file, or a shipped one's name (so101, cr5).")
    ] = "so101",
    task: Annotated[
        str | None, typer.Option("--task", help="Task text in place of the recorded one.", show_default="recorded")
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
    strict: Annotated[bool, typer.Option("--strict", help="Any loss in a recording is a failure.")] = False,
    recover: Annotated[bool, typer.Option("--recover", help="Read a cut-off bag as far as it goes.")] = False,
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
        strict=strict,
        recover=recover,
        force=force,
        semantic=semantic,
        other_texts=(wrong_text, reworded_text),
        latency=latency,
        realtime=realtime,
        rerun=rerun,
        as_markdown=form is Format.MD,
    )
    sys.exit(run(request))
