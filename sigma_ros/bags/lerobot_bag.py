# SPDX-License-Identifier: Apache-2.0
"""An episode of a LeRobot data set in a bag's place: the same records as its transcoded bag, without a file.

Pictures are decoded as they are asked for, so a pass over the records costs a pass over the videos.
"""

from collections.abc import Collection, Generator
from typing import Literal, Self

from sigma_ros.bags.episode import TASK_TOPIC
from sigma_ros.bags.lerobot import LerobotEpisode
from sigma_ros.bags.losses import Losses
from sigma_ros.bags.messages import JointMessage, command_value
from sigma_ros.bags.reader import Bag, BagInfo, Record
from sigma_ros.bags.transcode import Row, rows_of
from sigma_ros.contract import Contract
from sigma_ros.streams.images import ImageMessage

_IMAGE, _JOINTS, _TEXT = "sensor_msgs/msg/Image", "sensor_msgs/msg/JointState", "std_msgs/msg/String"


class DatasetBag(Bag):
    """See the module. Cameras are raw here whatever the contract's robot sends."""

    def __init__(self, source: LerobotEpisode, contract: Contract, *, strict: bool = False) -> None:
        self.path = source.root
        self._source = source
        self._contract = contract
        self._types = {TASK_TOPIC: _TEXT, contract.joint_state_topic: _JOINTS}
        self._types |= {camera.topic: _IMAGE for camera in contract.cameras}
        if contract.action_source == "command":
            self._types[contract.command_topic] = contract.command_type
        self._foreign = {}
        self._losses = Losses(source.root, strict=strict)

    def __enter__(self) -> Self:
        return self

    def close(self) -> None:
        """Nothing is open."""

    @property
    def info(self) -> BagInfo:
        """What its transcoded bag would say; there are no files, and videos carry no checksums."""
        storage: Literal["mcap"] = "mcap"
        return BagInfo(
            path=self.path,
            storage=storage,
            files=(),
            topics=tuple(sorted(self._types)),
            types=dict(self._types),
            counts={topic: 1 if topic == TASK_TOPIC else self._source.ticks for topic in self._types},
            start_ns=0,
            end_ns=0,
            checksummed=False,
            metadata={"sigma.task": self._source.task},
            losses=self._losses.snapshot(),
        )

    def records(self, topics: Collection[str] | None = None) -> Generator[Record]:
        """The task, then tick by tick the cameras, the joints and the command, in the order of a transcoded bag."""
        wanted = frozenset(self._types if topics is None else topics)
        for number, row in enumerate(rows_of(self._source, self._contract)):
            for topic, message in self._messages(number, row):
                if topic in wanted:
                    yield Record(topic, self._types[topic], row.stamp_ns, row.stamp_ns, message)

    def _messages(self, number: int, row: Row) -> list[tuple[str, object]]:
        contract = self._contract
        tasks = self._source.tasks
        begins = not number or tasks[number] != tasks[number - 1]
        messages: list[tuple[str, object]] = [(TASK_TOPIC, tasks[number])] if begins else []
        for camera in contract.cameras:
            picture = row.pictures[camera.name]
            image = ImageMessage(
                encoding="rgb8",
                height=picture.shape[0],
                width=picture.shape[1],
                step=3 * picture.shape[1],
                data=picture.reshape(-1),
                is_compressed=False,
            )
            messages.append((camera.topic, image))
        messages.append((contract.joint_state_topic, JointMessage(contract.joint_names, row.state_rad)))
        if row.action_rad is not None:
            command = command_value(contract.command_type, contract.joint_names, row.action_rad)
            messages.append((contract.command_topic, command))
        return messages
