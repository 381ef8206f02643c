# SPDX-License-Identifier: Apache-2.0
"""Pairing: `engage` and `reset_stop` only from whoever can read what the supervisor showed at its start.

The token goes to the terminal alone, never to a topic or a log of ROS. It keeps away who cannot see that terminal; it
does not encrypt: on a network with strangers use SROS2.
"""

import hmac
import secrets
import sys
from collections.abc import Callable

from sigma_ros.supervisor.chunks import Verdict, refused
from sigma_ros.supervisor.reasons import Answer, Reason
from sigma_ros.values import NS_PER_S

GUESS_PAUSE_NS = NS_PER_S
"""After a wrong token none is looked at for this long: 32 bits cannot be tried out."""


class Pairing:
    """Holds the token; `show` is given it once, at the start."""

    def __init__(self, show: Callable[[str], object] = lambda text: sys.stderr.write(f"{text}\n")) -> None:
        self._token = secrets.token_hex(4)
        self._wrong_ns: int | None = None
        show(f"sigma_supervisor: the operator's token is {self._token}")

    def take(self, token: str, now_ns: int, order: Callable[[], Answer]) -> Answer:
        """Gives an order that came with a token, or says why not."""
        refusal = self.judge(token, now_ns)
        return order() if refusal is None else Answer(success=False, reason=refusal.reason, detail=refusal.detail)

    def judge(self, token: str, now_ns: int) -> Verdict | None:
        """Why an order with this token is not taken; None: it is."""
        if self._wrong_ns is not None and now_ns - self._wrong_ns < GUESS_PAUSE_NS:
            return refused(Reason.NOT_PAIRED, "a wrong token came a moment ago; wait a second")
        if hmac.compare_digest(token.encode(), self._token.encode()):
            return None
        self._wrong_ns = now_ns
        return refused(Reason.NOT_PAIRED, "wrong token")


def unpaired() -> Answer:
    """To an order that came without a token."""
    return Answer(success=False, reason=Reason.NOT_PAIRED)
