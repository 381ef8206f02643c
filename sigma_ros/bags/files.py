# SPDX-License-Identifier: Apache-2.0
"""Which bags does a user mean, which storage files is a bag made of, and in which order are its messages read."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from backports import zstd

from sigma_ros.addresses import address_of, files_at, folders_below
from sigma_ros.bags.losses import Losses
from sigma_ros.border import MAX_OUTPUT_BYTES, one_line, open_regular, plain_texts, read_yaml
from sigma_ros.errors import BagError, SigmaError, UsageError

_SUFFIXES = (".mcap", ".db3")
_COMPRESSED = ".zstd"
_STORAGE = (*_SUFFIXES, *(suffix + _COMPRESSED for suffix in _SUFFIXES))
_SIDECARS = ("-wal", "-shm", "-journal")
_BLOCK_BYTES = 1 << 20
_MOST_EXPANSION = 100

DISORDER_NS = 20_000_000
"""Log times of one topic that go back by less are a recorder's threads, not a clock that was set."""

_PAUSE_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BagFiles:
    """Storage files in recording order, and the recorder's notes in metadata.yaml."""

    files: tuple[Path, ...]
    custom_data: dict[str, str] = field(default_factory=dict)


def find_bags(places: Iterable[Path]) -> tuple[Path, ...]:
    """The bags at the given places, folders of bags in the order of their names.

    Raises:
        UsageError: a place does not exist or holds no bag, or a bag is named twice.
    """
    bags = [bag for place in places for bag in _bags_at(place)]
    resolved = [bag.resolve() for bag in bags]
    repeated = sorted({str(bag) for bag in bags if resolved.count(bag.resolve()) > 1})
    if repeated:
        raise UsageError("a bag is given twice", where=", ".join(repeated), remedy="name each bag once")
    return tuple(bags)


def is_bag(place: Path) -> bool:
    """Whether this is a storage file, or a folder with metadata.yaml or storage files in it."""
    if place.is_file():
        return place.name.endswith(_STORAGE)
    return place.is_dir() and any(f.name == "metadata.yaml" or f.name.endswith(_STORAGE) for f in place.iterdir())


def stamped_files(bag: Path) -> list[Path]:
    """A bag's own files, without those that a database has while it is open."""
    if bag.is_dir():
        return sorted(f for f in bag.iterdir() if f.is_file() and not f.name.endswith(_SIDECARS))
    return [bag] if bag.is_file() else []


def file_stamp(file: Path) -> tuple[str, int, int]:
    """A file's name, size and time, which stand for its content where reading it would cost too much."""
    status = file.stat()
    return file.name, status.st_size, status.st_mtime_ns


def files_stamp(bag: Path) -> str:
    """Changes with a bag's place and files."""
    if (address := address_of(bag)) is not None:
        return f"{address} {files_at(address)}"
    return f"{bag.resolve()} {[file_stamp(file) for file in stamped_files(bag)]}"


def files_size_bytes(bag: Path) -> int:
    """How large a bag is."""
    if (address := address_of(bag)) is not None:
        return sum(file.size_bytes for file in files_at(address))
    return sum(file.stat().st_size for file in stamped_files(bag))


def find_files(path: Path, losses: Losses) -> BagFiles:
    """The storage files of a bag folder or of a bare file.

    Raises:
        BagError: there is nothing, nothing that is a bag, or metadata.yaml names what cannot be read.
    """
    if path.is_file():
        if not path.name.endswith(_STORAGE):
            raise _not_a_bag(path, path.name)
        return BagFiles(files=(path,))
    if not path.is_dir():
        raise BagError("there is no such bag", where=path, expected="a rosbag2 folder, a .mcap or a .db3 file")
    metadata_file = path / "metadata.yaml"
    if os.path.lexists(metadata_file):
        metadata = _metadata(metadata_file, losses)
        if metadata is not None:
            return _from_metadata(path, metadata, losses)
    files = _looked_for(path)
    for file in sorted(path.iterdir()):
        if file.name.endswith(_STORAGE) and not file.is_file():
            losses.once(f"{file.name} is no file, or a link to one that is not there")
    if not files:
        found = [*losses.snapshot()] or sorted(f.name for f in path.iterdir())
        raise _not_a_bag(path, ", ".join(found[:8]) or "an empty folder")
    return BagFiles(files=files)


def _looked_for(path: Path) -> tuple[Path, ...]:
    """The storage files that lie in a folder, in the order of their numbers."""
    files = sorted((f for f in path.iterdir() if f.name.endswith(_STORAGE) and f.is_file()), key=_natural)
    if len({file.name.removesuffix(_COMPRESSED).rpartition(".")[2] for file in files}) > 1:
        raise BagError(
            "the folder mixes storage formats, and no metadata.yaml says which is the bag",
            where=path,
            expected="one bag",
            got=", ".join(file.name for file in files[:8]),
            remedy="give one file, or: ros2 bag reindex",
        )
    return tuple(files)


