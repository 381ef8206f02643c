# SPDX-License-Identifier: Apache-2.0
"""Width and height of a JPEG or PNG from its header, so that a wrong or cut image is refused before it is decoded.

libjpeg fills the missing part of a cut image with grey and calls it a success; the end marker tells.
"""

import struct
from typing import Any

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND"
_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_TRAILING_BYTES = 64  # some cameras pad the end of a JPEG
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LENGTHLESS = frozenset(range(0xD0, 0xD8)) | {0x01}


def coded_size_px(coded: memoryview) -> tuple[int, int] | None:
    """(width, height) of a complete JPEG or PNG, None if it is neither or its end is missing."""
    if len(coded) < 24:
        return None
    tail = bytes(coded[-_TRAILING_BYTES:])
    if coded[:8] == _PNG_MAGIC:
        return struct.unpack_from(">II", coded, 16) if _PNG_END in tail else None
    if coded[:2] == _JPEG_START and _JPEG_END in tail:
        return _jpeg_size_px(coded)
    return None


def is_deep_png(coded: memoryview) -> bool:
    """Whether this is a PNG of 16 bits a channel, as depth is sent."""
    return len(coded) > 25 and coded[:8] == _PNG_MAGIC and coded[24] == 16


def lacks_data(coded: memoryview) -> bool:
    """Whether a JPEG with its end marker lacks data before it; libjpeg fills the rest of the picture with one colour.

    FFmpeg's strict decoder tells, in about a millisecond: asked only where the last corner of a picture is one colour.
    """
    if coded[:2] != _JPEG_START:
        return False
    import av  # noqa: PLC0415 - a heavy library, for doubtful pictures only

    decoder: Any = av.CodecContext.create("mjpeg", "r")
    decoder.options = {"err_detect": "explode+bitstream+buffer"}
    try:
        return not [*decoder.decode(av.Packet(bytes(coded))), *decoder.decode(None)]
    except av.FFmpegError:
        return True


def _jpeg_size_px(coded: memoryview) -> tuple[int, int] | None:
    position = 2
    while position + 9 <= len(coded):
        if coded[position] != 0xFF:
            return None
        marker = coded[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _LENGTHLESS:
            position += 2
            continue
        if marker in _FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", coded, position + 5)
            return width, height
        (length,) = struct.unpack_from(">H", coded, position + 2)
        position += 2 + max(length, 2)
    return None
