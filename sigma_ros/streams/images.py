# SPDX-License-Identifier: Apache-2.0
"""Camera messages to the model's pixels: checked against the contract, decoded and letterboxed once.

The letterbox is LeRobot's `resize_with_pad_torch` (bilinear with pixel centres at half, no antialias, image centred,
black bars) on 8-bit pixels: it differs from the float version by rounding only (`test_images` states how much).
"""

import struct
from collections.abc import Buffer, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from sigma_ros.contract import Camera
from sigma_ros.errors import ContractError, SigmaError
from sigma_ros.values import fitted_px

# Width and height of a JPEG or PNG from its header, so that a wrong or cut image is refused before it is decoded.
#
# libjpeg fills the missing part of a cut image with grey and calls it a success; the end marker tells.


_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND"
_PNG_GREY = (0, 4)  # colour types: grey, with and without alpha
_GREY = "compressed image is grey"
_DEEP_BITS = 16
_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_TRAILING_BYTES = 64  # some cameras pad the end of a JPEG, some with zeros up to a whole block
_BLOCK_BYTES = 1 << 16
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LENGTHLESS = frozenset(range(0xD0, 0xD8)) | {0x01}


class CodedPicture(NamedTuple):
    """What the header of a whole JPEG or PNG says; `refusal`: why it is no colour picture of 8 bits."""

    size_px: tuple[int, int]
    refusal: str | None


def coded_picture(coded: memoryview) -> CodedPicture | None:
    """What is coded there; None if it is neither JPEG nor PNG, or its end is missing."""
    if len(coded) < 26:
        return None
    if coded[:8] == _PNG_MAGIC:
        if _PNG_END not in _tail(coded):
            return None
        width, height, bits, kind = struct.unpack_from(">IIBB", coded, 16)
        deep = "compressed image has 16 bits a channel" if bits == _DEEP_BITS else None
        return CodedPicture((width, height), deep or (_GREY if kind in _PNG_GREY else None))
    if coded[:2] != _JPEG_START or _JPEG_END not in _tail(coded) or (frame := _jpeg_frame(coded)) is None:
        return None
    return CodedPicture(frame[:2], _GREY if frame[2] == 1 else None)


def _tail(coded: memoryview) -> bytes:
    """The last bytes before the zeros that pad it."""
    for size in (2 * _TRAILING_BYTES, _BLOCK_BYTES):
        tail = bytes(coded[-size:]).rstrip(b"\0")[-_TRAILING_BYTES:]
        if len(tail) == _TRAILING_BYTES:
            break
    return tail


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


def _jpeg_frame(coded: memoryview) -> tuple[int, int, int] | None:
    """(width, height, components)."""
    position = 2
    while position + 10 <= len(coded):
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
            height, width, components = struct.unpack_from(">HHB", coded, position + 5)
            return width, height, components
        (length,) = struct.unpack_from(">H", coded, position + 2)
        position += 2 + max(length, 2)
    return None


Convert = Callable[[UInt8[ndarray, "h w c"]], UInt8[ndarray, "h w 3"]]
Square = Callable[[int], UInt8[ndarray, "size size 3"]]
"""Gives black memory for a picture of this side."""


