# SPDX-License-Identifier: Apache-2.0
"""What lies at a path: a bag, a LeRobot data set or a checkpoint, found without a contract.

With a contract the losses are those that every other verb counts; without one they are what could not be read at all.
"""

from collections.abc import Sequence
from pathlib import Path

from sigma_ros.addresses import address_of, files_at
from sigma_ros.bags.dataset_facts import size_px
from sigma_ros.bags.files import is_bag
from sigma_ros.bags.reader import Stamps
from sigma_ros.border import one_line, read_json
from sigma_ros.contract import Contract
from sigma_ros.errors import UsageError
from sigma_ros.inspection.bag import bag_contents
from sigma_ros.inspection.data_set import data_set_contents
from sigma_ros.inspection.facts import Contents, TopicFacts


def look_into(
    place: str,
    *,
    contract: Contract | None = None,
    recover: bool = False,
    revision: str | None = None,
    episodes: Sequence[int] = (),
    stamps: Stamps = "header",
) -> Contents:
    """What lies at a place: a bag, a data set's folder or Hub id, or a checkpoint's folder.

    Args:
        place: Path or Hub id.
        contract: Count what this robot could not use.
        recover: Read what is cut off as far as it goes.
        revision: Of a data set on the Hub.
        episodes: Of a data set; none given means some of all.
        stamps: Of a bag; see `open_bag`.

    Raises:
        SigmaError: it is none of these, or cannot be read.
    """
    path = Path(place)
    address = address_of(place)
    is_set = address is not None and any(file.name == "meta/info.json" for file in files_at(address))
    if (address and not is_set) or (path.exists() and is_bag(path)):
        return bag_contents(path, contract, recover=recover, stamps=stamps)
    if is_set or (path / "meta" / "info.json").exists() or (not path.exists() and place.count("/") == 1):
        return data_set_contents(place, contract, revision, episodes, recover=recover)
    if any((path / name).is_file() for name in ("config.json", "sigma_config.json")):
        return _checkpoint(path)
    raise UsageError(
        "there is nothing to look into",
        where=place,
        expected="a bag, a LeRobot data set (meta/info.json) or its Hub id, or a checkpoint (config.json)",
        got=", ".join(sorted(file.name for file in path.iterdir())[:8]) if path.is_dir() else _what_else(path),
    )


def _what_else(path: Path) -> str:
    return "a file of another kind" if path.exists() else "no such path"


def _checkpoint(path: Path) -> Contents:
    own = path / "sigma_config.json"
    document = read_json(own if own.is_file() else path / "config.json")
    config = document if isinstance(document, dict) else {}
    streams = []
    for place in ("input_features", "output_features"):
        features = config.get(place)
        for key, feature in features.items() if isinstance(features, dict) else ():
            shape = feature.get("shape") if isinstance(feature, dict) else None
            size = size_px({"shape": shape})
            streams.append(
                TopicFacts(
                    name=one_line(key, 80),
                    kind="image" if size else f"{place.removesuffix('_features')} {one_line(str(shape), 40)}",
                    messages=0,
                    size_px=size,
                )
            )
    kinds = {key: one_line(value, 60) for key, value in config.items() if isinstance(value, str | int | float)}
    weights = [file for file in path.iterdir() if file.suffix == ".safetensors" and file.is_file()]
    facts: dict[str, object] = {
        "file": own.name if own.is_file() else "config.json",
        **{key: kinds[key] for key in ("type", "base", "chunk_size", "n_action_steps") if key in kinds},
        "bytes of weights": sum(file.stat().st_size for file in weights),
    }
    return Contents(path=str(path), kind="checkpoint", facts=facts, streams=tuple(streams))