def unpacked(file: Path, folder: Path, losses: Losses, *, recover: bool) -> Path:
    """A storage file as it is, or decompressed into `folder` if it is zstd-compressed as a whole.

    Of a damaged one `recover` leaves what comes before the damage.
    """
    if file.suffix != _COMPRESSED:
        return file
    target = folder / file.stem
    most = max(_MOST_EXPANSION * file.stat().st_size, MAX_OUTPUT_BYTES)
    try:
        with open_regular(file) as stored, zstd.open(stored, "rb") as source, target.open("wb") as sink:
            while block := source.read1(_BLOCK_BYTES):
                sink.write(block)
                if sink.tell() > most:
                    raise OSError(f"it expands to more than {most >> 20} MiB")
    except (OSError, EOFError, zstd.ZstdError) as error:
        if recover and not isinstance(error, OSError) and target.is_file() and target.stat().st_size:
            losses.once(f"{file.name}: {one_line(error)}")
            return target
        raise BagError(
            "the compressed bag file cannot be unpacked",
            where=file,
            got=one_line(error),
            remedy=f"check the file and the free space in {folder.parent}",
        ) from error
    return target


def _bags_at(place: Path) -> Iterator[Path]:
    if (address := address_of(place)) is not None:
        folders = {
            name: files for name, files in folders_below(address) if any(f.name.endswith(_STORAGE) for f in files)
        }
        if not folders:
            raise UsageError("the address holds no bag", where=address, expected="metadata.yaml, .mcap or .db3 files")
        yield from [place] if "" in folders else [place / name for name in folders]
        return
    if not place.exists():
        raise UsageError("there is no such bag", where=place, expected="a bag or a folder of bags")
    if is_bag(place) or not place.is_dir():
        yield place
        return
    inside = sorted(child for child in place.iterdir() if child.is_dir() and is_bag(child))
    if not inside:
        raise UsageError(
            "the folder holds no bag",
            where=place,
            expected="metadata.yaml, .mcap or .db3 files, or folders with them",
            got=", ".join(sorted(child.name for child in place.iterdir())[:8]) or "an empty folder",
        )
    yield from inside


def _metadata(file: Path, losses: Losses) -> dict[str, Any] | None:
    try:
        document = read_yaml(file)
    except SigmaError:
        document = None
    information = document.get("rosbag2_bagfile_information") if isinstance(document, dict) else None
    if isinstance(information, dict):
        return information
    losses.once("metadata.yaml is damaged, files were looked for instead")
    return None


def _from_metadata(folder: Path, metadata: dict[str, Any], losses: Losses) -> BagFiles:
    """The files that metadata.yaml names; what lies in the folder instead, where some of them do not."""
    storage = metadata.get("storage_identifier")
    names = metadata.get("relative_file_paths")
    custom_data = plain_texts(metadata.get("custom_data"))
    if storage not in ("mcap", "sqlite3", ""):  # some recorders leave it empty; the files' names tell
        raise BagError(
            "the bag's storage is not known", where=folder, expected="mcap or sqlite3", got=one_line(storage, 40)
        )
    if not isinstance(names, list) or not names:
        raise BagError("metadata.yaml names no files", where=folder, remedy="rebuild it with: ros2 bag reindex")
    compression = one_line(metadata.get("compression_format") or "", 40).lower()
    mode = one_line(metadata.get("compression_mode") or "", 40).lower()
    if mode not in ("", "none") and compression != _COMPRESSED[1:]:
        raise BagError("the bag's compression is not known", where=folder, expected="zstd", got=compression)
    files = [folder / PurePath(one_line(name)).name for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing and (found := _looked_for(folder)) and not set(found) <= set(files):
        losses.once("metadata.yaml names other files than the folder holds, files were looked for instead")
        return BagFiles(files=found, custom_data=custom_data)
    if len(missing) == len(files):
        raise BagError("the files that metadata.yaml names are missing", where=folder, got=", ".join(missing[:8]))
    for name in missing:
        losses.once(f"{name} is missing")
    return BagFiles(files=tuple(file for file in files if file.is_file()), custom_data=custom_data)


def _natural(file: Path) -> list[object]:
    """`bag_10` after `bag_9`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]


def _not_a_bag(path: Path, got: str) -> BagError:
    ros1 = path.suffix == ".bag" or ".bag" in got
    return BagError(
        "this is not a rosbag2 bag",
        where=path,
        expected="metadata.yaml, *.mcap or *.db3",
        got=got,
        remedy="a ROS 1 bag is converted with: rosbags-convert --src FILE.bag --dst FOLDER" if ros1 else None,
    )


# What storage files have in common, whatever their format.


class Stored(NamedTuple):
    """One stored message: log time, topic, serialised bytes."""

    log_time_ns: int
    topic: str
    data: memoryview


class Stretch(NamedTuple):
    """Log times [ns] of neighbouring messages of a topic, first and last."""

    start_ns: int
    end_ns: int


def stretches_of(times_ns: Iterable[int]) -> list[Stretch]:
    """Log times in file order as stretches; a new one begins where they go back, and after a pause."""
    found: list[Stretch] = []
    for time_ns in times_ns:
        last = found[-1] if found else None
        if last is not None and -DISORDER_NS <= time_ns - last.end_ns <= _PAUSE_NS:
            found[-1] = Stretch(min(last.start_ns, time_ns), max(last.end_ns, time_ns))
        else:
            found.append(Stretch(time_ns, time_ns))
    return found


def clock_was_set(stretches: Iterable[Stretch]) -> bool:
    """Whether stretches of a topic overlap: sorted by time, two moments would be mixed.

    Stretches that only come in another order (chunks written late, files merged) do not overlap: sorting mends them.
    """
    latest_ns: int | None = None
    for stretch in sorted(stretches):
        if latest_ns is not None and stretch.start_ns < latest_ns - DISORDER_NS:
            return True
        latest_ns = stretch.end_ns if latest_ns is None else max(latest_ns, stretch.end_ns)
    return False
