# SPDX-License-Identifier: Apache-2.0
"""Pictures of videos: stored packet by packet by a recorder (H.264, H.265, AV1, VP9), or a data set's films, by PyAV.

A packet needs those before it, back to a key frame: what cannot be decoded is counted, never guessed. After a packet
that is damaged nothing is taken before the next key frame.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, UInt8
from numpy import ndarray

from sigma_ros.border import one_line, open_regular
from sigma_ros.errors import DatasetError
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
        self._to_rgb = _ToRgb()
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
                yield taken, _message(self._to_rgb(frame))
        while len(self._taken) > _MOST_WAITING:
            del self._taken[next(iter(self._taken))]


def _is_key(codec: str, data: bytes) -> bool:
    """Whether a packet of H.264 or H.265 holds a key frame; other codecs refuse by themselves what is none."""
    wanted = _KEY_UNITS.get(codec)
    if wanted is None:
        return True
    heads = (part[0] for part in data.split(b"\0\0\1")[1:] if part)
    return any((head & 31 if codec == "h264" else head >> 1 & 63) in wanted for head in heads)


class _ToRgb:
    """Pixels of a film's frames; one converter for all of them, for PyAV's own is made anew for each."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter  # noqa: PLC0415 - a heavy library, for videos only

        self._converter = VideoReformatter()

    def __call__(self, frame: Any) -> UInt8[ndarray, "h w 3"]:
        return self._converter.reformat(frame, format="rgb24").to_ndarray()


def _message(pixels: UInt8[ndarray, "h w 3"]) -> ImageMessage:
    height, width, _ = pixels.shape
    return ImageMessage(
        encoding="rgb8", height=height, width=width, step=3 * width, data=pixels.reshape(-1), is_compressed=False
    )


# Films of data sets: pictures by their times in a file.


TOLERANCE_S = 1e-4
"""How far a picture's time may be from its row's, as in LeRobot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPart:
    """Where an episode's pictures are: a video from `start_s` to before `end_s` (None: to its end)."""

    file: Path
    start_s: float
    end_s: float | None


def video_pictures(part: VideoPart, wanted_s: Float64[ndarray, " ticks"]) -> Iterator[UInt8[ndarray, "h w 3"]]:
    """RGB pictures at times of the film [s], increasing, each the nearest one within LeRobot's tolerance.

    Raises:
        DatasetError: the video cannot be read, ends early, or has no picture at a time.
    """
    given, to_rgb = 0, _ToRgb()
    with _film(part) as (container, stream):
        if part.start_s > 0.0 and stream.time_base is not None:
            container.seek(int(part.start_s / stream.time_base), stream=stream)
        before: Any = None
        for frame in container.decode(stream):
            if frame.time is None:
                raise DatasetError("the video's pictures have no times", where=part.file)
            while given < len(wanted_s) and frame.time >= wanted_s[given]:
                yield to_rgb(_at(before, frame, wanted_s[given], part))
                given += 1
            if given == len(wanted_s):
                return
            before = frame
        while before is not None and given < len(wanted_s) and _distance_s(before, wanted_s[given]) <= TOLERANCE_S:
            yield to_rgb(_at(before, before, wanted_s[given], part))
            given += 1
        if given == len(wanted_s):
            return
    raise DatasetError("the video has fewer pictures than rows", where=part.file, expected=len(wanted_s), got=given)


@contextmanager
def _film(part: VideoPart) -> Iterator[tuple[Any, Any]]:
    """An opened film and its video stream.

    Raises:
        DatasetError: it is none, is damaged where it is read, or nobody here knows its codec.
    """
    import av  # noqa: PLC0415 - a heavy library, needed for videos only

    open_regular(part.file).close()
    try:
        with av.open(str(part.file)) as container:
            stream = container.streams.video[0]
            if stream.codec_context is None:  # PyAV takes the process with it when it is asked to decode this
                raise DatasetError("the video's codec is not known", where=part.file)
            yield container, stream
    except (av.FFmpegError, OSError, IndexError, ValueError) as error:
        raise DatasetError("the video cannot be read", where=part.file, got=one_line(error)) from error


def _distance_s(frame: Any, wanted_s: float) -> float:
    return abs(float(frame.time) - wanted_s)


def _at(before: Any, frame: Any, wanted_s: float, part: VideoPart) -> Any:
    nearest = frame if before is None or _distance_s(frame, wanted_s) <= _distance_s(before, wanted_s) else before
    if part.end_s is not None and nearest.time > part.end_s - TOLERANCE_S:
        raise DatasetError(
            "the video has fewer pictures than rows: the next are another episode's",
            where=part.file,
            expected=f"a picture at {wanted_s:.4f} s",
            got=f"the episode's film ends at {part.end_s:.4f} s",
        )
    if _distance_s(nearest, wanted_s) > TOLERANCE_S:
        raise DatasetError(
            "the video has no picture at a row's time",
            where=part.file,
            expected=f"one within {TOLERANCE_S:g} s of {wanted_s:.4f} s",
            got=f"{nearest.time:.4f} s",
            remedy="leave the episode out, or record it again: its film has another rate or holes",
        )
    return nearest


def counted_s(part: VideoPart, rows: int, fps: float) -> Float64[ndarray, " rows"]:
    """Times of rows with measured timestamps (the CR5's), filmed picture by picture: row k is picture k.

    Raises:
        DatasetError: the film has not exactly as many pictures.
    """
    with _film(part) as (container, stream):  # from its packets: nothing is decoded
        times_s = [float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None]
    end_s = np.inf if part.end_s is None else part.end_s - TOLERANCE_S
    pictures = sum(part.start_s - TOLERANCE_S <= time_s < end_s for time_s in times_s)
    if pictures != rows:
        raise DatasetError(
            "the rows' times are not those of the film, and their numbers differ",
            where=part.file,
            expected=f"{rows} pictures",
            got=pictures,
        )
    return np.arange(rows) / fps
