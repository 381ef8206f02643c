# SPDX-License-Identifier: Apache-2.0
"""Pictures of a video that a recorder stored packet by packet (H.264, H.265, AV1, VP9), decoded in order by PyAV.

A packet needs those before it, back to a key frame: what cannot be decoded is counted, never guessed. After a packet
that is damaged nothing is taken before the next key frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sigma_ros.streams.images import ImageMessage

_KEY_UNITS = {"h264": frozenset((5,)), "hevc": frozenset(range(16, 22))}
_CODECS = {"264": "h264", "avc": "h264", "265": "hevc", "hevc": "hevc", "av1": "av1", "vp9": "vp9"}
_MOST_WAITING = 64
BEFORE_KEY_FRAME = "video before the first key frame, or behind a damaged packet"


@dataclass(frozen=True, slots=True)
class VideoPacket:
    """A piece of a video: the codec's name as the recorder wrote it, and the bytes (a view)."""

    codec: str
    data: memoryview


class VideoError(ValueError):
    """A packet that gives no picture; the text is the reason."""


class Taken(NamedTuple):
    """When a packet was recorded, and its stamp."""

    log_time_ns: int
    stamp_ns: int


def codec_of(name: str) -> str | None:
    """PyAV's name of a codec: `h264` of `h264`, `libx264` and `h264_nvenc;yuv420p`; None for those not read."""
    return next((codec for mark, codec in _CODECS.items() if mark in name.lower()), None)


class VideoDecoder:
    """Decodes one topic's packets; pictures may come some packets later, with their own packet's times."""

    def __init__(self) -> None:
        self._context: Any = None
        self._taken: dict[int, Taken] = {}
        self._packets = 0

    def pictures(self, packet: VideoPacket, taken: Taken) -> Iterator[tuple[Taken, ImageMessage]]:
        """Pictures that are complete with this packet.

        Raises:
            VideoError: this packet gives none.
        """
        import av  # noqa: PLC0415 - a heavy library, for videos only

        codec = codec_of(packet.codec)
        if codec is None:
            raise VideoError(f"a video of codec {packet.codec[:20]!r}, which is not read")
        if self._context is None and not _is_key(codec, bytes(packet.data)):
            raise VideoError(BEFORE_KEY_FRAME)
        coded = av.Packet(bytes(packet.data))
        coded.pts = self._packets = self._packets + 1
        self._taken[self._packets] = taken
        try:
            if self._context is None:
                self._context = av.CodecContext.create(codec, "r")
                self._context.options = {"err_detect": "explode"}
                self._context.thread_count = 1
            frames = self._context.decode(coded)
        except (av.FFmpegError, ValueError) as error:
            self._context = None
            raise VideoError("a damaged video packet") from error
        yield from self._given(frames)

    def rest(self) -> Iterator[tuple[Taken, ImageMessage]]:
        """Pictures that waited for a packet which never came."""
        if self._context is not None:
            yield from self._given(self._context.decode(None))

    def _given(self, frames: list[Any]) -> Iterator[tuple[Taken, ImageMessage]]:
        for frame in frames:
            taken = self._taken.pop(frame.pts, None)
            if taken is not None:
                yield taken, _message(frame)
        while len(self._taken) > _MOST_WAITING:
            del self._taken[next(iter(self._taken))]


def _is_key(codec: str, data: bytes) -> bool:
    """Whether a packet of H.264 or H.265 holds a key frame; other codecs refuse by themselves what is none."""
    wanted = _KEY_UNITS.get(codec)
    if wanted is None:
        return True
    heads = (part[0] for part in data.split(b"\0\0\1")[1:] if part)
    return any((head & 31 if codec == "h264" else head >> 1 & 63) in wanted for head in heads)


def _message(frame: Any) -> ImageMessage:
    pixels = frame.to_ndarray(format="rgb24")
    height, width, _ = pixels.shape
    return ImageMessage(
        encoding="rgb8", height=height, width=width, step=3 * width, data=pixels.reshape(-1), is_compressed=False
    )
