# SPDX-License-Identifier: Apache-2.0
"""What inspection finds: streams with their rates and ranges, units with reasons, tasks, losses, oddities."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from sigma_ros.bags.episode import Episode
from sigma_ros.bags.reader import Bag
from sigma_ros.bags.topics import PICTURE_TYPES
from sigma_ros.contract import Contract
from sigma_ros.conventions import UnitGuess
from sigma_ros.streams.images import OWN_SIZE_PX
from sigma_ros.streams.quality import Rhythm

THUMBNAILS = 4
"""Pictures of a camera that are shown, spread over the recording."""

_THUMBNAIL_PX = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFacts:
    """A topic of a bag, or a feature of a data set or checkpoint.

    `kind` is the message's or the feature's type; `messages` counts messages or rows; `low` and `high` are the joints'
    least and largest values as they are stored; `pictures` are small RGB pictures spread over the recording.
    """

    name: str
    kind: str
    messages: int
    rhythm: Rhythm | None = None
    size_px: tuple[int, int] | None = None
    encoding: str = ""
    joints: tuple[str, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    pictures: tuple[UInt8[ndarray, "h w 3"], ...] = ()

    @property
    def is_camera(self) -> bool:
        """Whether it holds pictures."""
        return self.kind in (*PICTURE_TYPES, "video", "image")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What lies at a path. `kind` is `bag`, `data set` or `checkpoint`; `tasks` counts episodes by task text.

    `findings` are oddities in words (`streams.quality`); `losses` is the account of what cannot be used, by reason.
    """

    path: str
    kind: str
    facts: Mapping[str, object]
    streams: tuple[TopicFacts, ...]
    units: tuple[UnitGuess, ...] = ()
    tasks: Mapping[str, int] = field(default_factory=dict)
    episodes: int = 0
    losses: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[str, ...] = ()

    def cameras(self) -> tuple[TopicFacts, ...]:
        """The streams that hold pictures."""
        return tuple(stream for stream in self.streams if stream.is_camera)


def account(bag: Bag, contract: Contract) -> dict[str, int]:
    """What the frame clock cannot use of a recording: the account of every verb."""
    ticks = Episode(bag, contract, image_size_px=OWN_SIZE_PX)
    for _ in ticks:
        pass
    return ticks.losses


def small(picture: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h w 3"]:
    """A thumbnail."""
    height = max(1, round(_THUMBNAIL_PX * picture.shape[0] / picture.shape[1]))
    return cv2.resize(picture, (_THUMBNAIL_PX, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
