# SPDX-License-Identifier: Apache-2.0
"""`sigma record`: bags with the pictures, joints, commands and task that replay needs, simulated or live."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sigma_ros.cli.options import SETUP, ContractName, GroupedCommand, Setup, command_of, option, switch, verb
from sigma_ros.contract import Contract
from sigma_ros.errors import MachineError, SigmaError, UsageError
from sigma_ros.sim.setups import LARGEST_PUSH_RAD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sigma_ros.sim.demonstration import Demonstration
    from sigma_ros.sim.environment import SimArm
    from sigma_ros.sim.recorder import BagFormat

app = verb("Record episodes into bags.", no_args_is_help=False)

_LOWEST_SUCCESS = 0.5
_FEWEST_JUDGED = 20
_BYTES_PER_JPEG_PIXEL = 0.25
_TYPICAL_EPISODE_S = 9.0


@dataclass(slots=True)
class _Tally:
    """What a recording came to."""

    recorded: int = 0
    failed: int = 0
    ticks: int = 0
    started_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRequest:
    """Records episodes of the simulated arm, one bag each; Ctrl-C keeps the finished ones.

    An episode takes about 12 MB, one of raw pictures (--jpeg 0) half a gigabyte. With --live the running robot is
    recorded instead, and checked meanwhile: exit code 3 tells of gaps and losses, 1 of a stream that never came.
    With --keys: r records, s saves, d discards, n asks for the next prompt, i marks an intervention, q quits.

    Example: sigma record --sim --episodes 5 --seed 1 --out recording
    """

    out: Path = option("Folder for the bags: OUT/episode_000000, OUT/episode_000001, ...")
    sim: bool = switch("Record the simulated arm and its scripted expert.")
    live: bool = switch("Record the running robot (ROS) into OUT until Ctrl-C.")
    task: str = option("With --live: what is being done; the contract's first if empty.", default="")
    seconds: float = option("With --live: how long; 0: until Ctrl-C.", default=0.0, min=0.0)
    keys: bool = switch("With --live: bags OUT/episode_N by keys (r, s, d, n, i, q) and services.")
    everything: bool = switch("With --live: every topic, instead of the contract's.")
    episodes: int = option("Number of episodes.", default=1, min=1)
    seed: int = option("The same seed gives the same bags.", default=0, min=0)
    setup: Setup = SETUP
    contract: ContractName = "so101"
    jpeg: int = option("Quality of the JPEG pictures; 0: raw pictures.", default=90, min=0, max=100, metavar="QUALITY")
    storage: Literal["mcap", "sqlite3"] = option("The bag's file format.", default="mcap")
    disturb: float = option(
        "Push free movements off their path by up to this.", default=0.0, min=0.0, max=LARGEST_PUSH_RAD, metavar="RAD"
    )
    missed: float = option(
        "Share of the episodes that begin where fingers closed beside the brick.", default=0.0, min=0.0, max=1.0
    )
    film: Path | None = option("Also write a GIF of the first episode here.", default=None, metavar="FILE")
    keep_failures: bool = switch("Keep episodes in which the brick missed the box.")
    overwrite: bool = switch("Replace bags that exist.")


def record(request: RecordRequest) -> int:
    """Records what was asked for; gives the exit code."""
    if request.sim == request.live:
        raise UsageError("say what is to be recorded", expected="--sim or --live")
    if request.live:
        return _record_live(request)
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415 - help stays fast
    from sigma_ros.sim.demonstration import demonstrations  # noqa: PLC0415
    from sigma_ros.sim.environment import SimArm  # noqa: PLC0415
    from sigma_ros.sim.recorder import bag_format, check_recordable  # noqa: PLC0415
    from sigma_ros.sim.setups import setup_named  # noqa: PLC0415

    out, overwrite = request.out, request.overwrite
    robot, scene = load_contract(request.contract), setup_named(request.setup)
    check_recordable(robot, scene.camera_names)
    how = bag_format(robot, jpeg_quality=request.jpeg or None, storage=request.storage, overwrite=overwrite)
    folders = [out / f"episode_{i:06d}" for i in range(request.episodes)]
    _check_target(folders, overwrite=overwrite)
    _check_disk(out, _bytes_needed(robot, how) * request.episodes)
    with SimArm(scene, contract=robot) as arm:
        attempts = demonstrations(arm, request.seed, disturbance_rad=request.disturb, missed_share=request.missed)
        tally = _Tally(started_s=time.monotonic())
        try:
            _record(arm, attempts, folders, how, tally=tally, request=request)
        except KeyboardInterrupt:
            Console(stderr=True, markup=False).print(f"interrupted; {tally.recorded} finished episodes are in {out}")
            raise
    _tell(out, tally, robot)
    return 0


def _record_live(request: RecordRequest) -> int:
    from sigma_ros.nodes.record_node import main  # noqa: PLC0415

    given = {name: getattr(request, name) for name in ("out", "contract", "task", "seconds", "storage", "everything")}
    given |= {"episodes": request.keys, "keyboard": request.keys}
    return main([part for name, value in given.items() if value != "" for part in (f"--{name}", str(value))])


def _record(
    arm: "SimArm",
    demonstrations: "Iterator[Demonstration | None]",
    folders: list[Path],
    how: "BagFormat",
    *,
    tally: _Tally,
    request: RecordRequest,
) -> None:
    from sigma_ros.sim.recorder import write_demonstration, write_film  # noqa: PLC0415

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("episodes, {task.fields[speed]:.1f} x real time"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True, markup=False)) as progress:
        bar = progress.add_task("recording", total=len(folders), speed=0.0)
        for demonstration in demonstrations:
            if demonstration is None or not (demonstration.success or request.keep_failures):
                tally.failed += 1
                _refuse_hopeless(tally)
                continue
            share = 1.0 / demonstration.ticks
            write_demonstration(
                folders[tally.recorded],
                arm,
                demonstration,
                how,
                on_tick=lambda share=share: progress.advance(bar, share),  # type: ignore[misc]
            )
            if request.film is not None and tally.recorded == 0:
                write_film(request.film, arm, {"": demonstration})
            tally.recorded += 1
            tally.ticks += demonstration.ticks
            progress.update(bar, completed=tally.recorded, speed=_speed(tally, arm.contract))
            if tally.recorded == len(folders):
                return


def _refuse_hopeless(tally: _Tally) -> None:
    attempts = tally.recorded + tally.failed
    if attempts >= _FEWEST_JUDGED and tally.recorded < _LOWEST_SUCCESS * attempts:
        raise SigmaError(
            "the scripted expert fails too often in this set-up",
            expected=f"more than {_LOWEST_SUCCESS:.0%} of the episodes to succeed",
            got=f"{tally.recorded} of {attempts}",
            remedy="record with --keep-failures and look at the pictures",
        )


def _check_target(folders: list[Path], *, overwrite: bool) -> None:
    existing = [str(folder) for folder in folders if folder.exists()]
    if existing and not overwrite:
        raise UsageError(
            "the output exists already",
            where=existing[0] if len(existing) == 1 else f"{existing[0]} and {len(existing) - 1} more",
            remedy="give another --out, or --overwrite",
        )


def _bytes_needed(contract: Contract, how: "BagFormat") -> float:
    pixels = sum(camera.width_px * camera.height_px for camera in contract.cameras)
    return _TYPICAL_EPISODE_S * contract.fps * pixels * (3.0 if how.jpeg_quality is None else _BYTES_PER_JPEG_PIXEL)


def _check_disk(out: Path, needed_bytes: float) -> None:
    folder = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise MachineError(
            "the disk is too full for this recording",
            where=folder,
            expected=f"about {needed_bytes / 1e9:.1f} GB",
            got=f"{free_bytes / 1e9:.1f} GB free",
            remedy="record fewer episodes, use --jpeg 90 where it was not, or give another --out",
        )


def _speed(tally: _Tally, contract: Contract) -> float:
    return tally.ticks / contract.fps / max(time.monotonic() - tally.started_s, 1e-9)


def _tell(out: Path, tally: _Tally, contract: Contract) -> None:
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    console = Console(highlight=False, markup=False)
    console.print(f"recorded {tally.recorded} episodes, {tally.ticks} ticks, {size / 1e6:.0f} MB in {out}")
    console.print(f"{_speed(tally, contract):.1f} x real time; episodes that failed and were kept out: {tally.failed}")


app.command(cls=GroupedCommand, name="record")(command_of(RecordRequest, record))
