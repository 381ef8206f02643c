# SPDX-License-Identifier: Apache-2.0
"""Images <-> values.

Images stay in the message's own memory as views that cannot be written; decoding and resizing is `streams.images`,
the same for a bag, so no image library of ROS is needed and a broken cv_bridge cannot break a node.
"""

import array

import numpy as np
from numpy import ndarray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from sigma_ros.nodes.shared.sensor_messages import to_time
from sigma_ros.streams.images import ImageMessage, as_jpeg


def image_view(message: Image | CompressedImage) -> ImageMessage:
    """An image as the frame clock takes it: no copy, read-only memory that lives as long as the view."""
    data = memoryview(message.data).toreadonly()
    if isinstance(message, CompressedImage):
        return ImageMessage(encoding=message.format, height=0, width=0, step=0, data=data, is_compressed=True)
    return ImageMessage(
        encoding=message.encoding,
        height=message.height,
        width=message.width,
        step=message.step,
        data=data,
        is_compressed=False,
    )


def image_message(*, at_ns: int, frame_id: str, rgb: ndarray) -> Image:
    """An RGB picture [h, w, 3] uint8 as a raw image message."""
    height, width, _ = rgb.shape
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(rgb).data)
    header = Header(stamp=to_time(at_ns), frame_id=frame_id)
    return Image(header=header, encoding="rgb8", height=height, width=width, step=3 * width, data=data)


def jpeg_message(*, header: Header, rgb: ndarray, quality: int) -> CompressedImage:
    """An RGB picture [h, w, 3] uint8 as a JPEG message of a quality (1..100).

    Raises:
        SigmaError: it cannot be coded.
    """
    data = array.array("B", as_jpeg(rgb, quality, where=header.frame_id).tobytes())
    return CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=data)


def from_view(view: ImageMessage, *, at_ns: int) -> Image | CompressedImage:
    """An image of a recording as a message again, byte for byte."""
    data = array.array("B")
    data.frombytes(view.data)
    header = Header(stamp=to_time(at_ns))
    if view.is_compressed:
        return CompressedImage(header=header, format=view.encoding, data=data)
    return Image(header=header, encoding=view.encoding, height=view.height, width=view.width, step=view.step, data=data)
