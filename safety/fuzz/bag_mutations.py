# SPDX-License-Identifier: Apache-2.0
"""Ways of damaging a bag: bytes of its files, and messages that a faulty recorder or robot could have written.

A mutation says what must become of the replay. `NOTICED`: an error, a counted loss, or (bytes only) the same result as
before. `SAME`: the same result, nothing lost. `ANY`: the recording is simply another one, and only must not crash.
"""

import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
from bags import START_NS, TASK_TOPIC, picture, pose
from numpy.random import Generator

from sigma_ros.bags.writer import BagWriter
from sigma_ros.contract import Contract

S = 1_000_000_000
TICKS = 40


class Expected(Enum):
    """What must become of a replay of the damaged bag."""

    NOTICED = "an error, a loss, or nothing changed"
    LOST = "an error or a loss"
    SAME = "nothing changed"
    ANY = "no crash"


@dataclass(frozen=True, slots=True)
class Mutation:
    """`apply(bag, rng, contract)` damages the bag folder in place."""

    name: str
    expected: Expected
    apply: "Apply"


def storage_of(bag: Path) -> Path:
    """The bag's one storage file."""
    (file,) = [file for file in bag.iterdir() if file.suffix in (".mcap", ".db3")]
    return file


def boundaries(data: bytes) -> list[int]:
    """Offsets at which an MCAP record ends, or an SQLite page."""
    if not data.startswith(b"\x89MCAP"):
        return list(range(4096, len(data), 4096))
    places, at = [], 8
    while at + 9 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at + 1)
        at += 9 + length
        if at <= len(data):
            places.append(at)
    return places


Apply = Callable[[Path, Generator, Contract], None]
Change = Callable[[bytearray, Generator], bytes | bytearray | None]
"""What becomes of a file's bytes; None: it goes."""


def _in_file(change: Change, place: Callable[[Path], Path] = storage_of) -> Apply:
    def apply(bag: Path, rng: Generator, _contract: Contract) -> None:
        file = place(bag)
        data = change(bytearray(file.read_bytes()), rng)
        file.unlink()
        if data is not None:
            file.write_bytes(data)

    return apply


def _in_metadata(change: Change) -> Apply:
    return _in_file(change, lambda bag: bag / "metadata.yaml")


def _cut_at_record(data: bytearray, rng: Generator) -> bytearray:
    return data[: int(rng.choice(boundaries(bytes(data))))]


def _cut_anywhere(data: bytearray, rng: Generator) -> bytearray:
    return data[: int(rng.integers(0, len(data)))]


def _flip(data: bytearray, rng: Generator, *, count: int) -> bytearray:
    for place in rng.integers(0, len(data), count):
        data[place] ^= 1 << int(rng.integers(8))
    return data


def _flip_near_record(data: bytearray, rng: Generator) -> bytearray:
    """Headers, lengths and indexes are a small part of the bytes, and where parsers break."""
    place = int(rng.choice(boundaries(bytes(data)))) + int(rng.integers(-24, 40))
    data[place % len(data)] ^= 1 << int(rng.integers(8))
    return data


def _blank(data: bytearray, rng: Generator) -> bytearray:
    at, count = _span(data, rng)
    data[at : at + count] = bytes(count)
    return data


def _noise(data: bytearray, rng: Generator) -> bytearray:
    at, count = _span(data, rng)
    data[at : at + count] = rng.bytes(count)
    return data


def _remove(data: bytearray, rng: Generator) -> bytearray:
    at, count = _span(data, rng)
    return data[:at] + data[at + count :]


def _repeat(data: bytearray, rng: Generator) -> bytearray:
    at, count = _span(data, rng)
    return data[: at + count] + data[at:]


def _large_length(data: bytearray, rng: Generator) -> bytearray:
    """A record that claims to be huge."""
    at = int(rng.choice(boundaries(bytes(data)))) + 1
    data[at : at + 8] = struct.pack("<Q", (2**62, 2**33, 2**64 - 1, 0)[int(rng.integers(4))])
    return data


def _span(data: bytearray, rng: Generator) -> tuple[int, int]:
    return int(rng.integers(0, len(data))), int(rng.integers(1, 3000))


class Faults:
    """What the recorder of `write` gets wrong; one attribute per fault, tick ranges where that makes sense."""

    def __init__(self, **faults: object) -> None:
        self._faults = faults

    def at(self, name: str, tick: int) -> bool:
        """Whether a fault is active at a tick."""
        return tick in self._faults.get(name, ())  # type: ignore[operator]

    def has(self, name: str) -> bool:
        """Whether a fault is there at all."""
        return bool(self._faults.get(name))


def write(path: Path, contract: Contract, faults: Faults, rng: Generator, *, storage: str = "mcap") -> Path:
    """A recording of `TICKS` ticks with faults."""
    with BagWriter(path, storage="mcap" if storage == "mcap" else "sqlite3", overwrite=True) as bag:
        if not faults.has("no_task"):
            bag.text(TASK_TOPIC, START_NS, "pick the brick")
        for tick in () if faults.has("nothing") else range(TICKS):
            _write_tick(bag, contract, faults, rng, tick)
        if faults.has("extra_topics"):
            for tick in range(TICKS):
                bag.raw(f"/unknown/topic_{tick % 3}", "std_msgs/msg/Empty", START_NS + tick, b"\0\1\0\0\0")
    return path


