# SPDX-License-Identifier: Apache-2.0
"""`sigma inspect`: what is in a bag, a LeRobot data set or a checkpoint."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from sigma_ros.border import one_line, write_text
from sigma_ros.cli.options import Recover, Stamps, Strict, argument, command_of, option, switch

if TYPE_CHECKING:
    from sigma_ros.bags.reader import Stamps as StampSource
    from sigma_ros.inspection.facts import Contents, TopicFacts

app = typer.Typer(add_completion=False, help="Say what is in a bag, a data set or a checkpoint.")
_COLUMNS = ("stream", "type", "messages", "rate", "longest gap", "size, joints")
PAGE = "contents.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectRequest:
    """Lists topics or features with types, rates, gaps, sizes, joints and units, tasks, losses, and what looks odd.

    Units are guessed from the numbers, and the reason is said. Losses are an exit code of 3, as in every verb.

    Example: sigma inspect bags/episode_0 --out out/look
    """

    place: str = argument("A bag, a LeRobot data set (folder or Hub id), or a checkpoint folder.")
    contract: str | None = option("Count what this robot could not use, as every other verb does.", default=None)
    revision: str | None = option("Of a data set on the Hub.", default=None)
    episodes: list[int] | None = option(
        "Of a data set; may be repeated. Some of all otherwise.", default=None, name="--episode", min=0
    )
    as_json: bool = switch("Print one JSON object.", name="--json")
    out: Path | None = option("Also write a page with pictures into this folder.", default=None)
    strict: Strict = False
    recover: Recover = False
    stamps: Stamps = "header"


def inspect(request: InspectRequest) -> int:
    """Looks into the place and tells; gives the exit code."""
    from sigma_ros.bags.losses import WITH_LOSSES, refuse_losses  # noqa: PLC0415 - help stays fast
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415
    from sigma_ros.inspection.places import look_into  # noqa: PLC0415

    found = look_into(
        request.place,
        contract=None if request.contract is None else load_contract(request.contract),
        recover=request.recover,
        revision=request.revision,
        episodes=request.episodes or (),
        stamps=cast("StampSource", request.stamps),
    )
    refuse_losses(request.place, found.losses, strict=request.strict)
    if request.as_json:
        typer.echo(json.dumps(as_document(found), indent=1, ensure_ascii=False))
    else:
        _show(found, Console(highlight=False, markup=False))
    if request.out is not None:
        _write_page(found, request.out)
    return WITH_LOSSES if found.losses else 0


def as_document(contents: "Contents") -> dict[str, Any]:
    """What was found, without the pictures, as JSON holds it."""
    document = asdict(contents)
    for stream in document["streams"]:
        del stream["pictures"]
    return document


def _show(contents: "Contents", console: Console) -> None:
    console.print(f"{contents.kind} {contents.path}", style="bold")
    for name, value in contents.facts.items():
        console.print(f"  {name}: {value}")
    console.print(f"  episodes: {contents.episodes}")
    streams = _table(*_COLUMNS)
    for stream in contents.streams:
        streams.add_row(*_row(stream))
    console.print(streams)
    joints = _table("joint", "least", "largest", "unit", "why")
    for row in _joints(contents):
        joints.add_row(*row)
    if joints.row_count:
        console.print(joints)
    for task, count in contents.tasks.items():
        console.print(f"task, {count} times: {task}")
    for finding in contents.findings:
        console.print(f"NOTE: {one_line(finding)}", style="yellow")
    for reason, count in contents.losses.items():
        console.print(f"LOST: {one_line(reason)} {count}", style="yellow")


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _row(stream: "TopicFacts") -> tuple[str, ...]:
    rhythm = stream.rhythm
    size = "" if stream.size_px is None else f"{stream.size_px[0]}x{stream.size_px[1]}"
    return (
        one_line(stream.name),
        one_line(stream.kind),
        str(stream.messages),
        "" if rhythm is None else f"{rhythm.rate_hz:.3g} Hz",
        "" if rhythm is None else f"{rhythm.longest_gap_s:.3g} s",
        ", ".join(filter(None, (size, stream.encoding, *map(one_line, stream.joints)))),
    )


def _joints(contents: "Contents") -> Iterator[tuple[str, ...]]:
    """The joints whose units were guessed, with the range of the stream that named them."""
    names = tuple(guess.joint for guess in contents.units)
    stream = next((s for s in contents.streams if len(s.low) == len(names) and s.joints in (names, ())), None)
    for i, guess in enumerate(contents.units):
        ends = ("", "") if stream is None else (f"{stream.low[i]:.4g}", f"{stream.high[i]:.4g}")
        yield one_line(guess.joint), *ends, guess.unit, guess.reason + ("" if guess.certain else " (a guess)")


def _write_page(contents: "Contents", out: Path) -> None:
    from sigma_ros.evaluation.report.page import data_uri, render  # noqa: PLC0415 - only for pages

    page = render(
        "contents_page.html.jinja",
        {},
        report={"verdict": {"warnings": []}},
        contents=contents,
        columns=_COLUMNS,
        rows=[_row(stream) for stream in contents.streams],
        joints=list(_joints(contents)),
        pictures={s.name: [data_uri(picture) for picture in s.pictures] for s in contents.streams if s.pictures},
    )
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / PAGE, page)
    Console(stderr=True, highlight=False, markup=False).print(f"page: {out / PAGE}")


app.command(name="inspect")(command_of(InspectRequest, inspect))