def _same(pixels: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h w 3"]:
    return pixels


def _recolour(code: int) -> Convert:
    return lambda pixels: cv2.cvtColor(pixels, code)


_CHANNELS: Mapping[str, int] = {"rgb8": 3, "bgr8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4} | dict.fromkeys(
    ("uyvy", "yuv422", "yuyv", "yuv422_yuy2"), 2
)
# Colour order is changed after the resize, on a twelfth of the pixels; 4:2:2 has to be unpacked before it.
_AFTER_RESIZE: Mapping[str, Convert] = {
    "rgb8": _same,
    "bgr8": _recolour(cv2.COLOR_BGR2RGB),
    "8UC3": _recolour(cv2.COLOR_BGR2RGB),
    "rgba8": _recolour(cv2.COLOR_RGBA2RGB),
    "bgra8": _recolour(cv2.COLOR_BGRA2RGB),
}
_BEFORE_RESIZE: Mapping[str, Convert] = {
    "uyvy": _recolour(cv2.COLOR_YUV2RGB_UYVY),
    "yuv422": _recolour(cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": _recolour(cv2.COLOR_YUV2RGB_YUY2),
    "yuv422_yuy2": _recolour(cv2.COLOR_YUV2RGB_YUY2),
}
RAW_ENCODINGS = tuple(_CHANNELS)
"""Raw encodings that are read; Bayer, mono and 16-bit images are refused, for the policy wants colour.

`8UC3` names no order of colours; it is OpenCV's, blue first, as `cv_bridge` takes it.
"""

COMPRESSED_FORMATS = ("jpeg", "png")
_CORNER_PX = 4  # of the last block; further in, the colours of its neighbours show
_DEPTH_WORDS = ("depth", "16uc", "16sc", "32fc", "mono16")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageMessage:
    """What sensor_msgs Image or CompressedImage carry. `data` is borrowed, never written to.

    `encoding` is the raw encoding (`rgb8`) or the compressed format (`jpeg`, `rgb8; jpeg compressed bgr8`).
    `height`, `width` (pixels) and `step` (bytes of a row) are 0 for compressed images.
    """

    encoding: str
    height: int
    width: int
    step: int
    data: Buffer
    is_compressed: bool

    @property
    def nbytes(self) -> int:
        """Bytes of image data."""
        return memoryview(self.data).nbytes


def check_image(message: ImageMessage, camera: Camera) -> None:
    """Refuses what `decode_resized` could not read, from the header alone.

    Raises:
        ContractError: encoding, size, row step or amount of data is not what the contract's camera sends.
    """
    if message.is_compressed:
        _check_compressed(message, camera)
        return
    channels = _CHANNELS.get(message.encoding)
    if channels is None:
        raise ContractError(
            "image encoding not supported",
            where=camera.topic,
            expected=", ".join(RAW_ENCODINGS),
            got=message.encoding[:40] or "no encoding",
            remedy="publish colour images (image_proc turns Bayer into rgb8)",
        )
    if (message.width, message.height) != (camera.width_px, camera.height_px):
        raise _wrong_size((message.width, message.height), camera)
    row = message.width * channels
    if message.step < row:
        raise ContractError("image row step too small", where=camera.topic, expected=f">= {row}", got=message.step)
    needed = message.step * (message.height - 1) + row
    if message.nbytes < needed:
        raise ContractError(
            "image data too short", where=camera.topic, expected=f">= {needed} bytes", got=f"{message.nbytes} bytes"
        )


OWN_SIZE_PX = 0
"""A picture size that asks for pictures as large as the camera's."""


def black_square(size_px: int) -> UInt8[ndarray, "size size 3"]:
    """A picture of this side to be written."""
    return np.zeros((size_px, size_px, 3), dtype=np.uint8)


def decode_resized(
    message: ImageMessage, camera: Camera, size_px: int, square: Square = black_square
) -> UInt8[ndarray, "size size 3"]:
    """RGB pixels of a camera message, letterboxed to a `size_px` square like LeRobot's `resize_with_pad_torch`.

    They are written once, into what `square` gives; with `OWN_SIZE_PX` they are those of `decode_full`.

    Raises:
        ContractError: the message is not what the contract's camera sends (`check_image`).
        SigmaError: the compressed data cannot be decoded.
    """
    if size_px == OWN_SIZE_PX:
        return decode_full(message, camera)
    check_image(message, camera)
    if message.is_compressed:
        return letterbox(_decoded(message.data, camera.topic), size_px, square=square)
    pixels = _raw_pixels(message)
    unpack = _BEFORE_RESIZE.get(message.encoding)
    if unpack is not None:
        return letterbox(unpack(pixels), size_px, square=square)
    return letterbox(pixels, size_px, _AFTER_RESIZE[message.encoding], square)


def decode_full(message: ImageMessage, camera: Camera) -> UInt8[ndarray, "h w 3"]:
    """RGB pixels of a camera message at the camera's own size; raises as `decode_resized` does."""
    check_image(message, camera)
    if message.is_compressed:
        return _decoded(message.data, camera.topic)
    convert = _BEFORE_RESIZE.get(message.encoding) or _AFTER_RESIZE[message.encoding]
    return convert(_raw_pixels(message))


def decode_coded(data: Buffer, *, where: object) -> UInt8[ndarray, "h w 3"]:
    """RGB pixels of a JPEG or PNG as it was coded: the same for a robot's message and a data set's row.

    The orientation that EXIF asks for is not applied, as it is not live.

    Raises:
        SigmaError: it is neither, cut, grey, of 16 bits, or cannot be decoded.
    """
    picture = coded_picture(memoryview(data).cast("B"))
    if (wrong := "compressed image is damaged" if picture is None else picture.refusal) is not None:
        raise SigmaError(wrong, where=where, expected="a complete JPEG or PNG of 8 bits and in colour")
    return _decoded(data, where)


def _decoded(data: Buffer, where: object) -> UInt8[ndarray, "h w 3"]:
    view = memoryview(data).cast("B")
    pixels = cv2.imdecode(np.frombuffer(view, dtype=np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise SigmaError("compressed image cannot be decoded", where=where, got=f"{view.nbytes} bytes")
    corner = pixels[-_CORNER_PX:, -_CORNER_PX:]
    if (corner == corner[-1, -1]).all() and lacks_data(view):
        raise SigmaError("compressed image is cut", where=where, expected="a complete JPEG", got=f"{view.nbytes} bytes")
    return pixels


def letterbox(
    pixels: UInt8[ndarray, "h w c"], size_px: int, convert: Convert = _same, square: Square = black_square
) -> UInt8[ndarray, "size size 3"]:
    """Resizes to fit a square, keeping the aspect, centred on black; `convert` makes RGB of the small image."""
    rows, columns = fitted_px(pixels.shape[0], pixels.shape[1], size_px)
    picture = square(size_px)
    size = (columns.stop - columns.start, rows.stop - rows.start)
    picture[rows, columns] = convert(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR))
    picture.flags.writeable = False
    return picture


def _raw_pixels(message: ImageMessage) -> UInt8[ndarray, "h w c"]:
    channels = _CHANNELS[message.encoding]
    return np.ndarray(
        (message.height, message.width, channels),
        dtype=np.uint8,
        buffer=memoryview(message.data).cast("B"),
        strides=(message.step, channels, 1),
    )


def _check_compressed(message: ImageMessage, camera: Camera) -> None:
    words = message.encoding.lower().replace("jpg", "jpeg").strip() or COMPRESSED_FORMATS[0]  # the data itself tells
    if not any(name in words for name in COMPRESSED_FORMATS) or any(word in words for word in _DEPTH_WORDS):
        raise ContractError(
            "compressed image format not supported",
            where=camera.topic,
            expected=", ".join(COMPRESSED_FORMATS),
            got=message.encoding[:40] or "no format",
        )
    picture = coded_picture(memoryview(message.data).cast("B"))
    if picture is None:
        raise ContractError(
            "compressed image is damaged",
            where=camera.topic,
            expected="a complete JPEG or PNG",
            got=message.encoding[:40],
        )
    if picture.refusal is not None:
        raise ContractError(
            picture.refusal,
            where=camera.topic,
            expected="a colour picture of 8 bits",
            got=message.encoding[:40],
            remedy="give the colour camera's topic; this one looks like depth",
        )
    if picture.size_px != (camera.width_px, camera.height_px):
        raise _wrong_size(picture.size_px, camera)


def _wrong_size(size: tuple[int, int], camera: Camera) -> ContractError:
    return ContractError(
        "image size is not the contract's",
        where=camera.topic,
        expected=f"{camera.width_px}x{camera.height_px}",
        got=f"{size[0]}x{size[1]}",
        remedy="correct the camera's mode or the contract",
    )


def as_jpeg(rgb: UInt8[ndarray, "h w 3"], quality: int, *, where: object) -> UInt8[ndarray, " n"]:
    """An RGB picture coded as JPEG of a quality (1..100).

    Raises:
        SigmaError: it cannot be coded.
    """
    done, coded = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise SigmaError("a picture cannot be coded as JPEG", where=where, got=rgb.shape)
    return coded.reshape(-1)
