# SPDX-License-Identifier: Apache-2.0
"""`sigma dataset`: bags as a LeRobot data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

from sigma_ros.cli.options import ContractName, Recover, Stamps, Strict, command_of, option, switch

if TYPE_CHECKING:
    from sigma_ros.bags.reader import Stamps as StampSource

app = typer.Typer(add_completion=False, no_args_is_help=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRequest:
    """Writes a LeRobot v3.0 data set through the robot's own frame clock: a row is a tick, in the policy's units.

    An episode is a stretch of valid ticks with known actions; it ends at a gap and where the task changes.
    Ticks that are left out are counted, and everything that was lost of a bag: exit code 3 then.
    Open it with LeRobotDataset("local/NAME", root=OUT).

    Example: sigma dataset --bags bags --out out/pickplace
    """

    bags: list[Path] = option("A bag, or a folder of bags; may be repeated.")
    out: Path = option("Folder of the data set; it must not exist.")
    contract: ContractName = "so101"
    pictures: bool = option("Lossless pictures in place of AV1 videos.", default=False, name="--png/--video")
    leave_out: list[int] | None = option(
        "An episode by its number without this; once or more.", default=None, min=0, metavar="N"
    )
    test_episodes: int = option("The last N are the split `test`.", default=0, min=0, metavar="N")
    strict: Strict = False
    recover: Recover = False
    stamps: Stamps = "header"
    push_to_hub: str | None = option(
        "Also upload it, with a card.", default=None, name="--push_to_hub", metavar="OWNER/NAME"
    )
    private: bool = switch("Make that repository a private one.")


def dataset(request: DatasetRequest) -> int:
    """Writes it, tells what was left out, and uploads it where asked; gives the exit code."""
    from rich.console import Console  # noqa: PLC0415 - help stays fast

    from sigma_ros.bags.files import find_bags  # noqa: PLC0415
    from sigma_ros.bags.lerobot_dataset import push_dataset, write_dataset  # noqa: PLC0415
    from sigma_ros.bags.losses import WITH_LOSSES, described  # noqa: PLC0415
    from sigma_ros.cli.scores.replay_run import COMPLETE, progress  # noqa: PLC0415
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415

    robot = load_contract(request.contract)
    found = find_bags(request.bags)
    with progress() as bar:
        task = bar.add_task("writing", total=float(len(found)))
        written = write_dataset(
            found,
            robot,
            request.out,
            videos=not request.pictures,
            strict=request.strict,
            recover=request.recover,
            stamps=cast("StampSource", request.stamps),
            leave_out=request.leave_out or (),
            test_episodes=request.test_episodes,
            repo=request.push_to_hub,
            progress=lambda number, share: bar.update(task, completed=number + min(1.0, max(0.0, share))),
        )
    console = Console(highlight=False, markup=False)
    console.print(
        f"{written.episodes} episodes, {written.frames} frames, {len(written.tasks)} task(s) in {request.out}"
    )
    for reason, count in written.left_out.items():
        console.print(f"left out: {count} {reason}", style="yellow")
    for bag, losses in written.losses.items():
        console.print(f"LOSSES in {bag}: {described(losses)}", style="yellow", markup=False, soft_wrap=True)
    if request.push_to_hub is not None:
        push_dataset(request.out, request.push_to_hub, private=request.private)
        console.print(f"pushed to {request.push_to_hub}")
    return WITH_LOSSES if written.losses else COMPLETE


app.command(name="dataset")(command_of(DatasetRequest, dataset))
