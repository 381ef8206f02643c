# SPDX-License-Identifier: Apache-2.0
"""Faults that the bench (`safety/rig.py`) can inject, with what the supervisor must do about each.

Rows are those of the project's safety study (F01-F70). A fault is injected in RUN; it counts as noticed at the
source time of the first state message that shows the expected reaction.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sigma_ros.msg import SupervisorState

from safety.rig import RUNNING, Rig
from sigma_ros.supervisor.reasons import State

Seen = Callable[[SupervisorState, SupervisorState], bool]
"""(state now, state before the fault) -> the reaction is there."""

Inject = Callable[[Rig], object]
"""Does something; gives the moment it took effect [ns since 1970], anything else: at once."""


def nothing(_rig: Rig) -> None:
    """Nothing to undo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way things go wrong.

    Attributes:
        row: Row of the safety study.
        expected: The reaction in words.
        seen: Recognises the reaction.
        dwell_s: How long the fault stays after it was noticed.
        lasting: Whether the reaction must still stand when the dwell ends (a state that must not be left by itself).
        diagnosed: Task of `/diagnostics` that must then not be OK; empty: none must change.
    """

    row: str
    name: str
    expected: str
    inject: Inject
    seen: Seen
    within_s: float
    heal: Inject = nothing
    dwell_s: float = 0.3
    lasting: bool = False
    diagnosed: str = ""
    soak: bool = True


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
        inject=lambda rig: setattr(rig.arm, "mode", mode),
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
    state: str = ""
    reason: str = ""
    text: str = ""
    detection_ms: float | None = None
    limit_ms: float = 0.0
    recovered_s: float = 0.0
    violations: int = 0
    tick_gap_ms: float = 0.0
    why: str = ""

    def row(self) -> dict[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self)


class _Watched:
    """An injection being judged: the first thing that went wrong, and what the oracle and the clock say after it."""

    def __init__(self, bench: Rig) -> None:
        self.why = ""
        self._bench, self._violations = bench, bench.oracle.report.violations
        bench.gap_ns = 0

    def note(self, why: str) -> None:
        """Keeps the first."""
        self.why = self.why or why

    @contextmanager
    def noting(self) -> Iterator[None]:
        """What is not as it must be is noted, not raised."""
        try:
            yield
        except (TimeoutError, AssertionError) as error:
            self.note(f"{type(error).__name__}: {error}")

    def recovered_s(self) -> float:
        """Seconds until the operator had the arm back; -1: never."""
        with self.noting():
            return self._bench.recover()
        return -1.0

    def trial(self, said: SupervisorState, *, recovered_s: float, ok: bool, **facts: Any) -> FaultTrial:
        """The result; violations of the oracle are never ok."""
        violations = self._bench.oracle.report.violations - self._violations
        return FaultTrial(
            ok=ok and not self.why and not violations,
            state=State(said.state).name,
            reason=str(said.reason),
            text=str(said.reason_text),
            recovered_s=round(recovered_s, 2),
            violations=violations,
            tick_gap_ms=round(self._bench.gap_ns / 1e6, 1),
            why=self.why,
            **facts,
        )


def attempt(bench: Rig, fault: Fault) -> FaultTrial:
    """Injects a fault in RUN, waits for the reaction, heals, recovers; never raises for what the supervisor does."""
    watched, before = _Watched(bench), bench.states[-1][1]
    began_ns, stayed = time.time_ns(), True
    with watched.noting():
        at_ns = fault.inject(bench)
        began_ns = at_ns if isinstance(at_ns, int) else began_ns
        bench.wait(
            lambda: bench.first(began_ns, lambda said: fault.seen(said, before)),
            fault.expected,
            timeout_s=fault.within_s + 2.0,
        )
        if fault.diagnosed:
            bench.wait(lambda: _is_diagnosed(bench, fault, began_ns), f"{fault.diagnosed} diagnosed", timeout_s=1.2)
        bench.rest(fault.dwell_s)
        stayed = not fault.lasting or fault.seen(bench.states[-1][1], before)
    found = bench.first(began_ns, lambda said: fault.seen(said, before))
    with watched.noting():
        fault.heal(bench)
    said = bench.states[-1][1] if found is None else found[1]
    detection_s = None if found is None else (found[0] - began_ns) / 1e9
    recovered_s = watched.recovered_s()
    if detection_s is not None and detection_s > fault.within_s + _CLOCK_SLACK_S:
        watched.note(f"noticed after {detection_s:.3f} s, {fault.within_s:g} s are allowed")
    if not stayed:
        watched.note("the reaction did not last")
    return watched.trial(
        said,
        recovered_s=recovered_s,
        ok=detection_s is not None and bench.state in RUNNING,
        fault=fault.row,
        name=fault.name,
        expected=fault.expected,
        detection_ms=None if detection_s is None else round(1e3 * detection_s, 1),
        limit_ms=round(1e3 * fault.within_s, 1),
    )


def attempt_pair(bench: Rig, first: Fault, second: Fault) -> FaultTrial:
    """Injects two faults one after the other, without waiting for the first reaction; judges safety alone."""
    watched = _Watched(bench)
    for fault in (first, second):
        with suppress(TimeoutError, AssertionError):  # its own condition may not hold beside the other fault
            fault.inject(bench)
        bench.rest(0.3)
    bench.rest(0.7)
    said = bench.states[-1][1]
    for fault in (second, first):
        with suppress(TimeoutError, AssertionError):
            fault.heal(bench)
    with watched.noting():
        normal(bench)  # said before to a policy that was stopped, it may have been lost
    return watched.trial(
        said,
        recovered_s=watched.recovered_s(),
        ok=True,
        fault="F69",
        name=f"{first.name} + {second.name}",
        expected="no limit broken, the operator gets the arm back",
    )


def _is_diagnosed(bench: Rig, fault: Fault, since_ns: int) -> bool:
    at_ns, level, _ = bench.diagnostics.get(fault.diagnosed, (0, 0, ""))
    return at_ns >= since_ns and level > 0
