# SPDX-License-Identifier: Apache-2.0
"""Which policy is followed: one from `engage` to release. Others are named; nothing of theirs counts."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from sigma_ros.contract import Contract
from sigma_ros.supervisor.chunks import Verdict, refused
from sigma_ros.supervisor.reasons import Reason
from sigma_ros.values import NS_PER_S, Chunk

# Who sent a message: the publisher that the middleware names, and what a policy says of itself in its chunks.


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """What a policy writes into each chunk: the robot it was made for, and a random name of its process."""

    robot: str
    instance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a message came from.

    Attributes:
        publisher: The publisher's unique id; empty where the caller is in this process or the middleware is silent.
        process: What the ids of all publishers of one process have in common; empty where that is not known.
        name: The publisher's node, for people; it proves nothing.
        author: What a chunk's policy says of itself; None for other messages and for callers in this process.
    """

    publisher: str = ""
    process: str = ""
    name: str = field(default="", compare=False)
    author: Author | None = None

    @property
    def label(self) -> str:
        """How people are told of it."""
        return self.name or (f"publisher {self.publisher[-8:]}" if self.publisher else "a publisher without a name")


IN_PROCESS = Source()
"""A caller that holds the supervisor itself: a replay, the simulator, a test."""


_LIVE_NS = NS_PER_S
"""A publisher of chunks counts as live, and is named, for this long after its last one."""

_MOST = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """The policy that is followed: who beats, who sends chunks, and what they said of themselves.

    None: not known yet; the first message that fits settles it.
    """

    heartbeat: Source | None = None
    chunks: Source | None = None
    checkpoint: str | None = None

    @property
    def process(self) -> str:
        """Its process, where that is known."""
        return next((said.process for said in (self.heartbeat, self.chunks) if said is not None and said.process), "")

    @property
    def instance(self) -> str:
        """The random name that its process gave itself; empty where it is not known."""
        author = self.chunks.author if self.chunks is not None else None
        return author.instance if author is not None else ""

    def may_be(self, source: Source) -> bool:
        """Whether a publisher that was not heard before may belong to it."""
        return not (self.process and source.process and self.process != source.process)


@dataclass(slots=True, kw_only=True)
class _Heard:
    source: Source
    now_ns: int
    healthy: bool = True
    checkpoint: str = ""


class PolicyWatch:
    """Everybody who publishes heartbeats or chunks, and the one who is followed while the arm is engaged."""

    def __init__(self, contract: Contract) -> None:
        self._robot = contract.name
        self._beats: dict[str, _Heard] = {}
        self._chunks: dict[str, _Heard] = {}
        self.binding: Binding | None = None

    @property
    def is_healthy(self) -> bool:
        """The word of the policy that counts; True where none has beaten."""
        beat = self._beat()
        return beat is None or beat.healthy

    @property
    def instance(self) -> str:
        """The instance that is followed; empty: none, or not known."""
        return self.binding.instance if self.binding is not None else ""

    def hear_heartbeat(self, source: Source, now_ns: int, *, healthy: bool) -> None:
        """One heartbeat. While a policy is followed only its own count."""
        self._note(self._beats, _Heard(source=source, now_ns=now_ns, healthy=healthy))
        binding = self.binding
        if binding is not None and binding.heartbeat is None and binding.may_be(source):
            self.binding = replace(binding, heartbeat=source)

    def heartbeat_age_s(self, now_ns: int) -> float:
        """Age of the newest heartbeat that counts; infinite without one."""
        beat = self._beat()
        return float("inf") if beat is None else max(0, now_ns - beat.now_ns) / NS_PER_S

    def judge_chunk(self, chunk: Chunk, source: Source, now_ns: int) -> Verdict | None:
        """Why a chunk may not be looked at any further: it is for another robot, or not of the policy in force."""
        self._note(self._chunks, _Heard(source=source, now_ns=now_ns, checkpoint=str(chunk.checkpoint_hash)))
        author = source.author
        if author is not None and author.robot != self._robot:
            return refused(
                Reason.CHUNK_ROBOT, f"for {author.robot[:80]!r}, this is {self._robot!r}; from {source.label}"
            )
        return None if self.binding is None else self._judge_bound(self.binding, chunk, source)

    def candidate(self, now_ns: int, *, heartbeat_timeout_s: float) -> Binding | Verdict:
        """The only policy that is live now, or a refusal with the names of all."""
        beats = _live(self._beats, now_ns, round(heartbeat_timeout_s * NS_PER_S))
        chunks = _live(self._chunks, now_ns, _LIVE_NS)
        binding = Binding(
            heartbeat=beats[0].source if beats else None,
            chunks=chunks[0].source if chunks else None,
            checkpoint=chunks[0].checkpoint if chunks else None,
        )
        apart = bool(beats and chunks) and not Binding(heartbeat=beats[0].source).may_be(chunks[0].source)
        if len(beats) > 1 or len(chunks) > 1 or apart:
            names = sorted({_name(heard.source) for heard in (*beats, *chunks)})
            return refused(Reason.POLICY_SEVERAL, ", ".join(names))
        return binding

    def others(self, now_ns: int) -> tuple[str, ...]:
        """Who publishes chunks or heartbeats beside the policy that is followed; of several unbound ones, all."""
        live = {
            "heartbeat": _live(self._beats, now_ns, _LIVE_NS),
            "chunks": _live(self._chunks, now_ns, _LIVE_NS),
        }
        if self.binding is None:
            found = [heard.source for heard in (*live["heartbeat"], *live["chunks"])]
            several = any(len(heard) > 1 for heard in live.values())
        else:
            bound = {"heartbeat": self.binding.heartbeat, "chunks": self.binding.chunks}
            found = [
                heard.source
                for kind, all_heard in live.items()
                for heard in all_heard
                if (own := bound[kind]) is None or not _same(own, heard.source)
            ]
            several = bool(found)
        return tuple(sorted({_name(source) for source in found})) if several else ()

    def _judge_bound(self, binding: Binding, chunk: Chunk, source: Source) -> Verdict | None:
        known = binding.chunks
        if known is None:
            if not binding.may_be(source):
                return refused(Reason.POLICY_OTHER, _name(source))
            self.binding = replace(binding, chunks=source, checkpoint=chunk.checkpoint_hash)
            return None
        if not _same(known, source):
            return refused(Reason.POLICY_OTHER, _name(source))
        if chunk.checkpoint_hash != binding.checkpoint:
            said = f"{str(chunk.checkpoint_hash)[:12]!r}, engaged with {str(binding.checkpoint)[:12]!r}"
            return refused(Reason.CHUNK_CHECKPOINT, said)
        return None

    def _beat(self) -> _Heard | None:
        if self.binding is not None and self.binding.heartbeat is not None:
            return self._beats.get(self.binding.heartbeat.publisher)
        return max(self._beats.values(), key=lambda heard: heard.now_ns, default=None)

    def _note(self, heard: dict[str, _Heard], new: _Heard) -> None:
        """Keeps the newest of each publisher; of a crowd the ones heard last, and the one that is followed."""
        heard[new.source.publisher] = new
        if len(heard) <= _MOST:
            return
        binding = self.binding
        kept = {said.publisher for said in (binding.heartbeat, binding.chunks) if said} if binding else set()
        oldest = min((key for key in heard if key not in kept), key=lambda key: heard[key].now_ns)
        del heard[oldest]


