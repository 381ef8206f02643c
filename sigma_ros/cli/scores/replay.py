# SPDX-License-Identifier: Apache-2.0
"""`sigma replay`: recordings through the policy and the supervisor, without a ROS graph, into a report."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sigma_ros.cli.options import OUTPUT, STUDIES, GroupedCommand, PolicyArguments, Strict, command_of, verb

app = verb()


class ReplayFormat(StrEnum):
    """What the summary is printed as."""

    TEXT = "text"
    MD = "md"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest(PolicyArguments):
    """Replays recordings and scores Sigma against its base, as proposed and after the supervisor.

    Exit codes: 0 complete, 3 complete with losses, 1 failed, 2 wrong usage, 130 interrupted (report marked incomplete).

    Example: sigma replay --bag out/demo/recording --checkpoint mini --out out/report
    """

    bags: Annotated[
        list[Path],
        typer.Option("--bag", metavar="BAG", help="A bag, or a folder of bags; once or more."),
    ]
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for report.json, report.html and chunks.parquet.")
    ]
    strict: Strict = False
    force: Annotated[bool, typer.Option("--force", help="Replace a report that is there.", rich_help_panel=OUTPUT)] = (
        False
    )
    form: Annotated[
        ReplayFormat,
        typer.Option(
            "--format", help="What is printed at the end: text, or md for a pull request.", rich_help_panel=OUTPUT
        ),
    ] = ReplayFormat.TEXT
    rerun: Annotated[
        Path | None,
        typer.Option(
            "--rerun",
            metavar="FILE",
            help="Also a recording for the Rerun viewer (of several bags: FILE_NAME).",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    semantic: Annotated[
        bool,
        typer.Option(
            "--semantic",
            help="Also: do text and memory matter? Five more replays of each recording.",
            rich_help_panel=STUDIES,
        ),
    ] = False
    wrong_text: Annotated[
        str | None,
        typer.Option(
            "--wrong-text",
            metavar="TEXT",
            help="The wrong text; where the contract has another task, that one.",
            rich_help_panel=STUDIES,
        ),
    ] = None
    reworded_text: Annotated[
        str | None,
        typer.Option(
            "--reworded-text",
            metavar="TEXT",
            help="The same task in other words; may hold {task}.",
            rich_help_panel=STUDIES,
        ),
    ] = None
    latency: Annotated[
        str | None,
        typer.Option(
            "--latency",
            metavar="MS,MS",
            help="What do late chunks cost? Milliseconds, ~jitter, !spike@share: 0,30,100~20,100!500@0.05; or "
            "`contract`: as `sigma delays` measured.",
            rich_help_panel=STUDIES,
        ),
    ] = None
    residual_every_tick: Annotated[
        bool,
        typer.Option(
            "--residual-every-tick",
            help="In these two, renew the residual at ticks at which the model is free, as the node's parameter does.",
            rich_help_panel=STUDIES,
        ),
    ] = False
    realtime: Annotated[
        bool,
        typer.Option(
            "--realtime", help="Also play at the recording's speed with the live worker.", rich_help_panel=STUDIES
        ),
    ] = False


def _run(request: ReplayRequest) -> int:
    from sigma_ros.bags.files import find_bags  # noqa: PLC0415 - help stays fast

    find_bags(request.bags)  # before seconds of imports
    from sigma_ros.cli.scores.replay_run import run  # noqa: PLC0415

    return run(request)


app.command(cls=GroupedCommand, name="replay")(command_of(ReplayRequest, _run))
