# SPDX-License-Identifier: Apache-2.0
"""The fault campaign: every fault of the catalogue against the real supervisor over real DDS, judged by the oracle.

    python -m safety.fault_campaign --out out/safety             CI size: each fault once, five kills
    python -m safety.fault_campaign --large --out out/safety     a hundred kills, sixty pairs of faults
    python -m safety.fault_campaign --only joints_jump,flood     some rows

Writes `faults.json`, `faults.md`, the nodes' log and, trial by trial, `faults.jsonl`. Exit codes: 0 every reaction as
expected and no violation, 1 not so, 2 usage. Arm and policy are mocks (`safety/rig.py`).
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from safety.fault_catalogue import CATALOGUE
from safety.fault_ends import absurd_limits, clocks, supervisor_ends
from safety.faults import Fault, FaultTrial, attempt, attempt_pair
from safety.rig import Rig, rig

# The table of `faults.md`: a row per fault and expectation of the study, or why there is none.


ELSEWHERE: dict[str, str] = {
    "F01": "camera off: a gap, no chunk (`test_policy_node.py`, `test_frame_clock.py`)",
    "F02": "camera stuck: `frozen_camera` of the policy (`test_policy_node.py`)",
    "F03": "camera slow, delayed, intermittent: age limits per stream (`test_frame_clock.py`)",
    "F04": "malformed images: refused with the reason (`test_images.py`)",
    "F05": "swapped cameras: not noticed",
    "F26": "respawn loop: the launch file's retries; needs `launch_ros`, a ROS installation",
    "F28": "inference hangs or fails: `test_worker.py`, `test_policy_node.py`; the supervisor sees F19, F25",
    "F37": "system clock step: needs a machine of its own; timers are steady (`test_supervisor.py`, F34-F36)",
    "F45": "late joiner: `test_supervisor_node.py`",
    "F46": "unauthorised participant: `test_security_policy.py`, where `sros2` and the security plug-ins are",
    "F53": "pickles: `test_checkpoint_folder.py`, `test_pi05_loading.py`",
    "F54": "damaged safetensors: `test_pi05_loading.py`, `test_checkpoint_folder.py`",
    "F55": "wrong adapters: `test_checkpoint_folder.py`",
    "F56": "files replaced, links, revisions: `test_checkpoint_folder.py`",
    "F72": "into itself, the table or a box: `test_collision.py`, `python -m safety.collision.campaign`",
}
"""Rows that this bench does not inject: what it is, and where it is tested or why it is not."""


def table(document: dict[str, Any]) -> str:
    """The result as Markdown."""
    trials = document["trials"]
    lines = [
        f"{len(trials)} injections, {document['ticks']:,} ticks judged by the oracle:",
        f"**{document['violations']} violations**, "
        f"**{document['not_as_expected']} reactions not as expected**, {document['tracebacks']} tracebacks.",
        "",
        "| expected | injected | as expected | noticed after at most (allowed) |",
        "| --- | --- | ---: | ---: |",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for trial in trials:
        groups.setdefault((trial["expected"], f"{trial['limit_ms']:.0f}"), []).append(trial)
    rows = [_row(*key, same) for key, same in groups.items()]
    elsewhere = [f"- {row} {text}" for row, text in ELSEWHERE.items()]
    return "\n".join([*lines, *rows, "", "Not injected here:", "", *elsewhere]) + "\n"


def _row(expected: str, allowed: str, trials: list[dict[str, Any]]) -> str:
    """All faults with one expectation and one time to be noticed in."""
    good = sum(trial["ok"] for trial in trials)
    times = [trial["detection_ms"] for trial in trials if trial["detection_ms"] is not None]
    said = f"{max(times):.0f} ({allowed}) ms" if times else ""
    faults: dict[str, dict[str, None]] = {}
    for trial in trials:
        faults.setdefault(trial["fault"], {})["pairs" if trial["fault"] == "F69" else trial["name"]] = None
    injected = "; ".join(f"{fault} {', '.join(names)}" for fault, names in faults.items())
    return f"| {expected} | {injected} | {good} of {len(trials)} | {said} |"


_REPEATED = ("policy_sigkill", "policy_sigstop")


def single(bench: Rig, faults: Sequence[Fault], kills: int) -> Iterator[FaultTrial]:
    """Each fault once, the deaths of the policy `kills` times."""
    for fault in faults:
        for _ in range(kills if fault.name in _REPEATED else 1):
            bench.prepare_policy()
            yield attempt(bench, fault)


def pairs(bench: Rig, count: int, seed: int) -> Iterator[FaultTrial]:
    """F69: two faults at once, drawn at random; only safety is judged: no violation, and the arm comes back."""
    drawn = [fault for fault in CATALOGUE if fault.soak]
    rng = np.random.default_rng(seed)
    for _ in range(count):
        first, second = (drawn[int(i)] for i in rng.choice(len(drawn), 2, replace=False))
        bench.prepare_policy()
        yield attempt_pair(bench, first, second)


def failed(stage: str, why: str) -> FaultTrial:
    """A stage whose bench did not come up."""
    return FaultTrial(
        fault="bench",
        name=stage,
        expected="the bench comes up",
        ok=False,
        state="",
        reason="",
        text="",
        detection_ms=None,
        limit_ms=0.0,
        recovered_s=0.0,
        violations=0,
        tick_gap_ms=0.0,
        why=why,
    )


def run(options: argparse.Namespace, log: Path) -> tuple[list[FaultTrial], dict[str, Any]]:
    """The whole campaign; the facts are those of the long-lived supervisor."""
    wanted = set(filter(None, options.only.split(",")))
    faults = [fault for fault in CATALOGUE if not wanted or fault.name in wanted]
    kills, couples = (100, 60) if options.large else (5, 4)
    kills, couples = options.kills or kills, options.pairs or couples
    trials: list[FaultTrial] = []
    total = len(faults) + sum(kills - 1 for fault in faults if fault.name in _REPEATED) + (0 if wanted else couples)
    with tqdm(total=total, unit="fault", disable=options.quiet) as bar:
        with rig(log) as bench:
            for stage in (single(bench, faults, kills), pairs(bench, 0 if wanted else couples, options.seed)):
                for trial in stage:
                    trials.append(trial)
                    with (options.out / "faults.jsonl").open("a", encoding="utf-8") as sofar:
                        sofar.write(json.dumps(trial.row()) + "\n")
                    bar.set_description(trial.name)
                    bar.update()
            bench.settle()
            facts: dict[str, Any] = {"ticks": bench.oracle.report.ticks, "violations": bench.oracle.report.violations}
            facts |= {"first": bench.oracle.report.first, "lost_commands": bench.lost_commands}
        for ending in (supervisor_ends, clocks, absurd_limits):
            if not wanted or ending.__name__ in wanted:
                try:
                    trials += ending(log)
                except TimeoutError as error:  # the bench itself did not come up; what was measured is kept
                    trials.append(failed(ending.__name__, str(error)))
    return trials, facts


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--kills", type=int, default=0, help="deaths of the policy, by each signal")
    parser.add_argument("--pairs", type=int, default=0, help="pairs of faults (F69)")
    parser.add_argument("--only", default="", help="names of faults, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/safety"))
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "nodes.log"
    log.unlink(missing_ok=True)
    (options.out / "faults.jsonl").unlink(missing_ok=True)
    trials, facts = run(options, log)
    said = log.read_text(encoding="utf-8", errors="replace")
    tracebacks = said.count("Traceback") - sum(trial.name == "policy_exception" for trial in trials)
    document = facts | {
        "trials": [trial.row() for trial in trials],
        "not_as_expected": sum(not trial.ok for trial in trials),
        "tracebacks": max(0, tracebacks),
    }
    text = table(document)
    for name, content in (("faults.json", json.dumps(document, indent=1) + "\n"), ("faults.md", text)):
        temporary = options.out / f"{name}.tmp"
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(options.out / name)
    sys.stdout.write(text)
    return 1 if document["not_as_expected"] or document["violations"] or document["tracebacks"] else 0


if __name__ == "__main__":
    sys.exit(main())
