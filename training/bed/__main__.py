# SPDX-License-Identifier: Apache-2.0
"""python -m training.bed: what memory, text and each part of Sigma are worth, on tasks that need them (storey A).

The scene is tokens instead of pictures; telepathy path, adapters and residual are the real ones. A unit is one task,
arm and training seed; finished ones are kept, so an interrupted run goes on. The registered protocol is
docs/protocol.md.

Examples:
    python -m training.bed --out out/bed
    python -m training.bed --out out/bed --tasks M1 L1 --arms sigma "no recurrence" --seeds 0 1 2
    python -m training.bed --out out/look --reduced
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sigma_ros.stopping import StopRequest, stop_on_signal

from .. import exit_code
from .. import parser as command_parser
from .arms import ARMS, arm_named
from .protocol import TASKS, Protocol
from .results import PAGE, write
from .units import Bed, BedUnit, UnitResult

_TOLD_EVERY = 25


def units(tasks: list[str], arms: list[str], seeds: list[int]) -> list[BedUnit]:
    """Task after task and seed after seed, so that every arm has some training seeds before any has all.

    The base alone has no training seed but the first.
    """
    return [
        BedUnit(task=task, arm=arm_named(arm), seed=seed)
        for seed in seeds
        for task in tasks
        for arm in arms
        if arm_named(arm).kind != "base" or seed == seeds[0]
    ]


def run(bed: Bed, wanted: list[BedUnit], folder: Path, *, stop: StopRequest) -> bool:
    """Runs what is missing and writes the page after each unit; False when it was asked to stop."""
    console = Console(stderr=True, markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console) as bars:
        every = bars.add_task("units", total=len(wanted))
        for number, unit in enumerate(wanted):
            if stop:
                return False
            if not bed.done(unit):
                bed.run(unit, on_step=_Told(unit, bed, console, bars))
                report(bed, wanted, folder)
            bars.update(every, completed=number + 1)
    report(bed, wanted, folder)
    return True


class _Told:
    """Shows a unit's training: a bar on a terminal, a line now and then in a log."""

    def __init__(self, unit: BedUnit, bed: Bed, console: Console, bars: Progress) -> None:
        self._unit, self._console, self._bars = unit, console, bars
        self._steps = int(bed.conditions["recipe"]["steps"]) * (1 + int(bed.conditions["arm_rounds"]))
        self._bar = bars.add_task(unit.name, total=self._steps)

    def __call__(self, step: int, loss: float) -> None:
        self._bars.update(self._bar, completed=step + 1, visible=step + 1 < self._steps)
        if not self._console.is_terminal and (step + 1) % _TOLD_EVERY == 0:
            self._console.print(
                f"{self._unit.name}: step {step + 1} of {self._steps}, loss {loss:.4f}", highlight=False
            )


def report(bed: Bed, wanted: list[BedUnit], folder: Path) -> None:
    """Writes the page of what is done."""
    results: list[UnitResult] = [bed.read(unit) for unit in wanted if bed.done(unit)]
    missing = [unit.name for unit in wanted if not bed.done(unit)]
    if results:
        write(folder, results, bed.conditions, missing=missing)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("bed", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for demonstrations, models, units and bed.md")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: all")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", help="training seeds (default: the protocol's)")
    parser.add_argument("--development", action="store_true", help="play the development seeds; not a result")
    parser.add_argument("--reduced", action="store_true", help="a few steps and episodes, to see that all of it runs")
    parser.add_argument("--steps", type=int, help="training steps; development alone")
    return parser.parse_args(argv)


def _protocol(args: argparse.Namespace) -> Protocol:
    if args.reduced:
        return Protocol.reduced()
    protocol = Protocol(final=not args.development)
    if args.steps and not protocol.final:
        protocol = replace(protocol, recipe=replace(protocol.recipe, steps=args.steps))
    return protocol


def main(argv: list[str] | None = None) -> int:
    """Runs the command; exit codes 0 done, 1 failed, 2 usage, 130 interrupted (the same command goes on)."""
    args = _arguments(argv)

    def begin() -> int:
        protocol = _protocol(args)
        bed = Bed(args.out, protocol)
        wanted = units(args.tasks, args.arms, args.seeds or list(protocol.training_seeds))
        with stop_on_signal() as stop:
            if not run(bed, wanted, args.out, stop=stop):
                raise KeyboardInterrupt
        Console(stderr=True, markup=False).print(f"{args.out / PAGE}")
        return 0

    return exit_code(begin, interrupted="interrupted; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
