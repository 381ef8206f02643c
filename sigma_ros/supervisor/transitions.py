# SPDX-License-Identifier: Apache-2.0
"""The state machine as a table: what each event does in each state. What is not in it changes nothing."""

from collections.abc import Mapping
from enum import Enum, unique
from types import MappingProxyType

from sigma_ros.supervisor.chunks import Verdict, refused
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Reason, State
from sigma_ros.values import NS_PER_S


@unique
class Event(Enum):
    """What can happen; the value says it in words, for the diagram."""

    ENGAGE = "engage"
    SET_OFF = "at rest, promised limits in force, leave not aged, a chunk passes the gate; own ceiling above 0"
    SET_OFF_ON_BASE = "the same; own ceiling 0"
    NEW_EPOCH = "the policy began anew"
    FAULT = "fault, or limits tightened"
    WELL = "all well for resume_after_s"
    RELEASE = "release"
    LET_GO = "at rest, after release or with a leave that has aged"
    STOP = "joints lost, implausible, not following; foreign publisher"
    ESTOP = "emergency stop pressed, called or silent"
    RESET = "reset_stop: cause gone, arm at rest, stop published"


_MOVING = (State.ENGAGING, State.RUN, State.BASE_ONLY)
_ENGAGED = (*_MOVING, State.HOLD)

TRANSITIONS: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (State.DISENGAGED, Event.ENGAGE): State.ENGAGING,
        (State.HOLD, Event.ENGAGE): State.ENGAGING,
        **{(state, Event.SET_OFF): State.RUN for state in _MOVING},
        **{(state, Event.SET_OFF_ON_BASE): State.BASE_ONLY for state in _MOVING},
        **{(state, Event.NEW_EPOCH): State.ENGAGING for state in _MOVING},
        **{(state, Event.FAULT): State.HOLD for state in _ENGAGED},
        (State.HOLD, Event.WELL): State.ENGAGING,
        **{(state, Event.RELEASE): State.HOLD for state in _ENGAGED},
        (State.ENGAGING, Event.LET_GO): State.DISENGAGED,
        (State.HOLD, Event.LET_GO): State.DISENGAGED,
        **{(state, Event.STOP): State.STOPPED for state in (State.DISENGAGED, *_ENGAGED)},
        **{(state, Event.ESTOP): State.ESTOP for state in (State.DISENGAGED, *_ENGAGED, State.STOPPED)},
        (State.STOPPED, Event.RESET): State.DISENGAGED,
        (State.ESTOP, Event.RESET): State.DISENGAGED,
    }
)
"""(state, event) -> the state after it. Motion is entered by SET_OFF and SET_OFF_ON_BASE alone."""


def diagram() -> str:
    """The table as text, one line per event and target: `STATES --event--> STATE`."""
    lines = []
    for event in Event:
        targets: dict[State, list[str]] = {}
        for (state, cause), target in TRANSITIONS.items():
            if cause is event:
                targets.setdefault(target, []).append(state.name)
        lines += [f"{', '.join(states)} --{event.value}--> {target.name}" for target, states in targets.items()]
    return "\n".join(lines)


# An operator's leave to move: given by `engage`, used up by standing still, never renewed by itself.


class Authority:
    """Counts how long the arm has stood since it was engaged or last moved, in HOLD and in ENGAGING apart.

    Times of all HOLDs since then add up, so that a fault that comes and goes does not keep the leave alive.
    """

    def __init__(self) -> None:
        self._held_ns = 0
        self._waited_ns = 0
        self._at_ns: int | None = None

    def grant(self, now_ns: int) -> None:
        """An operator has engaged."""
        self._held_ns = self._waited_ns = 0
        self._at_ns = now_ns

    def spend(self, state: State, now_ns: int, *, following: bool, limits: SupervisorLimits) -> None:
        """One tick; a pause of the supervisor itself counts as HOLD."""
        passed_ns = 0 if self._at_ns is None else max(0, now_ns - self._at_ns)
        self._at_ns = now_ns
        if following and passed_ns <= limits.max_tick_gap_s * NS_PER_S:
            self._held_ns = self._waited_ns = 0
        elif state is State.ENGAGING and not following:
            self._waited_ns += passed_ns
        else:
            self._held_ns += passed_ns

    def ended(self, limits: SupervisorLimits) -> Verdict | None:
        """Why motion must not begin without another `engage`; None while it may."""
        if not limits.authority_ages:
            return None
        for name, spent_ns, limit_s in (
            ("HOLD", self._held_ns, limits.authority_hold_s),
            ("ENGAGING", self._waited_ns, limits.authority_engaging_s),
        ):
            if spent_ns > limit_s * NS_PER_S:
                return refused(Reason.AUTHORITY_AGED, f"{spent_ns / NS_PER_S:.1f} s of {name}, limit {limit_s:g} s")
        return None
