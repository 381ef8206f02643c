# SPDX-License-Identifier: Apache-2.0
"""The soak: hours of running with a random fault every half minute, judged by the independent oracle.

    python -m safety.soak --hours 2 --out out/soak        two hours
    python -m safety.soak --hours 8 --seed 1              a night

The supervisor is the real process over real DDS; arm and policy are mocks (`safety/rig.py`). Writes `soak.json` and
`soak.md` every five minutes and at the end. Exit codes: 0 nothing found, 1 a violation, a missed reaction or a leak.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from safety.fault_catalogue import CATALOGUE
from safety.faults import Fault, FaultTrial, attempt
from safety.rig import Rig, rig

RSS_GROWTH_MB = 20.0
_WRITE_EVERY_S = 300.0
_WARM_UP_S = 120.0


class SoakRecord:
    """What the soak has seen, and how it reads."""

    def __init__(self, seed: int, hours: float) -> None:
        self.facts: dict[str, Any] = {"seed": seed, "hours_asked": hours, "began": time.strftime("%Y-%m-%d %H:%M:%S")}
        self.trials: list[FaultTrial] = []
        self.samples: list[dict[str, Any]] = []
        self._began_s = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._began_s

    def sample(self, bench: Rig) -> None:
        """Memory, descriptors, threads of the processes now."""
        assert bench.supervisor is not None
        assert bench.policy is not None
        self.samples.append(
            {
                "at_s": round(self.seconds, 1),
                "supervisor": bench.supervisor.resources(),
                "policy": bench.policy.resources(),
            }
        )

    def growth(self, what: str) -> float:
        """Of the supervisor's resource, from the end of the warm-up to the newest sample."""
        values = [s["supervisor"][what] for s in self.samples if s["at_s"] >= _WARM_UP_S and s["supervisor"]]
        return round(values[-1] - values[0], 2) if values else 0.0

    def document(self, bench: Rig) -> dict[str, Any]:
        """All of it."""
        report, last = bench.oracle.report, bench.states[-1][1]
        return self.facts | {
            "hours": round(self.seconds / 3600.0, 3),
            "ticks": report.ticks,
            "commands": report.commands,
            "violations": report.violations,
            "found": report.found,
            "first": report.first,
            "used": report.used,
            "lost_on_the_way_to_the_oracle": {"commands": bench.lost_commands, "states": bench.lost_states},
            "supervisor_own_violations": int(last.violations),
            "tick_gap_max_ms": max((trial.tick_gap_ms for trial in self.trials if trial.fault != "F33"), default=0.0),
            "faults": len(self.trials),
            "missed": sum(not trial.ok for trial in self.trials),
            "growth": {what: self.growth(what) for what in ("rss_mb", "fds", "threads")},
            "trials": [trial.row() for trial in self.trials],
            "samples": self.samples,
        }

    def write(self, bench: Rig, out: Path) -> dict[str, Any]:
        """Writes both files whole or not at all."""
        document = self.document(bench)
        out.mkdir(parents=True, exist_ok=True)
        for name, text in (("soak.json", json.dumps(document, indent=1) + "\n"), ("soak.md", table(document))):
            temporary = out / f"{name}.tmp"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(out / name)
        return document


def table(document: dict[str, Any]) -> str:
    """The result as Markdown: one line of facts, one row per fault."""
    growth = document["growth"]
    lines = [
        f"{document['hours']:.2f} h, {document['ticks']:,} ticks, {document['faults']} faults, "
        f"seed {document['seed']}: "
        f"**{document['violations']} violations**, {document['missed']} reactions missed; supervisor memory "
        f"{growth['rss_mb']:+.1f} MB, descriptors {growth['fds']:+g}, threads {growth['threads']:+g}; longest gap "
        f"between ticks {document['tick_gap_max_ms']:.0f} ms (without the injected pauses of the supervisor).",
        "",
        "| fault | row | times | noticed as expected | detection ms: median, worst | back in RUN, worst s |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    names = sorted({trial["name"] for trial in document["trials"]})
    for name in names:
        trials = [trial for trial in document["trials"] if trial["name"] == name]
        times = [trial["detection_ms"] for trial in trials if trial["detection_ms"] is not None]
        said = f"{np.median(times):.0f}, {max(times):.0f}" if times else ""
        back = max(trial["recovered_s"] for trial in trials)
        good = sum(trial["ok"] for trial in trials)
        lines.append(f"| {name} | {trials[0]['fault']} | {len(trials)} | {good} | {said} | {back:.1f} |")
    return "\n".join(lines) + "\n"


def soak(bench: Rig, record: SoakRecord, *, hours: float, every_s: float, out: Path, quiet: bool) -> None:
    """Draws faults until the time is over."""
    rng = np.random.default_rng(record.facts["seed"])
    drawn = [fault for fault in CATALOGUE if fault.soak]
    end_s, written_s = hours * 3600.0, 0.0
    with tqdm(total=round(end_s), unit="s", disable=quiet) as bar:
        while (begun_s := record.seconds) < end_s:
            fault: Fault = drawn[int(rng.integers(len(drawn)))]
            bar.set_description(fault.name)
            bench.prepare_policy()
            record.trials.append(attempt(bench, fault))
            bench.rest(max(0.0, every_s - (record.seconds - begun_s)))
            record.sample(bench)
            if record.seconds - written_s > _WRITE_EVERY_S:
                record.write(bench, out)
                written_s = record.seconds
            bar.update(round(record.seconds) - bar.n)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds from fault to fault (default 30)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/soak"))
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    record = SoakRecord(options.seed, options.hours)
    with rig(options.out / "nodes.log") as bench:
        record.sample(bench)
        soak(bench, record, hours=options.hours, every_s=options.every, out=options.out, quiet=options.quiet)
        bench.settle()
        document = record.write(bench, options.out)
    sys.stdout.write(table(document))
    leaks = document["growth"]["rss_mb"] > RSS_GROWTH_MB or document["growth"]["fds"] > 0
    return 1 if document["violations"] or document["missed"] or leaks else 0


if __name__ == "__main__":
    sys.exit(main())
