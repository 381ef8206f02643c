# SPDX-License-Identifier: Apache-2.0
"""A report that was written earlier, read back: its document and its scored windows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigma_ros.border import one_line, read_json
from sigma_ros.errors import SigmaError, UsageError
from sigma_ros.evaluation.report.chunk_table import read_windows
from sigma_ros.evaluation.report.document import SCHEMA
from sigma_ros.evaluation.report.write import CHUNKS, JSON
from sigma_ros.evaluation.scoring.windows import Normalise, WindowActions, renumbered

SUMMARY, SUMMARY_SCHEMA = "summary.json", "sigma_ros/evaluation/2"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedReport:
    """`document` is report.json; `normalise` leads to the action space in which it was scored."""

    place: Path
    document: Mapping[str, Any]
    windows: WindowActions
    normalise: Normalise

    @property
    def recordings(self) -> tuple[str, ...]:
        """The recordings' hashes in the report's order; one that is in it twice is told apart by a number."""
        hashes = [row["sha256"] for row in self.document["episodes"]]
        return tuple(f"{digest}#{hashes[:i].count(digest)}" for i, digest in enumerate(hashes))

    @property
    def names(self) -> tuple[str, ...]:
        """The recordings' names in the report's order."""
        return tuple(row["name"] for row in self.document["episodes"])


def read_report(place: Path) -> SavedReport:
    """Reads the folder of a report or of an evaluation of many bags, or the .json in it.

    Raises:
        UsageError: there is no report at this place.
        SigmaError: its files are damaged or of another version.
    """
    folder = place.parent if place.name in (JSON, SUMMARY) else place
    if (folder / SUMMARY).is_file():
        return _read_summary(folder)
    if not (folder / JSON).is_file():
        raise UsageError("there is no report", where=place, expected=f"a folder with {JSON} and {CHUNKS}, or {SUMMARY}")
    document = _document(folder / JSON, SCHEMA)
    windows, normalise = read_windows(folder / CHUNKS)
    return SavedReport(place=folder, document=document, windows=windows, normalise=normalise)


def _read_summary(folder: Path) -> SavedReport:
    """The reports of an evaluation's bags as one."""
    document = _document(folder / SUMMARY, SUMMARY_SCHEMA)
    if not document["episodes"]:
        raise UsageError("no bag of the evaluation could be used", where=folder)
    parts = [read_windows(folder / "bags" / row["folder"] / CHUNKS) for row in document["episodes"]]
    windows = WindowActions.joined([renumbered(actions, number) for number, (actions, _) in enumerate(parts)])
    return SavedReport(place=folder, document=document, windows=windows, normalise=parts[0][1])


def _document(file: Path, schema: str) -> dict[str, Any]:
    try:
        document = read_json(file)
    except SigmaError as error:
        raise SigmaError("the report cannot be read", where=file, got=error.got or error.what) from error
    if not isinstance(document, dict) or document.get("schema") != schema:
        got = one_line(document.get("schema") if isinstance(document, dict) else document, 80)
        raise SigmaError("the report is of another version", where=file, expected=schema, got=got)
    return document
