# SPDX-License-Identifier: Apache-2.0
"""`sigma dataset`: bags as a LeRobot data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from sigma_ros.cli import options

if TYPE_CHECKING:
    from sigma_ros.bags.reader import Stamps

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.command()
def dataset(
    *,
    bags: Annotated[list[Path], typer.Option("--bags", help="A bag, or a folder of bags; may be repeated.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the data set; it must not exist.")],
    contract: Annotated[
        str, typer.Option("--contract", help="Contract file, or a shipped one's name (so101, cr5).")
    ] = "so101",
    pictures: Annotated[bool, typer.Option("--png/--video", help="Lossless pictures in place of AV1 videos.")] = False,
    leave_out: Annotated[
        list[int] | None,
        typer.Option("--leave-out", min=0, metavar="N", help="An episode by its number without this; once or more."),
    ] = None,
    test_episodes: Annotated[
        int, typer.Option("--test-episodes", min=0, metavar="N", help="The last N are the split `test`.")
    ] = 0,
    strict: options.Strict = False,
    recover: options.Recover = False,
    stamps: options.Stamps = "header",
    push_to_hub: Annotated[
        str | None, typer.Option("--push_to_hub", metavar="OWNER/NAME", help="Also upload it, with a card.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make that repository a private one.")] = False,
) -> None:
    """Writes a LeRobot v3.0 data set through the robot's own frame clock: a row is a tick, in the policy's units.

    An episode is a stretch of valid ticks with known actions; it ends at a gap and where the task changes.
    Ticks that are left out are counted, and everything that was lost of a bag: exit code 3 then.
    Open it with LeRobotDataset("local/NAME", root=OUT).

    Example: sigma dataset --bags bags --out out/pickplace
    """
    from rich.console import Console  # noqa: PLC0415 - help stays fast

    from sigma_ros.bags.files import find_bags  # noqa: PLC0415
    from sigma_ros.bags.lerobot_dataset import push_dataset, write_dataset  # noqa: PLC0415
    from sigma_ros.bags.losses import WITH_LOSSES, described  # noqa: PLC0415
    from sigma_ros.cli.scores.replay_run import COMPLETE, progress  # noqa: PLC0415
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415

    robot = load_contract(contract)
    found = find_bags(bags)
    with progress() as bar:
        task = bar.add_task("writing", total=float(len(found)))
        written = write_dataset(
            found,
            robot,
            out,
            videos=not pictures,
            strict=strict,
            recover=recover,
            stamps=cast("Stamps", stamps),
            leave_out=leave_out or (),
            test_episodes=test_episodes,
            repo=push_to_hub,
            progress=lambda number, share: bar.update(task, completed=number + min(1.0, max(0.0, share))),
        )
    console = Console(highlight=False, markup=False)
    console.print(f"{written.episodes} episodes, {written.frames} frames, {len(written.tasks)} task(s) in {out}")
    for reason, count in written.left_out.items():
        console.print(f"left out: {count} {reason}", style="yellow")
    for bag, losses in written.losses.items():
        console.print(f"LOSSES in {bag}: {described(losses)}", style="yellow", markup=False, soft_wrap=True)
    if push_to_hub is not None:
        push_dataset(out, push_to_hub, private=private)
        console.print(f"pushed to {push_to_hub}")
    raise typer.Exit(WITH_LOSSES if written.losses else COMPLETE)