def _write_tick(bag: BagWriter, contract: Contract, faults: Faults, rng: Generator, tick: int) -> None:
    late_ns = 10 * S if faults.has("gap") and tick >= 20 else 0
    logged_ns = START_NS + contract.tick_offset_ns(tick) + late_ns
    stamp_ns = logged_ns
    if faults.at("zero_stamp", tick):
        stamp_ns = 0
    elif faults.at("stamp_back", tick):
        stamp_ns -= int(rng.integers(2, 8)) * S
    elif faults.at("stamp_ahead", tick):
        stamp_ns += int(rng.integers(50, 5000)) * S
    _write_images(bag, contract, faults, tick, (stamp_ns, logged_ns))
    if not faults.has("no_joints"):
        names = (
            tuple(f"axis_{n}" for n in range(contract.dof)) if faults.has("renamed_joints") else contract.joint_names
        )
        q = pose(tick, contract.dof)
        if faults.at("nan_joints", tick):
            q = q * np.nan
        if faults.at("few_joints", tick):
            names, q = names[:-1], q[:-1]
        for _ in range(1 + 200 * faults.at("burst", tick)):
            bag.joints(contract.joint_state_topic, stamp_ns, names, q, log_time_ns=logged_ns)
    if not faults.has("no_commands"):
        values = pose(tick, contract.dof) + 0.01
        bag.array(contract.command_topic, logged_ns, values[:-1] if faults.at("few_commands", tick) else values)


def _write_images(bag: BagWriter, contract: Contract, faults: Faults, tick: int, times_ns: tuple[int, int]) -> None:
    stamp_ns, logged_ns = times_ns
    for index, camera in enumerate(contract.cameras):
        if index == 0 and (faults.at("dark", tick) or faults.has("no_camera")):
            continue
        if index == 0 and faults.has("image_as_text"):
            bag.text(camera.topic, logged_ns, "no picture")
        elif index == 0 and faults.at("cut_image", tick):
            bag.raw(camera.topic, "sensor_msgs/msg/Image", logged_ns, b"\0\1\0\0" + bytes(30))
        else:
            small, twice = index == 0 and faults.at("small_image", tick), faults.at("twice", tick)
            rgb = picture(2 * tick + index)[: -2 if small else None]
            for _ in range(1 + (twice and not small)):
                bag.image(camera.topic, stamp_ns, "camera", rgb, log_time_ns=logged_ns)


def _recorded(**faults: object) -> Apply:
    """The recording anew, with these faults from a random tick on."""

    def apply(bag: Path, rng: Generator, contract: Contract) -> None:
        begin = int(rng.integers(2, 20))
        ticks = range(begin, begin + int(rng.integers(1, 6)))
        storage = "mcap" if storage_of(bag).suffix == ".mcap" else "sqlite3"
        shutil.rmtree(bag)
        chosen = {name: ticks if value is Ellipsis else value for name, value in faults.items()}
        write(bag, contract, Faults(**chosen), rng, storage=storage)

    return apply


def mutations() -> Iterator[Mutation]:
    """All of them; those of bytes first."""
    noticed, lost, same, anything = Expected.NOTICED, Expected.LOST, Expected.SAME, Expected.ANY
    for name, change in {
        "cut at a record": _cut_at_record,
        "cut anywhere": _cut_anywhere,
        "one bit": lambda data, rng: _flip(data, rng, count=1),
        "forty bits": lambda data, rng: _flip(data, rng, count=40),
        "a bit near a record's head": _flip_near_record,
        "zeros": _blank,
        "noise": _noise,
        "bytes removed": _remove,
        "bytes repeated": _repeat,
        "a huge length": _large_length,
    }.items():
        yield Mutation(name, noticed, _in_file(change))
    yield Mutation("no metadata.yaml", same, _in_metadata(lambda _data, _rng: None))
    yield Mutation("damaged metadata.yaml", noticed, _in_metadata(lambda data, rng: _flip(data, rng, count=8)))
    yield Mutation("cut metadata.yaml", noticed, _in_metadata(_cut_anywhere))
    yield Mutation("no storage file", lost, _in_file(lambda _data, _rng: None))
    yield Mutation("empty storage file", lost, _in_file(lambda _data, _rng: b""))
    yield Mutation("foreign storage file", lost, _in_file(lambda _data, rng: rng.bytes(20_000)))
    for name, expected, faults in (
        ("zero messages", lost, {"nothing": True}),
        ("a camera is missing", lost, {"no_camera": True}),
        ("joints are missing", lost, {"no_joints": True}),
        ("commands are missing", lost, {"no_commands": True}),
        ("no task", anything, {"no_task": True}),
        ("topics nobody knows", same, {"extra_topics": True}),
        ("a camera of type String", lost, {"image_as_text": True}),
        ("joints by other names", lost, {"renamed_joints": True}),
        ("joints not finite", lost, {"nan_joints": ...}),
        ("joints missing in messages", lost, {"few_joints": ...}),
        ("commands of wrong length", lost, {"few_commands": ...}),
        ("images of wrong size", lost, {"small_image": ...}),
        ("images cut off", lost, {"cut_image": ...}),
        ("messages twice", lost, {"twice": ...}),
        ("stamps of zero", lost, {"zero_stamp": ...}),
        ("stamps that go back", anything, {"stamp_back": ...}),
        ("stamps far ahead", anything, {"stamp_ahead": ...}),
        ("a gap of ten seconds", lost, {"gap": True}),
        ("a dark camera", anything, {"dark": ...}),
        ("a burst", lost, {"burst": ...}),
    ):
        yield Mutation(name, expected, _recorded(**faults))
