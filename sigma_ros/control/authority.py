# SPDX-License-Identifier: Apache-2.0
"""An operator's leave to move: given by `engage`, used up by standing still, never renewed by itself."""

from sigma_ros.control.chunk_check import Verdict, refused
from sigma_ros.control.limits import SupervisorLimits
from sigma_ros.control.reasons import Reason, State
from sigma_ros.values import NS_PER_S


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
