# SPDX-License-Identifier: Apache-2.0
"""`sigma transcode`: an episode of a LeRobot data set as a bag."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress

from sigma_ros.cli.options import ContractName, Strict, argument, command_of, option, switch
from sigma_ros.errors import UsageError

app = typer.Typer(add_completion=False, help="Turn an episode of a LeRobot data set into a bag.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscodeRequest:
    """Writes one episode as a bag on the contract's topics, with the data set's own timestamps.

    The bag's notes label it as transcoded. Commands are written where the contract takes its actions from them. What
    a replay of the bag will count as lost is said here: exit code 3 then.

    Example: sigma transcode lerobot/svla_so101_pickplace --episode 3 --out pick_3
    """

    dataset: str = argument("Folder of a LeRobot data set (v2.x, v3.0), or its Hub id.")
    out: Path = option("The bag to write.")
    episode: int = option("Index of the episode.", default=0, min=0)
    contract: ContractName = "so101"
    revision: str | None = option("Branch, tag or commit of a data set on the Hub.", default=None)
    jpeg: int | None = option("JPEG pictures; raw ones otherwise.", default=None, min=1, max=100, metavar="QUALITY")
    storage: str = option("mcap or sqlite3.", default="mcap")
    rename: list[str] | None = option("front=up: the data set's camera is that of the contract.", default=None)
    resample: bool = switch("Accept another rate than the contract's; stamps stay as they are.")
    strict: Strict = False
    recover: bool = switch("End the bag before the first row that cannot be read; count the rest.")
    overwrite: bool = switch("Replace a bag that exists.")


def transcode(request: TranscodeRequest) -> int:
    """Writes the bag; gives the exit code."""
    if request.storage not in ("mcap", "sqlite3"):
        raise UsageError("no such bag storage", expected="mcap or sqlite3", got=request.storage)
    from sigma_ros.bags import transcode as transcoding  # noqa: PLC0415
    from sigma_ros.bags.dataset_facts import check_numbers  # noqa: PLC0415
    from sigma_ros.bags.losses import WITH_LOSSES, described  # noqa: PLC0415
    from sigma_ros.camera_names import read_rename  # noqa: PLC0415
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415 - help stays fast

    robot, episode = load_contract(request.contract), request.episode
    place: dict[str, Any] = {"revision": request.revision, "rename": read_rename(request.rename or [])}
    source = transcoding.load_episode(request.dataset, episode, robot, resample=request.resample, **place)
    console = Console(highlight=False, markup=False)
    for doubt in check_numbers(request.dataset, [episode], robot, **place):
        console.print(f"CHECK THE UNITS: {doubt}", style="yellow")
    with Progress(console=Console(stderr=True, markup=False)) as progress:
        bar = progress.add_task("transcoding", total=source.ticks)
        losses = transcoding.transcode(
            source,
            robot,
            request.out,
            storage="mcap" if request.storage == "mcap" else "sqlite3",
            jpeg_quality=request.jpeg,
            overwrite=request.overwrite,
            strict=request.strict,
            recover=request.recover,
            on_tick=lambda: progress.advance(bar),
        )
    console.print(f"{source.ticks} ticks of episode {episode} in {request.out}: {source.task}")
    if losses:
        console.print(f"LOSSES: {described(losses)}", style="yellow")
    return WITH_LOSSES if losses else 0


app.command(name="transcode")(command_of(TranscodeRequest, transcode))
