# SPDX-License-Identifier: Apache-2.0
"""An episode of a LeRobot data set as the contract's robot would have recorded it: rows, a bag's records, a bag.

Stamps are the data set's own timestamps; a data set has no date, so they count from a round one. Timestamps that are
frame numbers over the rate, up to their 32-bit rounding, become exact: rounded up by a microsecond they would miss
their tick, and every picture would be one tick old. The bag's notes say that it was transcoded and from what.
"""

from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from jaxtyping import Float64, UInt8
from numpy import ndarray

from sigma_ros.bags.dataset_facts import check_episode, check_facts, fetcher, original_key, renamed_episode
from sigma_ros.bags.episode import Episode
from sigma_ros.bags.lerobot import ACTION_KEY, STATE_KEY, LerobotEpisode, read_episode
from sigma_ros.bags.losses import Losses, refuse_losses
from sigma_ros.bags.messages import JointMessage, command_value
from sigma_ros.bags.reader import Bag, BagInfo, Record
from sigma_ros.bags.topics import TASK_TOPIC
from sigma_ros.bags.writer import BagWriter
from sigma_ros.camera_names import NO_RENAME
from sigma_ros.contract import Camera, Contract
from sigma_ros.errors import DatasetError
from sigma_ros.streams.images import ImageMessage, decode_coded
from sigma_ros.streams.joints import unreal
from sigma_ros.streams.video import video_pictures
from sigma_ros.values import NS_PER_S

START_NS = 1_000_000_000 * NS_PER_S
JPEG_QUALITY = 95


def load_episode(
    dataset: str,
    index: int,
    contract: Contract,
    *,
    revision: str | None = None,
    rename: Mapping[str, str] = NO_RENAME,
    resample: bool = False,
) -> LerobotEpisode:
    """An episode of a local data set folder or of one on the Hub (only the episode's files are fetched).

    Args:
        dataset: Folder or Hub id.
        index: Of the episode.
        contract: What it must hold.
        revision: Of a data set on the Hub.
        rename: The data set's feature keys -> the contract's.
        resample: See `dataset_facts.check_facts`.

    Raises:
        DatasetError: the data set cannot be read, or lacks what the contract needs.
    """
    fetch = fetcher(dataset, revision)
    check_facts(fetch, contract, rename=rename, resample=resample)
    wanted = (STATE_KEY, ACTION_KEY, *(camera.dataset_key for camera in contract.cameras))
    source = read_episode(fetch, index, wanted=tuple(original_key(key, rename) for key in wanted))
    if not Path(dataset).is_dir():
        source = replace(source, name=f"{dataset}@{source.root.name}")  # a snapshot's folder is its commit
    source = renamed_episode(source, rename)
    check_episode(source, contract)
    return source


