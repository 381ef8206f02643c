#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A coverage-guided fuzzer of everything that reads files of others: bags, data sets, contracts, calibrations, reports.

    python safety/fuzz/fuzz_readers.py --minutes 30 --out out/fuzz-readers

An input is a small folder; a mutant that reaches a line of the package that none reached before joins the corpus
(`sys.monitoring`, each line reported once). Allowed ends are a result and a `SigmaError` of one line. Anything else,
more than `LIMIT_S` or more than `MEMORY_BYTES` is a finding: its folder is kept, and `--only FOLDER` reads it again.
Minutes and seconds are of the processor, so that a busy machine neither hides nor makes a hang.
"""

import argparse
import json
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), *(str(ROOT / "test" / name) for name in ("support", "bags"))]

from bags import small_contract, write_recording, write_video_recording  # noqa: E402
from fuzz_bags import HangError  # noqa: E402
from test_transcode import write_v2, write_v3  # noqa: E402

from sigma_ros.bags.dataset_facts import check_numbers, episode_numbers  # noqa: E402
from sigma_ros.bags.episode import Episode  # noqa: E402
from sigma_ros.bags.reader import open_bag  # noqa: E402
from sigma_ros.bags.transcode import load_episode, rows_of  # noqa: E402
from sigma_ros.calibration import read_calibration  # noqa: E402
from sigma_ros.contract_file import load_contract  # noqa: E402
from sigma_ros.errors import SigmaError  # noqa: E402
from sigma_ros.evaluation.report.saved import read_report as read_saved_report  # noqa: E402
from sigma_ros.inspection.draft import draft_contract  # noqa: E402
from sigma_ros.inspection.places import look_into  # noqa: E402

LIMIT_S = 60
WAITS_LONGER = 10
"""A reader that waits without computing (for a pipe, say) hangs after so many times `LIMIT_S` of the clock."""

MEMORY_BYTES = 1 << 30
MOST_DEATHS = 20
MOST_CHARACTERS = 20_000  # a contract's problems are all listed
TOOL = sys.monitoring.COVERAGE_ID
PACKAGE = str(ROOT / "sigma_ros")
Files = dict[str, bytes]
"""An input: what lies in its folder, by path."""

WORDS = [b"", *b"0 -1 4294967295 1e308 nan null [ { ../ {a} *a \xff\xfe \0".split(b" ")]


# How a folder is read, by kind.


def read_bag(folder: Path) -> None:
    """As every verb does that ticks, and as inspection does."""
    try:
        look_into(str(folder), contract=small_contract())
    finally:
        with open_bag(folder, recover=True, stamps="log") as bag:
            list(Episode(bag, small_contract(), image_size_px=16))


def read_set(folder: Path) -> None:
    """All episodes of a data set, pictures too."""
    contract = small_contract()
    draft_contract(look_into(str(folder), contract=contract), "fuzzed")
    numbers = episode_numbers(str(folder))
    check_numbers(str(folder), numbers[:4], contract, revision=None, rename={})
    for number in numbers[:4]:
        list(rows_of(load_episode(str(folder), number, contract), contract))


def read_report(folder: Path) -> None:
    """A saved report, and a folder that says it is a checkpoint."""
    try:
        look_into(str(folder))
    finally:
        read_saved_report(folder)


READERS: dict[str, Callable[[Path], object]] = {
    "bag": read_bag,
    "set": read_set,
    "contract": lambda folder: load_contract(folder / "robot.yaml"),
    "calibration": lambda folder: read_calibration(folder / "arm.json"),
    "report": read_report,
}


def seeds(folder: Path) -> list[tuple[str, Files]]:
    """Small whole inputs of every kind."""
    contract = small_contract()
    quality: Any = None
    for name, storage, quality in (("mcap", "mcap", None), ("db3", "sqlite3", 80), ("jpeg", "mcap", 80)):
        write_recording(folder / name, contract, ticks=6, storage=storage, jpeg_quality=quality)
    write_v2(folder / "v2")
    write_v3(folder / "v3")
    write_video_recording(folder / "video", contract)
    found = [("bag", _files(folder / name)) for name in ("mcap", "db3", "jpeg", "video")]
    found += [("bag", {name: data for name, data in found[0][1].items() if name.endswith(".mcap")})]
    found += [("set", _files(folder / name)) for name in ("v2", "v3")]
    found += [("contract", {"robot.yaml": file.read_bytes()}) for file in sorted((ROOT / "config").glob("so101*.yaml"))]
    motor = {"id": 1, "drive_mode": 0, "homing_offset": -100, "range_min": 700, "range_max": 3400}
    names = contract.joint_names
    found += [
        ("calibration", {"arm.json": json.dumps({name: motor | {"id": i} for i, name in enumerate(names)}).encode()})
    ]
    config = {"type": "pi05", "chunk_size": 50, "input_features": {"a": {"type": "VISUAL", "shape": [3, 4, 4]}}}
    report = {"schema": "sigma_ros/report/2", "episodes": [{"sha256": "0", "name": "a"}]}
    texts = {"config.json": config, "report.json": report, "summary.json": report}
    return [*found, ("report", {name: json.dumps(value).encode() for name, value in texts.items()})]


def _files(folder: Path) -> Files:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def mutant(files: Files, other: Files, rng: random.Random) -> Files:
    """A copy in which some bytes of a file are others, foreign, repeated or gone."""
    changed = dict(files)
    name = rng.choice(sorted(changed))
    for _ in range(rng.choice((1, 1, 2, 4))):
        changed[name] = _changed(bytearray(changed[name]), other.get(name, b"") or b"0", rng)
    if rng.random() < 0.02:
        del changed[name]
    return changed or dict(files)


def _changed(data: bytearray, foreign: bytes, rng: random.Random) -> bytes:
    at, size = rng.randrange(len(data) + 1), rng.choice((1, 1, 4, 16, 200))
    kind = rng.randrange(8)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at : at + size] = rng.choice(WORDS)
    elif kind == 2:
        data[at:at] = rng.choice(WORDS)
    elif kind == 3:
        del data[at : at + size]
    elif kind == 4:
        data[at:at] = data[at : at + size] * rng.choice((1, 2, 50, 20_000))
    elif kind == 5:
        start = rng.randrange(len(foreign))
        data[at : at + size] = foreign[start : start + size]
    elif kind == 6:
        del data[at:]
    else:
        layout = rng.choice(("<I", "<Q", ">I"))
        value = rng.choice((0, 1, 2**31, 2**32 - 1, rng.randrange(300)))
        data[at : at + struct.calcsize(layout)] = struct.pack(layout, value)
    return bytes(data[: 1 << 22])


class Lines:
    """Lines of the package that were reached; each costs once."""

    def __init__(self) -> None:
        self.reached: set[tuple[str, int]] = set()
        sys.monitoring.use_tool_id(TOOL, "fuzz")
        sys.monitoring.register_callback(TOOL, sys.monitoring.events.LINE, self._line)
        sys.monitoring.set_events(TOOL, sys.monitoring.events.LINE)

    def _line(self, code: CodeType, line: int) -> object:
        if code.co_filename.startswith(PACKAGE):
            self.reached.add((code.co_filename, line))
        return sys.monitoring.DISABLE


@dataclass(kw_only=True)
class Campaign:
    """What a worker has done; written after each input, so that a process that dies has told."""

    executions: int = 0
    cpu_s: float = 0.0
    corpus: int = 0
    lines: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    findings: dict[str, str] = field(default_factory=dict)


def problem_of(kind: str, folder: Path, limit_s: float = LIMIT_S) -> tuple[str, str]:
    """How reading ended, and what is wrong with that: the error's name and place, or nothing."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, _too_long)
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    signal.setitimer(signal.ITIMER_REAL, WAITS_LONGER * limit_s)
    end, problem = "read", ""
    try:
        READERS[kind](folder)
    except SigmaError as error:
        end = "refused"
        if "\n" in str(error) or len(str(error)) > MOST_CHARACTERS:
            problem = f"an error of more than one line: {str(error)[:80]!r}"
    except (Exception, HangError) as error:
        end = type(error).__name__
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(PACKAGE)]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside"
        problem = f"{end} in {place}: {str(error)[:80]!r}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return end, problem or (f"memory grew by {grown >> 20} MiB" if grown > MEMORY_BYTES else "")


