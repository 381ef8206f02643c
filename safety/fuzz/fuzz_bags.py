#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The bag campaign: damaged bags through the whole replay. No crash, no hang, no silently empty or wrong result.

    python safety/fuzz/fuzz_bags.py --bags 2000 --seed 0 --out out/fuzz-bags

writes `fuzz.json` and `fuzz.md`. Exit codes: 0 every bag was handled, 1 not. A bag that was not can be had again with
`--only NUMBER --keep FOLDER`. The replay uses a stand-in policy that looks at every pixel and joint, so a result that
differs in anything is seen.
"""

import argparse
import hashlib
import json
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "test" / "support")]

from bag_mutations import Expected, Faults, Mutation, mutations, write  # noqa: E402
from bags import small_contract  # noqa: E402
from stub_runtime import StubRuntime  # noqa: E402

from sigma_ros.errors import SigmaError  # noqa: E402
from sigma_ros.evaluation.log import ReplayLog  # noqa: E402
from sigma_ros.evaluation.replay import ReplayOptions, replay  # noqa: E402
from sigma_ros.policy.schedule import Schedule  # noqa: E402
from sigma_ros.supervisor.limits import SupervisorLimits  # noqa: E402
from sigma_ros.values import AdapterSettings  # noqa: E402

CONTRACT = small_contract()
OPTIONS = ReplayOptions(
    settings=AdapterSettings(), schedule=Schedule(8, 16), supervisor_limits=SupervisorLimits.for_replay()
)
LIMIT_S = 30
MEMORY_BYTES = 6 << 30
SOURCES = ("mcap", "sqlite3")


class Watching(StubRuntime):
    """The stand-in's base also depends on every pixel of the window."""

    def step(self, window: Any, state: Any, **how: Any) -> Any:
        """As the stand-in, plus what is seen."""
        inference, state = super().step(window, state, **how)
        seen = sum(int(image.sum()) for frame in window.frames for image in frame.images.values())
        object.__setattr__(inference.chunk, "base_rad", inference.chunk.base_rad + 1e-9 * (seen % 100_003))
        return inference, state


@dataclass(frozen=True, kw_only=True)
class Case:
    """One damaged bag and what became of it; `problem` is empty when it was handled."""

    number: int
    mutation: str
    storage: str
    outcome: str
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class FuzzResult:
    """A replay's end: an error's text, or a digest of everything in the log, with what was lost."""

    error: str = ""
    digest: str = ""
    losses: int = 0
    checksummed: bool = True


class HangError(BaseException):
    """A replay took longer than `LIMIT_S`; not an Exception, so that nothing swallows it."""


def run(numbers: Sequence[int], seed: int, folder: Path, *, keep: Path | None = None) -> list[Case]:
    """Some cases, one after the other, in this process."""
    return [case_of(number, seed, folder, keep=keep) for number in numbers]


def case_of(number: int, seed: int, folder: Path, *, keep: Path | None = None) -> Case:
    """Damages a bag and replays it, twice where there were losses: strict must refuse what else only counts."""
    kinds = list(mutations())
    mutation = kinds[number % len(kinds)]
    storage = SOURCES[number // len(kinds) % len(SOURCES)]
    rng = np.random.default_rng([seed, number])
    bag = folder / f"case_{number}"
    shutil.rmtree(bag, ignore_errors=True)
    shutil.copytree(pristine(folder, storage), bag)
    mutation.apply(bag, rng, CONTRACT)
    if keep is not None:
        shutil.copytree(bag, keep / bag.name, dirs_exist_ok=True)
    try:
        outcome, problem = judged(mutation, storage, bag, expected=expected(folder, storage))
    except HangError:
        outcome, problem = "hang", f"no end after {LIMIT_S} s"
    except Exception as error:  # what escapes is what the campaign looks for
        outcome, problem = "crash", f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(bag, ignore_errors=True)
    return Case(number=number, mutation=mutation.name, storage=storage, outcome=outcome, problem=problem)


def judged(mutation: Mutation, storage: str, bag: Path, *, expected: FuzzResult) -> tuple[str, str]:
    """What became of the damaged bag, and what is wrong with that."""
    result = replayed(bag)
    same = result.digest == expected.digest
    outcome = "refused" if result.error else "losses" if result.losses else "same" if same else "changed"
    if mutation.expected is Expected.SAME and outcome != "same":
        return outcome, f"should change nothing: {result.error or result}"
    if mutation.expected is Expected.LOST and outcome in ("same", "changed"):
        return outcome, "should be an error or a loss"
    if mutation.expected is Expected.NOTICED and outcome == "changed" and result.checksummed:
        return outcome, "another result, without a word"
    if outcome == "losses" and not replayed(bag, strict=True).error:
        return outcome, "strict accepts losses"
    if outcome == "refused" and mutation.expected is Expected.NOTICED:
        rescued = replayed(bag, recover=True)
        silent = not rescued.error and not rescued.losses and rescued.checksummed
        if silent and rescued.digest != expected.digest:
            return outcome, "--recover gives another result, without a word"
    return ("unverifiable" if outcome == "changed" and not result.checksummed else outcome), ""


def replayed(bag: Path, *, strict: bool = False, recover: bool = False) -> FuzzResult:
    """A replay with a time limit."""

    def too_long(_signal: int, _frame: FrameType | None) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LIMIT_S)
    options = replace(OPTIONS, strict=strict, recover=recover)
    try:
        log = replay(bag, contract=CONTRACT, runtime=Watching(CONTRACT), options=options)
    except SigmaError as error:
        return FuzzResult(error=str(error))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return FuzzResult(digest=digest(log), losses=sum(log.losses.values()), checksummed=log.bag.checksummed)


