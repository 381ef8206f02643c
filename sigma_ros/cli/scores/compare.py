# SPDX-License-Identifier: Apache-2.0
"""`sigma compare`: two reports of the same recordings side by side."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from sigma_ros.cli.options import GroupedCommand, verb

if TYPE_CHECKING:
    from sigma_ros.evaluation.scoring.comparison import ReportComparison

app = verb()


class Format(StrEnum):
    """What the comparison is printed as."""

    TEXT = "text"
    MD = "md"
    JSON = "json"


@app.command(cls=GroupedCommand)
def compare(
    a: Annotated[Path, typer.Argument(help="Folder of a report (or of an evaluation): the one to compare with.")],
    b: Annotated[Path, typer.Argument(help="Folder of the other report.")],
    *,
    form: Annotated[Format, typer.Option("--format", help="text, md (for a pull request) or json.")] = Format.TEXT,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Is B better than A? Pairs the windows that both scored; reports of other recordings are refused.

    Both are measured in A's action space. The interval is a bootstrap over recordings, or over windows where there are
    fewer than five.

    Example: sigma compare out/before out/after --format md
    """
    from sigma_ros.evaluation.report.document import plain  # noqa: PLC0415
    from sigma_ros.evaluation.report.markdown import comparison_markdown  # noqa: PLC0415
    from sigma_ros.evaluation.report.saved import read_report  # noqa: PLC0415
    from sigma_ros.evaluation.scoring.comparison import compare_reports  # noqa: PLC0415

    comparison = compare_reports(read_report(a), read_report(b), seed=seed)
    document = plain(comparison.document())
    assert isinstance(document, dict)
    if form is Format.JSON:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    elif form is Format.MD:
        typer.echo(comparison_markdown(document), nl=False)
    else:
        _show(comparison)


def _show(comparison: "ReportComparison") -> None:
    from sigma_ros.evaluation.scoring.comparison import ARMS  # noqa: PLC0415

    console = Console(highlight=False, markup=False)
    for warning in comparison.warnings:
        console.print(warning, style="bold yellow")
    console.print(comparison.headline, style="bold")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("error", "A", "B", "change", "95 % interval", "p", "d"):
        table.add_column(column, justify="left" if column == "error" else "right", no_wrap=True)
    for arm, title in ARMS.items():
        for name, row in getattr(comparison, arm).items():
            table.add_row(
                f"{title} {name}",
                f"{row.baseline:.4g}",
                f"{row.sigma:.4g}",
                f"{row.relative:+.2%}",
                f"{row.relative_low:+.1%} .. {row.relative_high:+.1%}",
                f"{row.p_value:.2g}",
                f"{row.effect_size:.2g}",
            )
    console.print(table)
    console.print(f"A: {comparison.places[0]}\nB: {comparison.places[1]}", soft_wrap=True)
    console.print(f"{comparison.windows} paired windows of {comparison.recordings} recording(s)")
    for name, (one, other) in comparison.differences.items():
        console.print(f"differs: {name}: {one} | {other}", soft_wrap=True)