def _too_long(*_: object) -> None:
    raise HangError


def _campaign(out: Path) -> Campaign:
    file = out / "campaign.json"
    return Campaign(**json.loads(file.read_text())) if file.is_file() else Campaign()


def _work(out: Path, cpu_s: float, seed: int) -> None:
    """Reads mutants until the campaign has had its time."""
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    rng = random.Random(seed)
    file, state = out / "campaign.json", _campaign(out)
    earlier_s = state.cpu_s
    with tempfile.TemporaryDirectory(prefix="fuzz_readers_") as name:
        corpus = seeds(Path(name) / "seeds")
        lines, place, fresh = Lines(), out / "current", list(corpus)
        while state.cpu_s < cpu_s:
            is_seed = bool(fresh)  # it also pays for imports
            kind, files = fresh.pop() if is_seed else rng.choice(corpus)
            mates = [other for its, other in corpus if its == kind]
            tried = files if is_seed else mutant(files, rng.choice(mates), rng)
            _put(place, kind, tried)
            known = len(lines.reached)
            end, problem = problem_of(kind, place / "input", 10 * LIMIT_S if is_seed else LIMIT_S)
            state.executions, state.cpu_s = state.executions + 1, earlier_s + time.process_time()
            state.ends[f"{kind} {end}"] = state.ends.get(f"{kind} {end}", 0) + 1
            if len(lines.reached) > known and len(corpus) < 4000:
                corpus.append((kind, tried))
            if problem and problem.split(":")[0] not in state.findings:
                state.findings[problem.split(":")[0]] = problem
                shutil.copytree(place, out / f"finding_{len(state.findings)}", dirs_exist_ok=True)
            state.corpus, state.lines = len(corpus), max(state.lines, len(lines.reached))
            if state.executions % 50 == 0 or problem:
                file.write_text(json.dumps(asdict(state), indent=1))
        file.write_text(json.dumps(asdict(state), indent=1))


def _put(place: Path, kind: str, files: Files) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "kind").write_text(kind)
    for name, data in files.items():
        target = place / "input" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def main() -> int:
    """The command; 0: nothing found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz-readers"))
    parser.add_argument("--only", type=Path, help="read this finding's folder again")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        READERS[(options.only / "kind").read_text()](options.only / "input")
        return 0
    if options.work:
        _work(options.out, 60 * options.minutes, options.seed)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    deaths = 0
    while _campaign(options.out).cpu_s < 60 * options.minutes and deaths < MOST_DEATHS:
        again = [sys.executable, "-W", "ignore", __file__, "--work", "--out", str(options.out)]
        again += ["--minutes", str(options.minutes), "--seed", str(options.seed + deaths)]
        worker = subprocess.run(again, check=False, stderr=subprocess.PIPE)
        if worker.returncode:
            deaths += 1
            (options.out / f"death_{deaths}.txt").write_bytes(worker.stderr[-4000:])
            shutil.copytree(options.out / "current", options.out / f"death_{deaths}", dirs_exist_ok=True)
    state = asdict(_campaign(options.out))
    sys.stdout.write(json.dumps(state | {"deaths": deaths}, indent=1) + "\n")
    return 1 if deaths or state["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