def digest(log: ReplayLog) -> str:
    """A hash of every number that a report could be made of, but for what belongs to the files."""
    ticks, decisions = log.ticks, log.decisions
    sums = hashlib.sha256()
    arrays: list[Any] = [ticks.epoch, ticks.tick, ticks.stamp_ns, ticks.valid, ticks.joints_rad, ticks.action_rad]
    arrays += [decisions.stamp_ns, decisions.command_rad, decisions.applied_scale]
    for entry in log.inferences:
        arrays += [entry.chunk.base_rad, entry.chunk.residual_rad, np.float64(entry.chunk.scale)]
    for array in arrays:
        sums.update(np.ascontiguousarray(array).tobytes())
    sums.update(repr((log.run.task, decisions.state, decisions.reason, log.complete)).encode())
    return sums.hexdigest()


@cache
def pristine(folder: Path, storage: str) -> Path:
    """The undamaged bag."""
    path = folder / f"{storage}_source"
    return path if path.exists() else write(path, CONTRACT, Faults(), np.random.default_rng(0), storage=storage)


@cache
def expected(folder: Path, storage: str) -> FuzzResult:
    """Its replay."""
    return replayed(pristine(folder, storage))


def _batch(numbers: Sequence[int], seed: int, folder: Path) -> list[Case]:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    return run(numbers, seed, folder)


def campaign(count: int, seed: int, folder: Path, workers: int) -> Iterator[Case]:
    """All cases, in processes of their own: one that dies is a finding, not the end."""
    for storage in SOURCES:
        pristine(folder, storage)
    batches = [range(first, min(first + 20, count)) for first in range(0, count, 20)]
    while batches:
        with ProcessPoolExecutor(max_workers=workers, mp_context=get_context("spawn")) as pool:
            futures = [(numbers, pool.submit(_batch, numbers, seed, folder)) for numbers in batches]
            batches = []
            for numbers, future in futures:
                try:
                    yield from future.result()
                except BrokenProcessPool:
                    if len(numbers) == 1:
                        yield Case(
                            number=numbers[0], mutation="?", storage="?", outcome="crash", problem="process died"
                        )
                    else:
                        batches += [range(number, number + 1) for number in numbers]


def table(cases: Sequence[Case]) -> str:
    """Outcomes by mutation as Markdown."""
    outcomes = sorted({case.outcome for case in cases})
    names = [name for name in dict.fromkeys(m.name for m in mutations()) if any(c.mutation == name for c in cases)]
    lines = [f"| mutation | {' | '.join(outcomes)} | not handled |", "| --- " + "| ---: " * (len(outcomes) + 1) + "|"]
    for name in [*names, "all"]:
        mine = [case for case in cases if name in (case.mutation, "all")]
        counts = Counter(case.outcome for case in mine)
        wrong = sum(bool(case.problem) for case in mine)
        lines.append(f"| {name} | {' | '.join(str(counts[o] or '') for o in outcomes)} | {wrong} |")
    return "\n".join(lines)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bags", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz-bags"))
    parser.add_argument("--only", type=int, help="one case, in this process")
    parser.add_argument("--keep", type=Path, help="with --only: copy the damaged bag here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz_bags_") as name:
        folder = Path(name)
        if options.only is not None:
            sys.stdout.write(f"{case_of(options.only, options.seed, folder, keep=options.keep)}\n")
            return 0
        cases = sorted(
            tqdm(campaign(options.bags, options.seed, folder, options.workers), total=options.bags, unit="bag"),
            key=lambda case: case.number,
        )
    problems = [case for case in cases if case.problem]
    options.out.mkdir(parents=True, exist_ok=True)
    report = {"bags": len(cases), "seed": options.seed, "not_handled": [asdict(case) for case in problems]}
    (options.out / "fuzz.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (options.out / "fuzz.md").write_text(table(cases) + "\n", encoding="utf-8")
    lines = [f"not handled: {c.number} {c.mutation} ({c.storage}): {c.outcome}: {c.problem}" for c in problems[:20]]
    sys.stdout.write("\n".join([table(cases), *lines]) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
