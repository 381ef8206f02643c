# SPDX-License-Identifier: Apache-2.0
"""`sigma replay`: recordings through the policy and the supervisor, without a ROS graph, into a report."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sigma_ros.cli.options import (
    OUTPUT,
    STUDIES,
    GroupedCommand,
    PolicyArguments,
    Strict,
    command_of,
    option,
    switch,
    verb,
)

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

    bags: list[Path] = option("A bag, or a folder of bags; once or more.", name="--bag", metavar="BAG")
    out: Path = option("Folder for report.json, report.html and chunks.parquet.", metavar="DIR")
    strict: Strict = False
    force: bool = switch("Replace a report that is there.", OUTPUT)
    form: ReplayFormat = option(
        "What is printed at the end: text, or md for a pull request.",
        OUTPUT,
        default=ReplayFormat.TEXT,
        name="--format",
    )
    rerun: Path | None = option(
        "Also a recording for the Rerun viewer (of several bags: FILE_NAME).", OUTPUT, default=None, metavar="FILE"
    )
    semantic: bool = switch("Also: do text and memory matter? Five more replays of each recording.", STUDIES)
    wrong_text: str | None = option(
        "The wrong text; where the contract has another task, that one.", STUDIES, default=None, metavar="TEXT"
    )
    reworded_text: str | None = option(
        "The same task in other words; may hold {task}.", STUDIES, default=None, metavar="TEXT"
    )
    latency: str | None = option(
        "What do late chunks cost? Milliseconds, ~jitter, !spike@share: 0,30,100~20,100!500@0.05; or "
        "`contract`: as `sigma delays` measured.",
        STUDIES,
        default=None,
        metavar="MS,MS",
    )
    residual_every_tick: bool = switch(
        "In these two, renew the residual at ticks at which the model is free, as the node's parameter does.", STUDIES
    )
    realtime: bool = switch("Also play at the recording's speed with the live worker.", STUDIES)


def _run(request: ReplayRequest) -> int:
    from sigma_ros.bags.files import find_bags  # noqa: PLC0415 - help stays fast

    find_bags(request.bags)  # before seconds of imports
    from sigma_ros.cli.scores.replay_run import run  # noqa: PLC0415

    return run(request)


app.command(cls=GroupedCommand, name="replay")(command_of(ReplayRequest, _run))
