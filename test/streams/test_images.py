# SPDX-License-Identifier: Apache-2.0
"""Camera messages to pixels: the same letterbox as LeRobot's, and refusals of what is not the contract's camera."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray

from sigma_ros.contract import Camera
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import ContractError, SigmaError
from sigma_ros.streams import images
from sigma_ros.streams.images import ImageMessage, check_image, decode_resized, letterbox

CAMERA = load_contract("so101").cameras[0]
SIZE = 224


def scene(height: int = 480, width: int = 640, seed: int = 0) -> ndarray:
    """SYNTHETIC picture with smooth shading, hard edges and noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([rows * 255 / height, columns * 255 / width, (rows + columns) % 256], axis=-1)
    smooth[height // 4 : height // 2, width // 4 : width // 2] = (250, 10, 60)
    return np.clip(smooth + random.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


def camera_of(width: int, height: int) -> Camera:
    return replace(CAMERA, width_px=width, height_px=height)


def raw(pixels: ndarray, encoding: str = "rgb8", *, padding: int = 0) -> ImageMessage:
    height, width, channels = pixels.shape
    rows = np.zeros((height, width * channels + padding), dtype=np.uint8)
    rows[:, : width * channels] = pixels.reshape(height, -1)
    return ImageMessage(
        encoding=encoding, height=height, width=width, step=rows.shape[1], data=rows.tobytes(), is_compressed=False
    )


def coded(pixels: ndarray, kind: str, encoding: str | None = None) -> ImageMessage:
    _, data = cv2.imencode(f".{kind}", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return ImageMessage(encoding=encoding or kind, height=0, width=0, step=0, data=data.tobytes(), is_compressed=True)


def lerobot_letterbox(pixels: ndarray, size: int) -> ndarray:
    """LeRobot's own function on floats in [0, 1], as PI05Policy calls it; back to 0..255."""
    torch = pytest.importorskip("torch")
    vla_utils = pytest.importorskip("lerobot.policies.common.vla_utils")
    image = torch.from_numpy(pixels).to(torch.float32)[None] / 255.0
    return vla_utils.resize_with_pad_torch(image, size, size)[0].numpy() * 255.0


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (480, 640, 224),
        (720, 1280, 224),
        (1080, 1920, 224),
        (640, 480, 224),
        (224, 224, 224),
        (120, 160, 224),
        (97, 131, 64),
    ],
)
def test_letterbox_equals_lerobots_within_rounding(height: int, width: int, size: int) -> None:
    pixels = scene(height, width)
    ours = letterbox(pixels, size).astype(np.float64)
    reference = lerobot_letterbox(pixels, size)
    # Half a level is the rounding to 8 bit; cv2's 11-bit weights add at most another half.
    assert np.abs(ours - reference).max() <= 1.0
    assert np.abs(ours - reference).mean() < 0.3


@given(st.integers(16, 300), st.integers(16, 300), st.integers(16, 96))
@settings(deadline=None, max_examples=40)
def test_letterbox_places_any_size_where_lerobot_does(height: int, width: int, size: int) -> None:
    white = np.full((height, width, 3), 255, dtype=np.uint8)
    if min(int(height / max(width / size, height / size)), int(width / max(width / size, height / size))) == 0:
        return
    assert np.array_equal(letterbox(white, size), lerobot_letterbox(white, size).round().astype(np.uint8))


def test_the_bars_are_black_and_the_picture_is_centred() -> None:
    image = letterbox(np.full((480, 640, 3), 200, dtype=np.uint8), SIZE)
    assert image.shape == (SIZE, SIZE, 3)
    assert not image[:28].any()
    assert not image[196:].any()
    assert (image[28:196] == 200).all()


def test_every_raw_encoding_gives_the_same_colours() -> None:
    pixels = scene()
    alpha = np.full((480, 640, 1), 7, dtype=np.uint8)
    expected = decode_resized(raw(pixels), CAMERA, SIZE)
    for encoding, stored in {
        "bgr8": pixels[..., ::-1],
        "rgba8": np.concatenate([pixels, alpha], axis=-1),
        "bgra8": np.concatenate([pixels[..., ::-1], alpha], axis=-1),
    }.items():
        assert np.array_equal(decode_resized(raw(stored, encoding), CAMERA, SIZE), expected), encoding


@pytest.mark.parametrize(
    ("encoding", "luma_first"), [("uyvy", False), ("yuv422", False), ("yuyv", True), ("yuv422_yuy2", True)]
)
def test_yuv_422_is_read_in_both_byte_orders(encoding: str, *, luma_first: bool) -> None:
    luma, u, v = 101, 94, 192  # RGB (200, 60, 30) in BT.601, limited range
    pair = (luma, u, luma, v) if luma_first else (u, luma, v, luma)
    pixels = np.tile(np.array(pair, dtype=np.uint8), (480, 320, 1)).reshape(480, 640, 2)
    image = decode_resized(raw(pixels, encoding), CAMERA, SIZE)
    assert np.abs(image[112, 112].astype(int) - (200, 60, 30)).max() <= 4


def test_padded_rows_are_read_without_their_padding() -> None:
    pixels = scene()
    assert np.array_equal(
        decode_resized(raw(pixels, padding=64), CAMERA, SIZE), decode_resized(raw(pixels), CAMERA, SIZE)
    )


def test_png_is_exact_and_jpeg_is_close() -> None:
    pixels = cv2.GaussianBlur(scene(), (9, 9), 3)
    expected = decode_resized(raw(pixels), CAMERA, SIZE).astype(int)
    assert np.array_equal(decode_resized(coded(pixels, "png"), CAMERA, SIZE), expected)
    for encoding in ("jpeg", "jpg", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8"):
        assert np.abs(decode_resized(coded(pixels, "jpg", encoding), CAMERA, SIZE) - expected).mean() < 2


def test_the_message_is_neither_changed_nor_kept() -> None:
    data = bytearray(scene().tobytes())
    message = ImageMessage(encoding="rgb8", height=480, width=640, step=1920, data=data, is_compressed=False)
    before = bytes(data)
    image = decode_resized(message, CAMERA, SIZE)
    assert bytes(data) == before
    data[:] = bytes(len(data))
    assert image.any()


@pytest.mark.parametrize("encoding", ["mono8", "mono16", "bayer_rggb8", "32FC1", "", "rgb16", "x" * 200])
def test_encodings_without_colour_or_of_other_depth_are_refused(encoding: str) -> None:
    with pytest.raises(ContractError, match=r"encoding not supported.*expected: rgb8, bgr8"):
        check_image(raw(scene(), encoding), CAMERA)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"width": 320}, "image size is not the contract's.*expected: 640x480; got: 320x480"),
        ({"height": 1 << 31}, "image size is not the contract's"),
        ({"step": 1919}, "row step too small.*expected: >= 1920; got: 1919"),
        ({"step": 2048}, "image data too short"),
        ({"data": b""}, "image data too short.*got: 0 bytes"),
        ({"data": bytes(640 * 480 * 3 - 1)}, "image data too short"),
    ],
)
def test_a_header_that_lies_is_refused(change: dict, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        decode_resized(replace(raw(scene()), **change), CAMERA, SIZE)


@pytest.mark.parametrize("kind", ["jpg", "png"])
@given(cut=st.integers(0, 3000))
@settings(deadline=None, max_examples=40)
def test_a_cut_compressed_image_is_refused_and_not_filled_with_grey(kind: str, cut: int) -> None:
    whole = coded(scene(48, 64), kind)
    camera = camera_of(64, 48)
    shorter = bytes(whole.data)[: max(len(bytes(whole.data)) - 65 - cut, 0)]
    with pytest.raises(SigmaError):
        decode_resized(replace(whole, data=shorter), camera, SIZE)


def test_a_compressed_image_of_another_size_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ContractError, match="expected: 640x480; got: 64x48"):
        check_image(coded(scene(48, 64), "jpg"), CAMERA)


