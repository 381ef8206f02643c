# SPDX-License-Identifier: Apache-2.0
"""Which bags does a user mean: a bag, a folder of bags, or several of either."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from sigma_ros.errors import UsageError

_STORAGE = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")


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


def _bags_at(place: Path) -> Iterator[Path]:
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
