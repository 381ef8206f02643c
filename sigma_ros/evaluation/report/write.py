# SPDX-License-Identifier: Apache-2.0
"""Writes a report's three files so that a reader never meets half of one.

Each file is first written under a temporary name in the same folder. Only when all of them are on
disk are they renamed, `report.json` last: where it stands, the other two belong to it.
"""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sigma_ros.errors import MachineError, SigmaError, UsageError
from sigma_ros.evaluation.log import ReplayLog
from sigma_ros.evaluation.report.chunk_table import write_chunks
from sigma_ros.evaluation.report.document import report_document, to_text
from sigma_ros.evaluation.report.page import report_page
from sigma_ros.evaluation.scoring.scores import Scores

JSON, PAGE, CHUNKS = "report.json", "report.html", "chunks.parquet"
FILES = (CHUNKS, PAGE, JSON)
"""In the order in which they appear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPaths:
    """Where the three files of a report are."""

    json: Path
    page: Path
    chunks: Path


def refuse_existing(out_dir: Path, *, force: bool = False) -> None:
    """Raises a UsageError where `out_dir` already holds a report or is no folder; other files there do not matter."""
    _refuse_no_folder(out_dir)
    present = [name for name in FILES if (out_dir / name).exists()]
    if present and not force:
        raise UsageError(
            "the output folder already holds a report",
            where=out_dir,
            got=", ".join(present),
            remedy="give another folder to --out, or --force to replace it",
        )


def _refuse_no_folder(out_dir: Path) -> None:
    if out_dir.exists() and not out_dir.is_dir():
        raise UsageError("the output is not a folder", where=out_dir, remedy="give a folder to --out")


def refuse_unwritable(out_dir: Path) -> None:
    """Makes sure, before costly work, that a folder can be made here and files can be written; leaves nothing behind.

    Raises:
        UsageError: it is no folder.
        MachineError: the machine refuses it (no permission, read-only, full).
    """
    _refuse_no_folder(out_dir)
    made = [folder for folder in (out_dir, *out_dir.absolute().parents) if not folder.exists()]
    try:
        try:
            out_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=out_dir):
                pass
        finally:
            for folder in made:
                if folder.is_dir():
                    folder.rmdir()
    except OSError as error:
        raise MachineError(
            "the output folder cannot be written", where=out_dir, got=error, remedy="give another --out"
        ) from error


def refuse_unwritable_file(file: Path) -> None:
    """The same for a file that is written after everything else.

    Raises:
        UsageError: there is a folder of this name.
        MachineError: its folder cannot be written.
    """
    if file.is_dir():
        raise UsageError("the output is a folder", where=file, remedy="give a file's name")
    refuse_unwritable(file.parent)


def write_or_keep(
    logs: Sequence[ReplayLog],
    scores: Scores,
    out_dir: Path,
    *,
    conditions: Mapping[str, object],
    force: bool = False,
    extras: Mapping[str, object] | None = None,
) -> ReportPaths:
    """As `write_report`, but hours of work are not lost with the disk: a report that is refused goes elsewhere.

    Raises:
        SigmaError: the report could not be written into `out_dir`; the error says where it is instead, if anywhere.
    """
    try:
        return write_report(logs, scores, out_dir, conditions=conditions, force=force, extras=extras)
    except UsageError:
        raise
    except SigmaError as error:
        spare = Path(tempfile.mkdtemp(prefix="sigma_report_"))
        write_report(logs, scores, spare, conditions=conditions, page=False, extras=extras)
        raise SigmaError(
            error.what, where=error.where, got=error.got, remedy=f"its numbers and chunks were kept in {spare}"
        ) from error


def write_report(
    logs: Sequence[ReplayLog],
    scores: Scores,
    out_dir: Path,
    *,
    conditions: Mapping[str, object] | None = None,
    force: bool = False,
    page: bool = True,
    extras: Mapping[str, object] | None = None,
) -> ReportPaths:
    """Writes `chunks.parquet`, `report.html` (unless `page` is False) and, last, `report.json` into `out_dir`.

    `extras` are the documents of optional studies: `semantics`, `latency`.

    Raises:
        UsageError: a report is there already and `force` is not set.
        SigmaError: a file could not be written (disk full, no permission); nothing new is left behind.
    """
    refuse_existing(out_dir, force=force)
    document = report_document(logs, scores, conditions or {}, extras or {})
    writers: dict[str, Callable[[Path], object]] = {
        CHUNKS: lambda path: write_chunks(logs, path),
        PAGE: lambda path: path.write_text(report_page(logs, scores, document), encoding="utf-8"),
        JSON: lambda path: path.write_text(to_text(document), encoding="utf-8"),
    }
    if not page:
        del writers[PAGE]
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        if not page:
            (out_dir / PAGE).unlink(missing_ok=True)  # of an earlier run
        write_files(writers, out_dir)
    except OSError as error:
        raise SigmaError(
            "the report could not be written",
            where=out_dir,
            got=error,
            remedy="free some space, or choose another --out",
        ) from error
    return ReportPaths(json=out_dir / JSON, page=out_dir / PAGE, chunks=out_dir / CHUNKS)


def write_files(writers: Mapping[str, Callable[[Path], object]], out_dir: Path) -> None:
    """Writes files so that all of them appear or none; the last one is removed first, and comes back last."""
    staged = {name: out_dir / f".{name}.{os.getpid()}.tmp" for name in writers}
    try:
        for name, path in staged.items():
            writers[name](path)
            _flush(path)
        (out_dir / list(writers)[-1]).unlink(missing_ok=True)
        for name, path in staged.items():
            path.replace(out_dir / name)
    finally:
        for path in staged.values():
            path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