@pytest.mark.parametrize("kind", ["jpg", "png"])
@pytest.mark.parametrize("padding", [0, 63, 64, 4000])
def test_a_header_is_read_once_whatever_pads_the_picture(kind: str, padding: int, monkeypatch) -> None:
    whole, read = coded(scene(48, 64), kind), []
    padded = replace(whole, data=bytes(whole.data) + bytes(padding))
    own = images.coded_picture
    monkeypatch.setattr(images, "coded_picture", lambda data: read.append(1) or own(data))
    check_image(padded, camera_of(64, 48))
    decode_resized(padded, camera_of(64, 48), SIZE)
    assert len(read) == 2


@pytest.mark.parametrize("encoding", ["h264", "16UC1; compressedDepth png", "webp"])
def test_other_compressions_are_refused(encoding: str) -> None:
    with pytest.raises(ContractError, match="compressed image format not supported"):
        check_image(replace(coded(scene(), "jpg"), encoding=encoding), CAMERA)


@given(st.binary(max_size=400))
@settings(deadline=None, max_examples=200)
def test_random_bytes_never_pass_as_an_image(data: bytes) -> None:
    for start in (b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"):
        message = ImageMessage(encoding="jpeg", height=0, width=0, step=0, data=start + data, is_compressed=True)
        with pytest.raises(SigmaError):
            decode_resized(message, CAMERA, SIZE)
