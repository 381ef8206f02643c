# SPDX-License-Identifier: Apache-2.0
"""A replay in the operator's place: the same hand for the graph-free replay and for the supervisor node in lockstep."""

from typing import Protocol

from sigma_ros.supervisor.reasons import Decision, Reason, State
from sigma_ros.supervisor.supervisor import Supervisor

_LOOKED_AT = (Reason.BASE_MISBEHAVES, Reason.CONTACT)
"""Why an operator is asked for; this one always finds that the arm may go on."""


class OperatorHand(Protocol):
    """Who gives a supervisor its orders: before each tick, knowing the last one."""

    def on_chunk(self) -> None:
        """The policy has proposed something, acceptable or not."""

    def act(self, supervisor: Supervisor, now_ns: int) -> None:
        """Gives orders; `now_ns` is the supervisor's own clock."""

    def note(self, decision: Decision) -> None:
        """What came of the tick."""


class ReplayOperator:
    """Engages as soon as there is a chunk, resets and engages again after a stop. Acts before each supervisor tick."""

    def __init__(self) -> None:
        self._has_chunk = False
        self._is_awaited = False

    def on_chunk(self) -> None:
        """The policy has proposed something, acceptable or not."""
        self._has_chunk = True

    def act(self, supervisor: Supervisor, now_ns: int) -> None:
        """Does what an operator would; `now_ns` is the supervisor's own clock."""
        state = supervisor.state
        if state.is_latched:
            supervisor.reset_stop(now_ns)
        elif self._has_chunk and (state is State.DISENGAGED or self._is_awaited):
            supervisor.engage(now_ns)

    def note(self, decision: Decision) -> None:
        """What came of the tick."""
        self._is_awaited = decision.state is State.HOLD and decision.reason in _LOOKED_AT
