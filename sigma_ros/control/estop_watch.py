# SPDX-License-Identifier: Apache-2.0
"""Emergency stops by station: each is pressed, released and watched for silence by itself."""

from collections.abc import Collection
from dataclasses import dataclass

from sigma_ros.control.chunk_check import Verdict, refused
from sigma_ros.control.reasons import Reason
from sigma_ros.control.source import Source
from sigma_ros.values import NS_PER_S

MOST_STATIONS = 16
"""More publishers of the emergency stop are a fault by themselves."""


@dataclass(slots=True, kw_only=True)
class _Station:
    source: Source
    first_ns: int
    heard_ns: int
    pressed: bool
    has_left: bool = False


class EstopWatch:
    """Every station that was heard, by its publisher. The word of one never speaks for another.

    A station that was started again is another publisher: it takes the place of one of the same node name that left
    the graph before it was first heard. One that left unpressed is forgotten by a reset; one that left pressed must
    come back.
    """

    def __init__(self) -> None:
        self._stations: dict[str, _Station] = {}
        self._too_many = False

    @property
    def is_heard(self) -> bool:
        """Whether any station was ever heard."""
        return bool(self._stations)

    def hear(self, source: Source, now_ns: int, *, pressed: bool, timeout_s: float) -> None:
        """One beat of a station."""
        station = self._stations.get(source.publisher)
        if station is None:
            if len(self._stations) >= MOST_STATIONS:
                self._too_many = True
                return
            station = _Station(source=source, first_ns=now_ns, heard_ns=now_ns, pressed=pressed)
            self._stations[source.publisher] = station
        station.heard_ns, station.pressed, station.has_left = now_ns, pressed, False
        station.source = source
        for key in [key for key, old in self._stations.items() if _follows(station, old, now_ns, timeout_s)]:
            del self._stations[key]

    def note_present(self, publishers: Collection[str]) -> None:
        """Which publishers the graph shows now."""
        for key, station in self._stations.items():
            station.has_left = key not in publishers

    def silence_s(self, now_ns: int) -> float:
        """The longest silence of any station; 0 where none was heard."""
        return max((_silence_s(station, now_ns) for station in self._stations.values()), default=0.0)

    def fault(self, now_ns: int, *, timeout_s: float, required: bool) -> Verdict | None:
        """Why ESTOP must be in force, with the stations' names: pressed, silent, or none where one is required."""
        if self._too_many:
            return refused(Reason.ESTOP_HEARTBEAT, f"more than {MOST_STATIONS} stations; restart the supervisor")
        pressed = [station.source.label for station in self._stations.values() if station.pressed]
        if pressed:
            return refused(Reason.ESTOP_PRESSED, ", ".join(pressed))
        if not self._stations:
            return refused(Reason.ESTOP_HEARTBEAT, "never heard") if required else None
        station = max(self._stations.values(), key=lambda station: now_ns - station.heard_ns)
        age_s = _silence_s(station, now_ns)
        if age_s > timeout_s:
            said = f"{station.source.label} silent for {age_s:.3f} s, limit {timeout_s:g} s"
            return refused(Reason.ESTOP_HEARTBEAT, said)
        return None

    def forget_departed(self, now_ns: int, *, timeout_s: float) -> None:
        """An operator resets: silent stations that left the graph, unpressed, are no longer waited for."""
        gone = [
            key
            for key, station in self._stations.items()
            if station.has_left and not station.pressed and _silence_s(station, now_ns) > timeout_s
        ]
        for key in gone:
            del self._stations[key]


def _silence_s(station: _Station, now_ns: int) -> float:
    return max(0, now_ns - station.heard_ns) / NS_PER_S


def _follows(new: _Station, old: _Station, now_ns: int, timeout_s: float) -> bool:
    """Whether `new` is the station `old`, started again."""
    namesake = new is not old and bool(new.source.name) and new.source.name == old.source.name
    return namesake and old.has_left and new.first_ns > old.heard_ns and _silence_s(old, now_ns) > timeout_s
