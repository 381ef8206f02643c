# SPDX-License-Identifier: Apache-2.0
"""Finds the storage files of a bag: with metadata.yaml or without, split, zstd-compressed, or a bare file."""

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import yaml
from backports import zstd

from sigma_ros.errors import BagError
from sigma_ros.evaluation.mcap_file import plain_texts
from sigma_ros.evaluation.storage import Losses

_SUFFIXES = (".mcap", ".db3")
_COMPRESSED = ".zstd"


@dataclass(frozen=True, slots=True, kw_only=True)
class BagFiles:
    """Storage files in recording order; `message_compression` tells that each message is a zstd frame."""

    root: Path
    files: tuple[Path, ...]
    message_compression: bool = False
    custom_data: dict[str, str] = field(default_factory=dict)


def find_files(path: Path, losses: Losses) -> BagFiles:
    """The storage files of a bag folder or of a bare file.

    Raises:
        BagError: there is nothing, nothing that is a bag, or metadata.yaml names what cannot be read.
    """
    if path.is_file():
        if _storage_suffix(path) not in _SUFFIXES:
            raise _not_a_bag(path, path.name)
        return BagFiles(root=path, files=(path,))
    if not path.is_dir():
        raise BagError("there is no such bag", where=path, expected="a rosbag2 folder, a .mcap or a .db3 file")
    metadata_file = path / "metadata.yaml"
    if metadata_file.is_file():
        metadata = _metadata(metadata_file, losses)
        if metadata is not None:
            return _from_metadata(path, metadata, losses)
    files = sorted((f for f in path.iterdir() if _storage_suffix(f) in _SUFFIXES and f.is_file()), key=_natural)
    if not files:
        raise _not_a_bag(path, ", ".join(sorted(f.name for f in path.iterdir())[:8]) or "an empty folder")
    if len({_storage_suffix(file) for file in files}) > 1:
        raise BagError(
            "the folder mixes storage formats and has no metadata.yaml",
            where=path,
            expected="one bag",
            got=", ".join(file.name for file in files[:8]),
            remedy="give one file, or: ros2 bag reindex",
        )
    return BagFiles(root=path, files=tuple(files))


def unpacked(file: Path, folder: Path) -> Path:
    """A storage file as it is, or decompressed into `folder` if it is zstd-compressed as a whole."""
    if file.suffix != _COMPRESSED:
        return file
    target = folder / file.stem
    try:
        with zstd.open(file, "rb") as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    except (OSError, EOFError, zstd.ZstdError) as error:
        raise BagError(
            "the compressed bag file cannot be unpacked",
            where=file,
            got=error,
            remedy=f"check the file and the free space in {folder.parent}",
        ) from error
    return target


def _metadata(file: Path, losses: Losses) -> dict[str, Any] | None:
    try:
        information = yaml.safe_load(file.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
        if isinstance(information, dict):
            return information
    except (OSError, ValueError, RecursionError, yaml.YAMLError, TypeError, KeyError):
        pass
    losses.once("metadata.yaml is damaged, files were looked for instead")
    return None


def _from_metadata(folder: Path, metadata: dict[str, Any], losses: Losses) -> BagFiles:
    storage = metadata.get("storage_identifier")
    names = metadata.get("relative_file_paths")
    if storage not in ("mcap", "sqlite3"):
        raise BagError(
            "the bag's storage is not known", where=folder, expected="mcap or sqlite3", got=str(storage)[:40]
        )
    if not isinstance(names, list) or not names:
        raise BagError("metadata.yaml names no files", where=folder, remedy="rebuild it with: ros2 bag reindex")
    compression = str(metadata.get("compression_format") or "").lower()
    mode = str(metadata.get("compression_mode") or "").lower()
    if mode not in ("", "none") and compression != _COMPRESSED[1:]:
        raise BagError("the bag's compression is not known", where=folder, expected="zstd", got=compression[:40])
    files = [folder / PurePath(str(name)).name for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if len(missing) == len(files):
        raise BagError("the files that metadata.yaml names are missing", where=folder, got=", ".join(missing[:8]))
    for name in missing:
        losses.once(f"{name} is missing")
    return BagFiles(
        root=folder,
        files=tuple(file for file in files if file.is_file()),
        message_compression=mode == "message",
        custom_data=plain_texts(metadata.get("custom_data")),
    )


def _storage_suffix(file: Path) -> str:
    return Path(file.stem).suffix if file.suffix == _COMPRESSED else file.suffix


def _natural(file: Path) -> list[object]:
    """`bag_10` after `bag_9`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]


def _not_a_bag(path: Path, got: str) -> BagError:
    return BagError("this is not a rosbag2 bag", where=path, expected="metadata.yaml, *.mcap or *.db3", got=got)
