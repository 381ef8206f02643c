# SPDX-License-Identifier: Apache-2.0
"""`sigma transcode`: an episode of a LeRobot data set as a bag."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from sigma_ros.cli import options
from sigma_ros.errors import UsageError

app = typer.Typer(add_completion=False, help="Turn an episode of a LeRobot data set into a bag.")


@app.command()
def transcode(
    dataset: Annotated[str, typer.Argument(help="Folder of a LeRobot data set (v2.x, v3.0), or its Hub id.")],
    *,
    out: Annotated[Path, typer.Option(help="The bag to write.")],
    episode: Annotated[int, typer.Option(min=0, help="Index of the episode.")] = 0,
    contract: Annotated[str, typer.Option(help="Contract file, or the name of a shipped one.")] = "so101",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a data set on the Hub.")] = None,
    jpeg: Annotated[
        int | None, typer.Option(min=1, max=100, metavar="QUALITY", help="JPEG pictures; raw ones otherwise.")
    ] = None,
    storage: Annotated[str, typer.Option(help="mcap or sqlite3.")] = "mcap",
    rename: Annotated[
        list[str] | None, typer.Option("--rename", help="front=up: the data set's camera is that of the contract.")
    ] = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="Accept another rate than the contract's; stamps stay as they are.")
    ] = False,
    strict: options.Strict = False,
    recover: Annotated[
        bool,
        typer.Option("--recover", help="End the bag before the first row that cannot be read; count the rest."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bag that exists.")] = False,
) -> None:
    """Writes one episode as a bag on the contract's topics, with the data set's own timestamps.

    The bag's notes label it as transcoded. Commands are written where the contract takes its actions from them. What
    a replay of the bag will count as lost is said here: exit code 3 then.

    Example: sigma transcode lerobot/svla_so101_pickplace --episode 3 --out pick_3
    """
    if storage not in ("mcap", "sqlite3"):
        raise UsageError("no such bag storage", expected="mcap or sqlite3", got=storage)
    from sigma_ros.bags import transcode as transcoding  # noqa: PLC0415
    from sigma_ros.bags.dataset_facts import check_numbers  # noqa: PLC0415
    from sigma_ros.bags.losses import WITH_LOSSES, described  # noqa: PLC0415
    from sigma_ros.camera_names import read_rename  # noqa: PLC0415
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415 - help stays fast

    robot = load_contract(contract)
    renamed = read_rename(rename or [])
    source = transcoding.load_episode(dataset, episode, robot, revision=revision, rename=renamed, resample=resample)
    console = Console(highlight=False, markup=False)
    for doubt in check_numbers(dataset, [episode], robot, revision=revision, rename=renamed):
        console.print(f"CHECK THE UNITS: {doubt}", style="yellow")
    with Progress(console=Console(stderr=True, markup=False)) as progress:
        bar = progress.add_task("transcoding", total=source.ticks)
        losses = transcoding.transcode(
            source,
            robot,
            out,
            storage="mcap" if storage == "mcap" else "sqlite3",
            jpeg_quality=jpeg,
            overwrite=overwrite,
            strict=strict,
            recover=recover,
            on_tick=lambda: progress.advance(bar),
        )
    console.print(f"{source.ticks} ticks of episode {episode} in {out}: {source.task}")
    if losses:
        console.print(f"LOSSES: {described(losses)}", style="yellow")
        raise typer.Exit(WITH_LOSSES)