def _live(heard: dict[str, _Heard], now_ns: int, span_ns: int) -> list[_Heard]:
    return [one for one in heard.values() if now_ns - one.now_ns <= span_ns]


def _same(known: Source, source: Source) -> bool:
    """Whether a message is of a publisher that is known, and its policy calls itself by the same name."""
    return known.publisher == source.publisher and known.author == source.author


def _name(source: Source) -> str:
    return f"{source.label} ({source.author.instance[:8]})" if source.author is not None else source.label


# Emergency stops by station: each is pressed, released and watched for silence by itself.


MOST_STATIONS = 16
"""More publishers of the emergency stop are a fault by themselves."""


_SPARE = 1.25
"""A station must beat so much more often than its limit for silence, for messages come unevenly."""


@dataclass(slots=True, kw_only=True)
class _Station:
    source: Source
    first_ns: int
    heard_ns: int
    pressed: bool
    has_left: bool = False
    interval_ns: int = 0


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
        station.interval_ns = now_ns - station.heard_ns
        station.heard_ns, station.pressed, station.has_left = now_ns, pressed, False
        station.source = source
        for key in [key for key, old in self._stations.items() if _follows(station, old, now_ns, timeout_s)]:
            del self._stations[key]

    def note_present(self, publishers: Collection[str]) -> None:
        """Which publishers the graph shows now."""
        for key, station in self._stations.items():
            station.has_left = key not in publishers

    def late(self, now_ns: int, *, limit_s: float) -> Verdict | None:
        """The station that is silent for longest, where that is too long, with its rate and the one that is needed."""
        station = max(self._stations.values(), key=lambda station: _silence_s(station, now_ns), default=None)
        if station is None or _silence_s(station, now_ns) <= limit_s:
            return None
        rate_hz = NS_PER_S / station.interval_ns if station.interval_ns > 0 else 0.0
        said = f"{station.source.label} silent for {_silence_s(station, now_ns):.3f} s, limit {limit_s:g} s; it beat at"
        return refused(Reason.ESTOP_LATE, f"{said} {rate_hz:.0f} Hz, {_SPARE / limit_s:.0f} Hz are needed")

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


# An enabling device (hold-to-run): the arm may move only while somebody holds it.


class EnablingWatch:
    """Who holds an enabling device, by publisher. Two at once enable nothing: one would speak for the other."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[Source, int, bool]] = {}

    def hear(self, source: Source, now_ns: int, *, held: bool) -> None:
        """One beat of a device. Those that fell silent are forgotten."""
        self._heard = {key: said for key, said in self._heard.items() if now_ns - said[1] <= _LIVE_NS}
        if len(self._heard) < MOST_STATIONS:
            self._heard[source.publisher] = (source, now_ns, held)

    def fault(self, now_ns: int, *, timeout_s: float) -> Verdict | None:
        """Why nothing may move: no device, more than one, not held, or silent."""
        live = [said for said in self._heard.values() if now_ns - said[1] <= _LIVE_NS]
        if len(live) != 1:
            names = ", ".join(sorted(source.label for source, _, _ in live))
            return refused(Reason.NOT_ENABLED, f"several devices: {names}" if names else "no device is heard")
        source, heard_ns, held = live[0]
        age_s = (now_ns - heard_ns) / NS_PER_S
        if held and age_s <= timeout_s:
            return None
        return refused(Reason.NOT_ENABLED, f"{source.label} silent for {age_s:.3f} s" if held else source.label)
