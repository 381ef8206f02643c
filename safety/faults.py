# SPDX-License-Identifier: Apache-2.0
"""Faults that the bench (`safety/rig.py`) can inject, with what the supervisor must do about each.

Rows are those of the project's safety study (F01-F70). A fault is injected in RUN; it counts as noticed at the
source time of the first state message that shows the expected reaction.
"""

import dataclasses
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sigma_ros.msg import SupervisorState

from safety.rig import RUNNING, Rig
from sigma_ros.supervisor.reasons import State

Seen = Callable[[SupervisorState, SupervisorState], bool]
"""(state now, state before the fault) -> the reaction is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way things go wrong.

    Attributes:
        row: Row of the safety study.
        name: Short and unique.
        expected: The reaction in words.
        inject: Does it; returns the moment it took effect [ns since 1970].
        heal: Undoes it.
        seen: Recognises the reaction.
        within_s: How soon the reaction must come.
        dwell_s: How long the fault stays after it was noticed.
        lasting: Whether the reaction must still stand when the dwell ends (a state that must not be left by itself).
        diagnosed: Task of `/diagnostics` that must then not be OK; empty: none must change.
        soak: Whether the soak draws it.
    """

    row: str
    name: str
    expected: str
    inject: Callable[[Rig], int]
    heal: Callable[[Rig], None]
    seen: Seen
    within_s: float
    dwell_s: float = 0.3
    lasting: bool = False
    diagnosed: str = ""
    soak: bool = True


def now(act: Callable[[Rig], object]) -> Callable[[Rig], int]:
    """An injection that takes effect at once."""

    def inject(rig: Rig) -> int:
        at_ns = time.time_ns()
        act(rig)
        return at_ns

    return inject


def is_in(state: State, *reasons: str) -> Seen:
    """The supervisor is in a state, for one of the reasons if any are given."""
    return lambda said, _before: said.state == state and (not reasons or said.reason in reasons)


def refused(said: SupervisorState, before: SupervisorState) -> bool:
    """A chunk was refused; nothing of it is executed."""
    return bool(said.refused_chunks > before.refused_chunks)


def bounded(said: SupervisorState, before: SupervisorState) -> bool:
    """A command was bounded."""
    return bool(said.clipped_ticks > before.clipped_ticks)


def stays(said: SupervisorState, _before: SupervisorState) -> bool:
    """The supervisor goes on as before."""
    return said.state in RUNNING


def nothing(_rig: Rig) -> None:
    """Nothing to undo."""


def normal(rig: Rig) -> None:
    """The policy behaves again."""
    if rig.policy is not None and rig.policy.alive:
        rig.policy_mode("normal")


_TASK_OF = dict.fromkeys(("F14", "F16", "F18", "F39", "F71"), "supervisor/chunks") | dict.fromkeys(
    ("F25", "F27"), "supervisor/policy"
)
"""Where `/diagnostics` must show a fault of the policy."""


def policy_mode(row: str, mode: str, expected: str, seen: Seen, *, within_s: float, **more: object) -> Fault:
    """A fault that the scripted policy commits."""
    return Fault(
        row=row,
        name=mode,
        expected=expected,
        inject=lambda rig: rig.policy_mode(mode),
        heal=normal,
        seen=seen,
        within_s=within_s,
        **({"diagnosed": _TASK_OF.get(row, "")} | more),  # type: ignore[arg-type]
    )


def arm_mode(row: str, mode: str, expected: str, seen: Seen, *, within_s: float, **more: object) -> Fault:
    """A fault of the joint states."""
    return Fault(
        row=row,
        name=f"joints_{mode}",
        expected=expected,
        inject=now(lambda rig: setattr(rig.arm, "mode", mode)),
        heal=lambda rig: setattr(rig.arm, "mode", "normal"),
        seen=seen,
        within_s=within_s,
        **({"diagnosed": "" if seen is stays else "io/joint_states"} | more),  # type: ignore[arg-type]
    )


# One fault, injected once: was it noticed as expected, how soon, and did the operator get the arm back?


_CLOCK_SLACK_S = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultTrial:
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


def attempt(bench: Rig, fault: Fault) -> FaultTrial:
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
    return FaultTrial(
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


def attempt_pair(bench: Rig, first: Fault, second: Fault) -> FaultTrial:
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
    return FaultTrial(
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
