# SPDX-License-Identifier: Apache-2.0
"""`sigma evaluate`: many bags on many workers, one summary."""

from dataclasses import dataclass
from pathlib import Path

from sigma_ros.cli.options import (
    OUTPUT,
    RECORDING,
    WORKERS,
    GroupedCommand,
    PolicyArguments,
    argument,
    command_of,
    option,
    switch,
    verb,
)

app = verb()


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest(PolicyArguments):
    """Replays and scores every bag; an earlier run's results are taken where bag, checkpoint and settings are the same.

    A bag that cannot be used becomes a row with its reason. The results do not depend on the number of workers.
    Exit codes: 0 complete, 3 complete with losses or failed bags, 1 none usable (or any, with --strict), 2 wrong usage,
    130 interrupted (run it again to go on).

    Example: sigma evaluate bags --checkpoint out/sigma --workers 2 --out out/evaluation
    """

    bags: list[Path] = argument("Bags, or folders of bags.")
    out: Path = option("Folder for summary.json, summary.html, bags.parquet and bags/.", metavar="DIR")
    workers: int = option(
        "Ray workers, each with the model; 0: in this process, without Ray.", WORKERS, default=1, min=0, metavar="N"
    )
    ray_address: str | None = option(
        "A running Ray cluster (auto, or host:port).",
        WORKERS,
        default=None,
        metavar="ADDRESS",
        show_default="this machine",
    )
    cpus_per_worker: float = option("For Ray's bookkeeping.", WORKERS, default=1.0, min=0.1, metavar="X")
    gpus_per_worker: float = option(
        "A share lets several workers use one GPU.", WORKERS, default=0.0, min=0.0, metavar="X"
    )
    strict: bool = switch("Losses make a bag fail, a failed bag the command.", RECORDING)
    pages: bool = switch("A report.html for every bag too.", OUTPUT)
    fresh: bool = switch("Replay bags anew that an earlier run has finished.", OUTPUT)


def _run(request: EvaluateRequest) -> int:
    from sigma_ros.bags.files import find_bags  # noqa: PLC0415 - help stays fast

    find_bags(request.bags)  # before seconds of imports
    from sigma_ros.cli.scores.evaluate_run import run  # noqa: PLC0415

    return run(request)


app.command(cls=GroupedCommand, name="evaluate")(command_of(EvaluateRequest, _run))
