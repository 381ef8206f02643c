# SPDX-License-Identifier: Apache-2.0
"""One fault, injected once: was it noticed as expected, how soon, and did the operator get the arm back?"""

import dataclasses
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sigma_ros.control.reasons import State
from tools.faults import Fault, normal
from tools.rig import RUNNING, Rig

_CLOCK_SLACK_S = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What became of one injection. `detection_ms` counts from the fault to the first message with the reaction."""

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
    began_ns, stayed = time.time_ns(), True
    try:
        began_ns = fault.inject(bench)
        bench.wait(
            lambda: bench.first(began_ns, lambda said: fault.seen(said, before)),
            fault.expected,
            timeout_s=fault.within_s + 2.0,
        )
        if fault.diagnosed:
            bench.wait(
                lambda: _is_diagnosed(bench, fault, began_ns), f"{fault.diagnosed} in /diagnostics", timeout_s=1.2
            )
        bench.rest(fault.dwell_s)
        stayed = not fault.lasting or fault.seen(bench.states[-1][1], before)
    except (TimeoutError, AssertionError) as error:
        why = f"{type(error).__name__}: {error}"
    found = bench.first(began_ns, lambda said: fault.seen(said, before))
    try:
        fault.heal(bench)
    except (TimeoutError, AssertionError) as error:
        why = why or f"{type(error).__name__}: {error}"
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
    ok = not why and in_time and stayed and not found_more and recovered_s >= 0.0 and bench.state in RUNNING
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


def attempt_pair(bench: Rig, first: Fault, second: Fault) -> Trial:
    """Injects two faults one after the other, without waiting for the first reaction; judges safety alone."""
    violations, bench.gap_ns = bench.oracle.report.violations, 0
    why, recovered_s = "", -1.0
    for fault in (first, second):
        with suppress(TimeoutError, AssertionError):  # its own condition may not hold beside the other fault
            fault.inject(bench)
        bench.rest(0.3)
    bench.rest(0.7)
    said = bench.states[-1][1]
    for fault in (second, first):
        with suppress(TimeoutError, AssertionError):
            fault.heal(bench)
    try:
        normal(bench)  # said before to a policy that was stopped, it may have been lost
        recovered_s = bench.recover()
    except TimeoutError as error:
        why = str(error)
    found_more = bench.oracle.report.violations - violations
    return Trial(
        fault="F69",
        name=f"{first.name} + {second.name}",
        expected="no limit broken, the operator gets the arm back",
        ok=not why and not found_more,
        state=State(said.state).name,
        reason=str(said.reason),
        text=str(said.reason_text),
        detection_ms=None,
        limit_ms=0.0,
        recovered_s=round(recovered_s, 2),
        violations=found_more,
        tick_gap_ms=round(bench.gap_ns / 1e6, 1),
        why=why,
    )


def _is_diagnosed(bench: Rig, fault: Fault, since_ns: int) -> bool:
    at_ns, level, _ = bench.diagnostics.get(fault.diagnosed, (0, 0, ""))
    return at_ns >= since_ns and level > 0
