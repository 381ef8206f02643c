# SPDX-License-Identifier: Apache-2.0
"""Faults that the bench (`tools/rig.py`) can inject, with what the supervisor must do about each.

Rows are those of the project's safety study (F01-F70). A fault is injected in RUN; it counts as noticed at the
source time of the first state message that shows the expected reaction.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from sigma_ros.msg import SupervisorState

from sigma_ros.control.reasons import State
from tools.rig import RUNNING, Rig

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
