# SPDX-License-Identifier: Apache-2.0
"""Joint values of a message into contract order, by name; messages of several topics joined into one state."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.contract import Contract, Part
from sigma_ros.errors import ContractError


class JointReader:
    """Orders by name and refuses what is not complete and finite; remembers the last message's names.

    Publishers repeat the same names, so the look-up is made once.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._names: tuple[str, ...] = ()
        self._order = np.zeros(0, dtype=np.intp)

    def read(self, names: tuple[str, ...], values: Float64[ndarray, " n"]) -> Float64[ndarray, " dof"]:
        """A read-only copy of the contract's joints; others are left out.

        Raises:
            ContractError: names repeat or are missing, do not match the values, or a value is not finite.
        """
        if len(names) != len(values):
            raise ContractError("names and positions differ in number", expected=len(names), got=len(values))
        if names != self._names or not self._names:
            self._order = self._contract.joint_order(names)
            self._names = names
        ordered = np.asarray(values, dtype=np.float64)[self._order]
        if not np.isfinite(ordered).all():
            raise ContractError("position is not finite", got=ordered.tolist())
        ordered.flags.writeable = False
        return ordered


class NamedJoints(NamedTuple):
    """A joint message: stamp, names and values as they were sent."""

    stamp_ns: int
    names: tuple[str, ...]
    values: Float64[ndarray, " n"]


_MOST_WAITING = 1024


class JointJoiner:
    """Joins the topics that make one state: at each stamp, once all have reached it, the newest of each up to it.

    Only stamps count, not the order in which topics arrive. A part older than `max_age_ns` is left out, so that the
    state lacks its joints and is refused. A clock that goes back by more than that begins anew.
    """

    def __init__(self, parts: Sequence[Part], max_age_ns: int) -> None:
        self._prefixes = {part.topic: part.prefix for part in parts}
        self._max_age_ns = max_age_ns
        self._clear()

    def _clear(self) -> None:
        self._held: dict[str, NamedJoints] = {}
        self._waiting: dict[str, deque[NamedJoints]] = {t: deque(maxlen=_MOST_WAITING) for t in self._prefixes}

    def push(self, topic: str, message: NamedJoints) -> Iterator[NamedJoints]:
        """The states that are complete with this message; one that cannot be joined comes back as it is."""
        stamp_ns, names, values = message
        if len(names) != len(values) or not names or not np.isfinite(values).all() or stamp_ns <= 0:
            yield message
            return
        waiting = self._waiting[topic]
        newest = waiting[-1] if waiting else self._held.get(topic)
        if newest is not None and stamp_ns < newest.stamp_ns - self._max_age_ns:
            self._clear()
            waiting = self._waiting[topic]
        waiting.append(NamedJoints(stamp_ns, tuple(self._prefixes[topic] + name for name in names), values))
        while all(self._waiting.values()):
            joined = self._join(min(queue[0].stamp_ns for queue in self._waiting.values()))
            if len(self._held) == len(self._waiting):  # before all have begun there is no state
                yield joined

    def _join(self, stamp_ns: int) -> NamedJoints:
        for topic, queue in self._waiting.items():
            while queue and queue[0].stamp_ns <= stamp_ns:
                self._held[topic] = queue.popleft()
        fresh = [held for held in self._held.values() if stamp_ns - held.stamp_ns <= self._max_age_ns]
        names = tuple(name for held in fresh for name in held.names)
        return NamedJoints(stamp_ns, names, np.concatenate([held.values for held in fresh]))
