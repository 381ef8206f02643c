# SPDX-License-Identifier: Apache-2.0
"""Recordings, data sets and calibrations of others through every verb that reads them: the log of what each does.

    python -m safety.fuzz.real_files FOLDER... [--contract FILE] [--episodes N...] [--out out/real-files]

finds what lies below the folders, prints a table and writes `log.json` and `log.md`. Without `--contract` each place is
read with the contract that `sigma contract draft` writes of it. Exit codes: 0; 1 where a verb ended in anything but a
result or one sentence, or where two verbs count different losses of one recording.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sigma_ros.bags.dataset_facts import episode_numbers
from sigma_ros.bags.files import is_bag
from sigma_ros.bags.losses import WITH_LOSSES, described
from sigma_ros.border import one_line
from sigma_ros.cli.main import app
from sigma_ros.errors import SigmaError

EPISODES = 3
"""Of a data set: so many are read, the first, the last and between."""

COLUMNS = ("place", "verb", "exit", "losses", "seconds", "said")
Place = tuple[str, Path]
"""`bag`, `set` or `calibration`, and where it lies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a verb ended with a place. `losses` is its account of the recording, None where it gave none.

    `broken` says that it ended in neither a result nor one sentence.
    """

    place: str
    verb: str
    exit_code: int
    losses: str | None
    seconds: float
    said: str
    broken: bool = False


def places_in(folder: Path) -> Iterator[Place]:
    """What lies at or below a folder, outermost first; what is none of the three is left out."""
    if folder.is_file():
        kind = "bag" if is_bag(folder) else "calibration" if _is_calibration(folder) else ""
        yield from [(kind, folder)] if kind else []
    elif (folder / "meta" / "info.json").is_file():
        yield "set", folder
    elif is_bag(folder) and not any(child.is_dir() for child in folder.iterdir()):
        yield "bag", folder
    else:
        for child in sorted(folder.iterdir()):
            yield from places_in(child)


def _is_calibration(file: Path) -> bool:
    """Whether a file may be one of an arm: whether it is, the verb says."""
    return file.suffix == ".json" and b'"homing_offset"' in file.read_bytes()[:4096]


class Verbs:
    """Runs verbs on places, as a user would type them.

    Args:
        contract: File or name; None drafts one of each place.
        episodes: Of a data set; None takes `EPISODES` of them.
    """

    def __init__(self, out: Path, contract: str | None, episodes: Sequence[int] | None = None) -> None:
        self._out, self._contract, self._episodes = out, contract, episodes

    def endings(self, kind: str, place: Path) -> list[Ending]:
        """Of all verbs that read this kind of place."""
        work = self._out / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            return list({"bag": self._bag, "set": self._set, "calibration": self._calibration}[kind](place, work))
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _bag(self, place: Path, work: Path) -> Iterator[Ending]:
        contract, drafted = self._robot("--bag", place, work)
        yield from drafted
        reading = ["--contract", contract, "--recover"]
        policy = ["--checkpoint", "mini", "--allow-untrained"]
        yield _run(place, "inspect", [place, *reading, "--json"], _said_in_json)
        yield _run(place, "dataset", ["--bags", place, *reading, "--png", "--out", work / "set"], _said_in_words)
        yield _preprocessed(place, "--bags", place, *reading, "--out", work / "shards")
        for verb, how in (("replay", ["--bag", place]), ("evaluate", [place, "--workers", 0])):
            out = work / verb
            arguments = [*how, *reading, *policy, "--no-supervisor", "--out", out]
            yield _run(place, verb, arguments, partial(_in_reports, out))

    def _set(self, place: Path, work: Path) -> Iterator[Ending]:
        contract, drafted = self._robot("--dataset", place, work)
        yield from drafted
        reading = ["--contract", contract, "--recover"]
        for number in self._episodes or _some(place):
            name = Path(f"{place}#{number}")
            bag = work / f"bag_{number}"
            yield _run(name, "inspect", [place, "--episode", number, *reading, "--json"], _said_in_json)
            made = _run(name, "transcode", [place, "--episode", number, *reading, "--out", bag], _said_in_words)
            yield made
            arguments = ["--dataset", place, "--episodes", number, *reading, "--out", work / f"shards_{number}"]
            yield _preprocessed(name, *arguments)

    def _calibration(self, place: Path, _: Path) -> Iterator[Ending]:
        yield _run(place, "calibrate", ["contract", place], lambda _: None)

    def _robot(self, option: str, place: Path, work: Path) -> tuple[str, list[Ending]]:
        if self._contract is not None:
            return self._contract, []
        drafted = _run(place, "contract", ["draft", option, place, "--out", work / "drafted.yaml"], lambda _: None)
        return str(work / "drafted.yaml") if drafted.exit_code == 0 else "so101", [drafted]


def _some(place: Path) -> list[int]:
    try:
        numbers = episode_numbers(str(place))
    except SigmaError:
        return [0]
    return sorted({numbers[i * (len(numbers) - 1) // (EPISODES - 1)] for i in range(EPISODES)})


def _preprocessed(place: Path, *arguments: object) -> Ending:
    return _run(place, "preprocess", [*arguments, "--hold-out-every", 0, "--image-size", 112], _said_in_words)


def _run(place: Path, verb: str, arguments: Sequence[object], account: Callable[[str], str | None]) -> Ending:
    """One verb in this process; `account` finds its losses in what it printed."""
    said, began_s, broken = io.StringIO(), time.monotonic(), False
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = app([verb, *map(str, arguments)], prog_name="sigma", standalone_mode=False) or 0
        except SystemExit as end:
            code = end.code
        except SigmaError as error:
            code = error.exit_code
            said.write(f"{error}\n")
        except Exception as error:  # that is what is looked for
            code, broken = 1, True
            said.write(f"{type(error).__name__}: {error}\n")
    text = said.getvalue()
    last = next((line for line in reversed(text.splitlines()) if line.strip(" }")), "")
    return Ending(
        place=str(place),
        verb=verb,
        exit_code=int(code or 0),
        losses=account(text) if code in (0, WITH_LOSSES) else None,
        seconds=round(time.monotonic() - began_s, 1),
        said="" if code in (0, WITH_LOSSES) else one_line(last, 300),
        broken=broken or code not in (0, 1, 2, WITH_LOSSES),
    )


def _said_in_json(text: str) -> str:
    return _account(json.loads(text[text.index("\n{") + 1 if not text.startswith("{") else 0 :])["losses"])


def _said_in_words(text: str) -> str:
    return "; ".join(line.partition(": ")[2] for line in text.splitlines() if line.startswith("LOSSES"))


def _in_reports(out: Path, _: str) -> str:
    reports = [json.loads(file.read_text()) for file in sorted(out.rglob("report.json"))]
    return _account({key: n for report in reports for key, n in report["bag"]["losses"].items()})


def _account(losses: Mapping[str, Any]) -> str:
    return described(dict(sorted(losses.items())))


def disagreements(endings: Sequence[Ending]) -> list[str]:
    """Places of which two verbs count different losses."""
    counted: dict[str, dict[str, str]] = {}
    for ending in endings:
        if ending.losses is not None:
            counted.setdefault(ending.place, {})[ending.verb] = ending.losses
    return [f"{place}: {verbs}" for place, verbs in counted.items() if len(set(verbs.values())) > 1]


def table(endings: Sequence[Ending]) -> str:
    """The log as a table in Markdown."""
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for e in endings:
        said = ("BROKEN: " if e.broken else "") + e.said
        rows.append((e.place, e.verb, str(e.exit_code), e.losses or "", f"{e.seconds:g}", said))
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--contract", help="file or name; without it one is drafted of each place")
    parser.add_argument("--episodes", nargs="+", type=int, help=f"of data sets (default {EPISODES} of them)")
    parser.add_argument("--out", type=Path, default=Path("out/real-files"))
    options = parser.parse_args(argv)
    os.environ["COLUMNS"] = "10000"  # no line is broken
    verbs = Verbs(options.out, options.contract, options.episodes)
    endings: list[Ending] = []
    for kind, place in (found for folder in options.folders for found in places_in(folder)):
        endings += verbs.endings(kind, place)
        (options.out / "log.json").write_text(json.dumps([asdict(e) for e in endings], indent=1))
        sys.stdout.write(f"{place}: {len(endings)} endings so far\n")
    text, wrong = table(endings), disagreements(endings)
    (options.out / "log.md").write_text(text + "\n")
    sys.stdout.write("\n".join([text, *(f"DIFFERENT LOSSES: {line}" for line in wrong)]) + "\n")
    return 1 if wrong or any(ending.broken for ending in endings) else 0


if __name__ == "__main__":
    sys.exit(main())