def transcode(
    source: LerobotEpisode,
    contract: Contract,
    out: Path,
    *,
    storage: Literal["mcap", "sqlite3"] = "mcap",
    jpeg_quality: int | None = None,
    overwrite: bool = False,
    strict: bool = False,
    recover: bool = False,
    on_tick: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Writes the episode as a bag, or nothing at all; returns what a replay of that bag will count as lost.

    Commands are written where the contract's actions come from them. Pictures are raw, or JPEG with `jpeg_quality`
    or where the contract's camera sends compressed images. `recover` ends the bag before the first row that cannot be
    read, and counts the rows from there. `on_tick` is called after each row.

    Raises:
        DatasetError: pictures are missing, cannot be decoded or have another size than the contract's camera.
        UsageError: `out` exists.
        BagError: the disk refused a write; in strict mode, anything was lost.
    """
    with BagWriter(out, storage=storage, overwrite=overwrite, metadata=_notes(source, contract)) as bag:
        write = _RecordWriter(bag, contract, jpeg_quality, on_tick)
        records = DatasetBag(source, contract, strict=strict, recover=recover)
        ticks = Episode(records, contract, image_size_px=None, on_record=write)
        for _ in ticks:
            pass
        losses = ticks.losses
        refuse_losses(source.root, losses, strict=strict)
    return losses


class _RecordWriter:
    """Writes a data set's records into a bag as they pass."""

    def __init__(
        self, bag: BagWriter, contract: Contract, jpeg_quality: int | None, on_tick: Callable[[], None]
    ) -> None:
        self._bag, self._contract, self._on_tick = bag, contract, on_tick
        self._cameras = {camera.topic: camera for camera in contract.cameras}
        self._jpeg_quality = jpeg_quality

    def __call__(self, record: Record) -> None:
        contract, stamp_ns = self._contract, record.stamp_ns
        camera = self._cameras.get(record.topic)
        if camera is not None:
            quality = self._jpeg_quality or (JPEG_QUALITY if "Compressed" in camera.message_type else None)
            picture = record.message.data.reshape(camera.height_px, camera.width_px, 3)
            self._bag.image(camera.topic, stamp_ns, camera.name, picture, jpeg_quality=quality)
        elif record.topic == contract.joint_state_topic:
            self._bag.joints(record.topic, stamp_ns, contract.joint_names, record.message.positions_rad)
            self._on_tick()
        elif record.topic == contract.action_topic:
            values = getattr(record.message, "positions_rad", record.message)
            self._bag.command(record.topic, record.msgtype, stamp_ns, contract.joint_names, values)
        else:
            self._bag.text(record.topic, stamp_ns, record.message)


class Row(NamedTuple):
    """One tick of an episode as the contract's robot would have sent it; `action_rad` where commands are recorded."""

    stamp_ns: int
    pictures: Mapping[str, UInt8[ndarray, "h w 3"]]
    state_rad: Float64[ndarray, " dof"]
    action_rad: Float64[ndarray, " dof"] | None


def rows_of(source: LerobotEpisode, contract: Contract) -> Iterator[Row]:
    """The episode's ticks, pictures decoded one after the other.

    Raises:
        DatasetError: as `transcode`.
    """
    states = _in_contract_units(source, STATE_KEY, contract)
    actions = _in_contract_units(source, ACTION_KEY, contract) if contract.action_source == "command" else None
    pictures = {camera.name: _pictures(source, camera) for camera in contract.cameras}
    for tick, stamp_ns in enumerate(_stamps_ns(source)):
        yield Row(
            stamp_ns=stamp_ns,
            pictures={name: next(stream) for name, stream in pictures.items()},
            state_rad=states[tick],
            action_rad=None if actions is None else actions[tick],
        )


def _in_contract_units(source: LerobotEpisode, key: str, contract: Contract) -> Float64[ndarray, "ticks dof"]:
    """Radians in contract order, matched by name."""
    values = source.features[key][:, contract.joint_order(source.names[key])]
    if len(wild := np.argwhere(~np.isfinite(values))):
        row, joint = wild[0]
        raise DatasetError(
            f"{key} has values that are not finite",
            where=f"{source.root}, episode {source.index}",
            got=f"{values[row, joint]} of {contract.joint_names[joint]} in frame {row}, {len(wild)} values in all",
            remedy="leave the episode out (--skip-broken of preprocess), or repair it",
        )
    rad = contract.to_rad(values)
    if (wrong := unreal(contract, rad)) is not None:
        raise DatasetError(
            f"{key} has values that no joint of the contract can reach",
            where=f"{source.root}, episode {source.index}",
            got=wrong,
            remedy="leave the episode out (--skip-broken), repair it, or give the contract of its units",
        )
    return rad


def _stamps_ns(source: LerobotEpisode) -> list[int]:
    first_ns = START_NS + round(float(source.timestamps_s[0]) * NS_PER_S)
    if source.on_grid:
        return [first_ns + round(tick * NS_PER_S / source.fps) for tick in range(source.ticks)]
    return [START_NS + round(stamp_s * NS_PER_S) for stamp_s in source.timestamps_s.tolist()]


def _pictures(source: LerobotEpisode, camera: Camera) -> Iterator[UInt8[ndarray, "h w 3"]]:
    key = camera.dataset_key
    stream: Iterator[UInt8[ndarray, "h w 3"]]
    if (part := source.videos.get(key)) is not None:
        stream = video_pictures(part, source.film_times_s(part))
    else:
        stream = (decode_coded(coded, where=f"{source.root}, {key}") for coded in source.pictures[key])
    for picture in stream:
        if picture.shape != (camera.height_px, camera.width_px, 3):
            raise DatasetError(
                f"the pictures of {key} have another size than the contract's camera",
                where=source.root,
                expected=f"{camera.width_px}x{camera.height_px}",
                got=f"{picture.shape[1]}x{picture.shape[0]}",
            )
        yield picture


def _notes(source: LerobotEpisode, contract: Contract) -> dict[str, str]:
    return {
        "sigma.source": "transcoded",
        "sigma.dataset": source.name,
        "sigma.dataset_version": source.version,
        "sigma.episode": str(source.index),
        "sigma.contract": contract.name,
        "sigma.task": source.task,
    }


_IMAGE, _JOINTS, _TEXT = "sensor_msgs/msg/Image", "sensor_msgs/msg/JointState", "std_msgs/msg/String"


class DatasetBag(Bag):
    """An episode of a data set in a bag's place: the records of its transcoded bag, without a file.

    Pictures are decoded as they are asked for, so a pass over the records costs a pass over the videos. They are raw
    here whatever the contract's robot sends. `recover` ends with the last row before one that cannot be read.
    """

    def __init__(
        self, source: LerobotEpisode, contract: Contract, *, strict: bool = False, recover: bool = False
    ) -> None:
        self.path = source.root
        self._recover = recover
        self._source = source
        self._contract = contract
        self._types = {TASK_TOPIC: _TEXT, contract.joint_state_topic: _JOINTS}
        self._types |= {camera.topic: _IMAGE for camera in contract.cameras}
        if contract.action_source == "command":
            self._types[contract.action_topic] = contract.command_type
        self._foreign = {}
        self._losses = Losses(source.root, strict=strict)

    def __enter__(self) -> Self:
        return self

    def close(self) -> None:
        """Nothing is open."""

    @property
    def info(self) -> BagInfo:
        """What its transcoded bag would say; there are no files, and videos carry no checksums."""
        return BagInfo(
            path=self.path,
            storage="mcap",
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
        for number, row in enumerate(self._rows()):
            for topic, message in self._messages(number, row):
                if topic in wanted:
                    yield Record(topic, self._types[topic], row.stamp_ns, row.stamp_ns, message)

    def _rows(self) -> Iterator[Row]:
        given = 0
        try:
            for row in rows_of(self._source, self._contract):
                yield row
                given += 1
        except DatasetError as error:
            if not self._recover or not given:
                raise
            self._losses.once(f"rows not read: {error.what}", self._source.ticks - given)

    def _messages(self, number: int, row: Row) -> list[tuple[str, object]]:
        contract = self._contract
        tasks = self._source.tasks
        begins = not number or tasks[number] != tasks[number - 1]
        messages: list[tuple[str, object]] = [(TASK_TOPIC, tasks[number])] if begins else []
        for camera in contract.cameras:
            picture = row.pictures[camera.name]
            height, width = picture.shape[:2]
            shape = {"height": height, "width": width, "step": 3 * width}
            image = ImageMessage(encoding="rgb8", data=picture.reshape(-1), is_compressed=False, **shape)
            messages.append((camera.topic, image))
        messages.append((contract.joint_state_topic, JointMessage(contract.joint_names, row.state_rad)))
        if row.action_rad is not None:
            command = command_value(contract.command_type, contract.joint_names, row.action_rad)
            messages.append((contract.action_topic, command))
        return messages
