# SPDX-License-Identifier: Apache-2.0
"""Which policy is followed: one from `engage` to release. Others are named; nothing of theirs counts."""

from dataclasses import dataclass, replace

from sigma_ros.contract import Contract
from sigma_ros.control.chunk_check import Verdict, refused
from sigma_ros.control.reasons import Reason
from sigma_ros.control.source import Source
from sigma_ros.values import NS_PER_S, Chunk

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
            return refused(Reason.CHUNK_ROBOT, f"for {author.robot!r}, this is {self._robot!r}; from {source.label}")
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
