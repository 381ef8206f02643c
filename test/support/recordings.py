# SPDX-License-Identifier: Apache-2.0
"""SYNTHETIC streams for the frame clock: a small camera pair and six joints, stamped at will."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from small import HEIGHT, WIDTH, small_contract  # noqa: F401 - what most streams are of

from sigma_ros.contract import Contract
from sigma_ros.streams.frame_clock import FrameClock
from sigma_ros.streams.images import ImageMessage
from sigma_ros.values import Gap, Window

SIZE = 16
MS = 1_000_000
START_NS = 1_000 * MS


def picture(value: int) -> ndarray:
    return np.full((HEIGHT, WIDTH, 3), value % 256, dtype=np.uint8)


def image_message(value: int, encoding: str = "rgb8") -> ImageMessage:
    return ImageMessage(
        encoding=encoding,
        height=HEIGHT,
        width=WIDTH,
        step=3 * WIDTH,
        data=picture(value).reshape(-1),
        is_compressed=False,
    )


class Arrival(NamedTuple):
    """A message of a stream (`joints`, or a camera's name) as it comes in; its content is told by its stamp."""

    arrival_ns: int
    stamp_ns: int
    stream: str


def push(clock: FrameClock, contract: Contract, message: Arrival) -> None:
    if message.stream == "joints":
        clock.push_joints(message.stamp_ns, contract.joint_names, np.full(contract.dof, message.stamp_ns / 1e12))
    else:
        clock.push_image(message.stream, message.stamp_ns, image_message(message.stamp_ns // MS))


def drain(clock: FrameClock, now_ns: int | None) -> list[Window | Gap]:
    items = []
    while clock.ready(now_ns):
        items.append(clock.next_tick())
    return items


def run(
    contract: Contract, arrivals: Iterable[Arrival], *, live: bool = False, clock: FrameClock | None = None
) -> list[Window | Gap]:
    clock = clock or FrameClock(contract, image_size_px=SIZE)
    items: list[Window | Gap] = []
    for message in arrivals:
        push(clock, contract, message)
        items += drain(clock, message.arrival_ns if live else None)
    return items


def content(item: Window | Gap) -> tuple:
    """All of a tick as plain values, so that equal means bit for bit."""
    if isinstance(item, Gap):
        return ("gap", item.epoch, item.tick, item.stamp_ns, item.reasons)
    frames = tuple(
        (
            frame.epoch,
            frame.tick,
            frame.stamp_ns,
            frame.positions_rad.tobytes(),
            tuple(sorted((name, image.tobytes()) for name, image in frame.images.items())),
            frame.joint_age_ns,
            tuple(sorted(frame.image_age_ns.items())),
        )
        for frame in item.frames
    )
    return ("window", item.epoch, item.task, item.mask.tobytes(), frames)


def contents(items: Iterable[Window | Gap]) -> list[tuple]:
    return [content(item) for item in items]


def steady(contract: Contract, *, seconds: float, start_ns: int = START_NS) -> list[Arrival]:
    """Every stream at its tick, without latency; joints three times as often."""
    ticks = round(seconds * contract.fps)
    arrivals = []
    for tick in range(ticks):
        stamp_ns = start_ns + contract.tick_offset_ns(tick)
        arrivals += [Arrival(stamp_ns, stamp_ns, camera.name) for camera in contract.cameras]
        arrivals += [Arrival(s, s, "joints") for s in (stamp_ns, stamp_ns + 11 * MS, stamp_ns + 22 * MS)]
    return sorted(arrivals)
