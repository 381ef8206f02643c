# SPDX-License-Identifier: Apache-2.0
"""Recordings and data sets at addresses that `fsspec` knows (s3://, gs://, http://, memory://): read through copies.

A bag is copied whole into a temporary folder for as long as it is open; of a data set only the files that are asked
for, until the process ends. Nothing is copied that is larger than what is free on the disk. The way out is the Hub's.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

from sigma_ros.border import contained, one_line
from sigma_ros.errors import MachineError, SigmaError, UsageError

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(.+)")
_BLOCK_BYTES = 1 << 20
_MOST_FILES = 100_000
_LEFT_FREE_BYTES = 1 << 30


class RemoteFile(NamedTuple):
    """A file below an address: its path from there, size in bytes, and what changes with its content."""

    name: str
    size_bytes: int
    stamp: str


def address_of(place: str | Path) -> str | None:
    """The address that a path stands for, also without the slash that `Path` drops; None for a path here."""
    found = _ADDRESS.fullmatch(str(place))
    if found is None or Path(place).exists():
        return None
    return f"{found[1]}://{'/' if found[1] == 'file' else ''}{found[2]}"


def files_at(address: str) -> list[RemoteFile]:
    """The files below an address, by name; one file at the address itself has its own name.

    Raises:
        UsageError: there are none, or the address cannot be read.
    """
    with _reading(address) as (system, root):
        found = system.find(root, detail=True) or {root: system.info(root)}
        if len(found) > _MOST_FILES:
            raise UsageError("the address holds too many files", where=address, expected=f"at most {_MOST_FILES}")
        kept = [(name, info) for name, info in sorted(found.items()) if info.get("type") != "directory"]
        files = [
            _file(name, info if info.get("size") is not None else info | system.info(name), root) for name, info in kept
        ]
    if not files:
        raise UsageError("there is nothing at this address", where=address)
    return files


def copied(address: str, files: list[RemoteFile], folder: Path) -> None:
    """Copies files below an address into a folder.

    Raises:
        UsageError: one cannot be read, or is larger than it was said to be.
        MachineError: the disk has no room for them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = sum(file.size_bytes for file in files), shutil.disk_usage(folder).free
    if needed > free - _LEFT_FREE_BYTES:
        raise MachineError(
            "there is no room for a copy of the recording",
            where=folder,
            expected=f"{needed >> 20} MiB, and {_LEFT_FREE_BYTES >> 20} MiB left",
            got=f"{free >> 20} MiB free",
            remedy="set TMPDIR to a larger disk",
        )
    with _reading(address) as (system, root):
        for file in files:
            place = root if PurePosixPath(root).name == file.name and len(files) == 1 else f"{root}/{file.name}"
            target = contained(folder, file.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            left = file.size_bytes
            with system.open(place, "rb") as source, target.open("wb") as sink:
                while block := source.read(_BLOCK_BYTES):
                    left -= len(block)
                    if left < 0:
                        raise UsageError("a file is larger than was said", where=f"{address}/{file.name}")
                    sink.write(block)


def fetcher_of(address: str) -> Callable[[list[str]], Path]:
    """Makes files of a data set present by pattern, as `bags.lerobot.Fetch`; the listing is made once."""
    files = files_at(address)
    folder = Path(_kept(address).name)

    def fetch(patterns: list[str]) -> Path:
        wanted = [f for f in files if any(fnmatch(f.name, pattern) for pattern in patterns)]
        copied(address, [f for f in wanted if not contained(folder, f.name).is_file()], folder)
        return folder

    return fetch


@cache
def _kept(_address: str) -> "TemporaryDirectory[str]":
    return TemporaryDirectory(prefix="sigma_set_")


def _file(name: str, info: dict[str, Any], root: str) -> RemoteFile:
    inside = name.removeprefix(root).lstrip("/") or PurePosixPath(name).name
    stamp = next((info[key] for key in ("ETag", "etag", "mtime", "LastModified", "created") if info.get(key)), "")
    return RemoteFile(inside, int(info.get("size") or 0), one_line(str(stamp), 80))


@contextmanager
def _reading(address: str) -> Iterator[tuple[Any, str]]:
    """The file system of an address and the path in it; what goes wrong inside is one sentence."""
    try:
        import fsspec  # noqa: PLC0415 - only for addresses

        system, root = fsspec.core.url_to_fs(address)
        yield system, str(root).rstrip("/")
    except SigmaError:
        raise
    except Exception as error:  # each file system has errors of its own
        raise UsageError(
            "the address cannot be read",
            where=address,
            got=one_line(error) or type(error).__name__,
            remedy="check the address, the rights, and that fsspec's package for it is installed (s3fs for s3://)",
        ) from error


def folders_below(address: str) -> Iterator[tuple[str, list[RemoteFile]]]:
    """The folders directly below an address, each with its own files; the address itself comes as an empty name."""
    by_folder: dict[str, list[RemoteFile]] = {}
    for file in files_at(address):
        parent = str(PurePosixPath(file.name).parent)
        by_folder.setdefault("" if parent == "." else parent, []).append(file)
    yield from sorted(by_folder.items())


def push_folder(
    folder: Path, repo: str, *, kind: Literal["model", "dataset"], private: bool = False, tag: str | None = None
) -> str:
    """Uploads a folder to the Hub, where the repository is made if need be; returns the commit.

    Raises:
        MachineError: the Hub does not take it; the folder stays as it is.
    """
    import httpx  # noqa: PLC0415 - a second, only for this, as the next ones
    from huggingface_hub import HfApi  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415

    try:
        api = HfApi()
        api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        ignored = [".*", "images/"]
        done = api.upload_folder(repo_id=repo, folder_path=folder, repo_type=kind, ignore_patterns=ignored)
        if tag is not None:
            api.create_tag(repo, tag=tag, revision=done.oid, repo_type=kind, exist_ok=True)
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError, ValueError) as error:
        raise MachineError(
            f"the {kind} cannot be pushed to the Hub",
            where=repo,
            got=f"{type(error).__name__}: {error}".splitlines()[0],
            remedy=f"log in (`hf auth login`), check name, rights and network; {folder} is whole",
        ) from error
    return str(done.oid)
