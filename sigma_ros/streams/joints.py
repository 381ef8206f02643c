# SPDX-License-Identifier: Apache-2.0
"""Joint values of a message into contract order, by name; messages of several topics joined into one state."""

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from sigma_ros.contract import Contract, Part
from sigma_ros.errors import ContractError

_WILD_SHARE = 0.2
_MOST_NAMES = 1000
"""A message with more is not looked at: to find the contract's joints among 100,000 names takes half a second."""


class SkewError(ContractError):
    """A message is too old to be joined with those of the other parts."""


class JointMerger:
    """Messages of several parts as one, in contract order, stamped as the oldest of them.

    One comes out whenever every part has said something since the one before, so an arm that falls silent makes the
    whole silent. Their stamps are `Contract.max_skew_ns` apart at most: what is older waits for its part's next one.
    Of a robot in one part every message passes as it is, unread.
    """

    def __init__(self, contract: Contract, parts: tuple[Part, ...]) -> None:
        self._names = contract.joint_names
        self._readers = [JointReader(contract.part(part)) for part in parts]
        self._columns = [contract.columns(part) for part in parts]
        self._topics = [part.topic for part in parts]
        self._max_skew_ns = contract.max_skew_ns
        self._stamps_ns: dict[int, int] = {}  # of the parts that spoke since the last whole
        self._values_rad = np.full(contract.dof, np.nan)

    def push(
        self, part: int, stamp_ns: int, names: tuple[str, ...], values: Float64[ndarray, " n"]
    ) -> tuple[int, tuple[str, ...], Float64[ndarray, " dof"]] | None:
        """Stamp, names and values of the whole; None while a part has nothing new.

        Raises:
            ContractError: see `JointReader.read`.
            SkewError: a part's message is left out; those of the others wait on.
        """
        if len(self._readers) == 1:
            return stamp_ns, names, values
        self._values_rad[self._columns[part]] = self._readers[part].read(names, values)
        self._stamps_ns[part] = stamp_ns
        self._leave_out_old()
        if len(self._stamps_ns) < len(self._readers):
            return None
        oldest_ns = min(self._stamps_ns.values())
        self._stamps_ns.clear()
        return oldest_ns, self._names, self._values_rad.copy()

    def _leave_out_old(self) -> None:
        newest_ns = max(self._stamps_ns.values())
        ages_ns = {part: newest_ns - stamp_ns for part, stamp_ns in self._stamps_ns.items()}
        old = [part for part, age_ns in ages_ns.items() if age_ns > self._max_skew_ns]
        for part in old:
            del self._stamps_ns[part]
        if old:
            raise SkewError(
                "stamps of the parts are too far apart",
                where=", ".join(self._topics[part] for part in old),
                expected=f"within {self._max_skew_ns / 1e6:g} ms of the others (state.max_skew_ms)",
                got=f"{max(ages_ns.values()) / 1e6:.0f} ms older",
                remedy="synchronise the clocks of the drivers, or look why one is late",
            )


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
            ContractError: names repeat, are missing or too many, do not match the values, or a value is not finite.
        """
        if len(names) > _MOST_NAMES:
            raise ContractError("a message has too many names", expected=f"at most {_MOST_NAMES}", got=len(names))
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


class JointReach:
    """Refuses positions that no joint can reach, and tells from how many there are whether they are in radians at all.

    Out of reach is what is outside a joint's limits by more than its whole range of motion.
    """

    def __init__(self, contract: Contract) -> None:
        room = contract.upper_rad - contract.lower_rad
        self._low_rad, self._high_rad = contract.lower_rad - room, contract.upper_rad + room
        self._joints = contract.joints
        self._seen = self._count = 0
        self._first: ContractError | None = None

    def beyond(self, rad: Float64[ndarray, "*rows dof"]) -> Bool[ndarray, "*rows dof"]:
        """Which values are out of reach."""
        return (rad < self._low_rad) | (rad > self._high_rad)

    def check(self, rad: Float64[ndarray, " dof"], where: str) -> None:
        """Takes in a pose.

        Raises:
            ContractError: a joint of it is out of reach.
        """
        self._seen += 1
        (beyond,) = np.nonzero(self.beyond(rad))
        if not len(beyond):
            return
        joint = self._joints[beyond[0]]
        error = ContractError(
            "a position is out of its joint's reach",
            where=where,
            expected=f"{joint.name} in radians, within {joint.lower_rad:g} .. {joint.upper_rad:g} or near",
            got=f"{rad[beyond[0]]:.6g}",
            remedy="convert the recording to radians (degrees, percent?), or correct the contract's limits",
        )
        self._count += 1
        self._first = self._first or error
        raise error

    def refuse_units(self, least: int) -> None:
        """Raises the first pose's error where `least` or more, and more than a fifth, were out of reach."""
        if self._first is not None and self._count >= max(least, _WILD_SHARE * self._seen):
            raise self._first


def unreal(contract: Contract, rad: Float64[ndarray, "rows dof"]) -> str | None:
    """The first row that is out of its joint's reach."""
    bad = JointReach(contract).beyond(rad)
    if not bad.any():
        return None
    row, joint = (int(index) for index in np.argwhere(bad)[0])
    value = contract.to_policy(rad[row])[joint]
    return f"frame {row}: {contract.joints[joint].name} {value:.6g} ({np.count_nonzero(bad.any(axis=1))} such frames)"
