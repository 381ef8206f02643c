# SPDX-License-Identifier: Apache-2.0
"""One fault, injected once: was it noticed as expected, how soon, and did the operator get the arm back?"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from sigma_ros.control.reasons import State
from tools.faults import Fault
from tools.rig import RUNNING, Rig

_CLOCK_SLACK_S = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What became of one injection. `detection_ms` counts from the fault to the first message that shows the reaction."""

    fault: str
    name: str
    expected: str
    ok: bool
    state: str
    reason: str
    text: str
    detection_ms: float | None
    limit_ms: float
    recovered_s: float
    violations: int
    tick_gap_ms: float
    why: str = ""

    def row(self) -> dict[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self)


def attempt(bench: Rig, fault: Fault) -> Trial:
    """Injects a fault in RUN, waits for the reaction, heals, recovers; never raises for what the supervisor does."""
    violations = bench.oracle.report.violations
    before = bench.states[-1][1]
    why, found = "", None
    bench.gap_ns = 0
    began_ns = fault.inject(bench)
    try:
        bench.wait(
            lambda: bench.first(began_ns, lambda said: fault.seen(said, before)),
            fault.expected,
            timeout_s=fault.within_s + 2.0,
        )
    except TimeoutError as error:
        why = str(error)
    found = bench.first(began_ns, lambda said: fault.seen(said, before))
    bench.rest(fault.dwell_s)
    stayed = not fault.lasting or fault.seen(bench.states[-1][1], before)
    fault.heal(bench)
    said = bench.states[-1][1] if found is None else found[1]
    detection_s = None if found is None else (found[0] - began_ns) / 1e9
    recovered_s = -1.0
    try:
        recovered_s = bench.recover()
    except TimeoutError as error:
        why = why or str(error)
    in_time = detection_s is not None and detection_s <= fault.within_s + _CLOCK_SLACK_S
    if detection_s is not None and not in_time:
        why = why or f"noticed after {detection_s:.3f} s, {fault.within_s:g} s are allowed"
    if not stayed:
        why = why or "the reaction did not last"
    found_more = bench.oracle.report.violations - violations
    ok = in_time and stayed and not found_more and recovered_s >= 0.0 and bench.state in RUNNING
    return Trial(
        fault=fault.row,
        name=fault.name,
        expected=fault.expected,
        ok=ok,
        state=State(said.state).name,
        reason=str(said.reason),
        text=str(said.reason_text),
        detection_ms=None if detection_s is None else round(1e3 * detection_s, 1),
        limit_ms=round(1e3 * fault.within_s, 1),
        recovered_s=round(recovered_s, 2),
        violations=found_more,
        tick_gap_ms=round(bench.gap_ns / 1e6, 1),
        why=why,
    )
