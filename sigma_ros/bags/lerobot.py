# SPDX-License-Identifier: Apache-2.0
"""One episode of a LeRobot data set (v2.x or v3.0) from its files: numbers whole, pictures one at a time.

The files are read as they are, not through `LeRobotDataset`: that class reads one version only, and looks pictures up
by time, which a data set with measured timestamps (the CR5's) does not survive.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64, UInt8
from numpy import ndarray

from sigma_ros.contract import joint_name
from sigma_ros.errors import DatasetError

STATE_KEY = "observation.state"
ACTION_KEY = "action"


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPart:
    """Where an episode's pictures are: `frames` pictures of a video from `start_s` on."""

    file: Path
    start_s: float
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LerobotEpisode:
    """An episode's rows, in the data set's own units. `timestamps_s` count from the episode's beginning.

    `videos` maps feature keys to video parts, `pictures` to coded images for data sets that keep them in rows.
    """

    root: Path
    name: str
    version: str
    index: int
    fps: float
    task: str
    timestamps_s: Float64[ndarray, " ticks"]
    features: Mapping[str, Float64[ndarray, "ticks width"]]
    names: Mapping[str, tuple[str, ...]]
    videos: Mapping[str, VideoPart]
    pictures: Mapping[str, tuple[bytes, ...]]

    @property
    def ticks(self) -> int:
        """Number of rows."""
        return len(self.timestamps_s)


Fetch = Callable[[list[str]], Path]
"""Makes files (paths below the data set's root, `*` allowed) present and returns the root."""


def read_episode(fetch: Fetch, index: int, *, wanted: tuple[str, ...]) -> LerobotEpisode:
    """Reads the rows of an episode and finds its pictures of the `wanted` features.

    Raises:
        DatasetError: the data set is of another version, or the episode or a file of it is missing or damaged.
    """
    root = fetch(["meta/info.json"])
    info = _info(root / "meta" / "info.json")
    version = str(info.get("codebase_version", ""))
    try:
        if version.startswith("v2."):
            return _read_v2(fetch, info, index, wanted)
        if version == "v3.0":
            return _read_v3(fetch, info, index, wanted)
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise DatasetError(
            f"episode {index} cannot be read", where=root, got=f"{type(error).__name__}: {error}"
        ) from error
    raise DatasetError("the data set's version is not known", where=root, expected="v2.0, v2.1 or v3.0", got=version)


def count_episodes(fetch: Fetch) -> int:
    """Number of episodes a data set says it has."""
    return int(read_info(fetch).get("total_episodes", 0))


def read_info(fetch: Fetch) -> dict[str, Any]:
    """A data set's `meta/info.json`.

    Raises:
        DatasetError: it is missing, or lists no features.
    """
    return _info(fetch(["meta/info.json"]) / "meta" / "info.json")


def _info(file: Path) -> dict[str, Any]:
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(
            "this is not a LeRobot data set", where=file.parent.parent, expected="meta/info.json", got=error
        ) from error
    if not isinstance(info, dict) or not isinstance(info.get("features"), dict):
        raise DatasetError("meta/info.json lists no features", where=file)
    return info


def _read_v2(fetch: Fetch, info: dict[str, Any], index: int, wanted: tuple[str, ...]) -> LerobotEpisode:
    place = {"episode_chunk": index // int(info["chunks_size"]), "episode_index": index}
    _refuse_unknown(info, index)
    data = str(info["data_path"]).format(**place)
    keys = [key for key in wanted if info["features"].get(key, {}).get("dtype") == "video"]
    films = {key: str(info["video_path"]).format(**place, video_key=key) for key in keys}
    root = fetch(["meta/tasks.jsonl", data, *films.values()])
    table = pq.read_table(root / data)
    tasks = {row["task_index"]: row["task"] for row in _json_lines(root / "meta" / "tasks.jsonl")}
    videos = {key: VideoPart(file=root / film, start_s=0.0, frames=table.num_rows) for key, film in films.items()}
    return _episode(root, info, table, wanted, index=index, tasks=tasks, videos=videos)


def _read_v3(fetch: Fetch, info: dict[str, Any], index: int, wanted: tuple[str, ...]) -> LerobotEpisode:
    _refuse_unknown(info, index)
    root = fetch(["meta/tasks.parquet", "meta/episodes/*"])
    row = _v3_row(root, index)
    data = str(info["data_path"]).format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
    keys = [key for key in wanted if info["features"].get(key, {}).get("dtype") == "video"]
    films = {
        key: str(info["video_path"]).format(
            video_key=key, chunk_index=row[f"videos/{key}/chunk_index"], file_index=row[f"videos/{key}/file_index"]
        )
        for key in keys
    }
    root = fetch([data, *films.values()])
    table = pq.read_table(root / data, filters=[("episode_index", "=", index)])
    task_table = pq.read_table(root / "meta" / "tasks.parquet").to_pandas()
    tasks = {int(task_index): str(text) for text, task_index in task_table["task_index"].items()}
    videos = {
        key: VideoPart(file=root / film, start_s=float(row[f"videos/{key}/from_timestamp"]), frames=table.num_rows)
        for key, film in films.items()
    }
    return _episode(root, info, table, wanted, index=index, tasks=tasks, videos=videos)


def _v3_row(root: Path, index: int) -> dict[str, Any]:
    for file in sorted((root / "meta" / "episodes").rglob("*.parquet")):
        names = [name for name in pq.read_schema(file).names if not name.startswith("stats/")]
        rows = pq.read_table(file, columns=names, filters=[("episode_index", "=", index)]).to_pylist()
        if rows:
            return rows[0]
    raise DatasetError(f"episode {index} is not listed", where=root / "meta" / "episodes")


def _episode(
    root: Path,
    info: dict[str, Any],
    table: pa.Table,
    wanted: tuple[str, ...],
    *,
    index: int,
    tasks: Mapping[int, str],
    videos: Mapping[str, VideoPart],
) -> LerobotEpisode:
    if table.num_rows == 0:
        raise DatasetError(f"episode {index} has no rows", where=root)
    features = info["features"]
    kinds = {key: features.get(key, {}).get("dtype") for key in wanted if key in table.column_names}
    numbers = {key: _matrix(table, key) for key, kind in kinds.items() if kind != "image"}
    pictures = {
        key: tuple(picture["bytes"] for picture in table[key].to_pylist())
        for key, kind in kinds.items()
        if kind == "image"
    }
    return LerobotEpisode(
        root=root,
        name="/".join(root.absolute().parts[-2:]),
        version=str(info["codebase_version"]),
        index=index,
        fps=float(info["fps"]),
        task=tasks[int(table["task_index"][0].as_py())],
        timestamps_s=table["timestamp"].to_numpy().astype(np.float64).reshape(-1),
        features=numbers,
        names={key: _names(features.get(key, {})) for key in numbers},
        videos=videos,
        pictures=pictures,
    )


def _matrix(table: pa.Table, key: str) -> Float64[ndarray, "ticks width"]:
    return np.array(table[key].to_pylist(), dtype=np.float64).reshape(table.num_rows, -1)


def _names(feature: dict[str, Any]) -> tuple[str, ...]:
    """Names of a feature's entries, without LeRobot's ornaments."""
    names = feature.get("names")
    if isinstance(names, dict):
        names = next(iter(names.values()), None)
    if not isinstance(names, list):
        return ()
    return tuple(joint_name(str(name)) for name in names)


def _refuse_unknown(info: dict[str, Any], index: int) -> None:
    total = int(info["total_episodes"])
    if not 0 <= index < total:
        raise DatasetError("there is no such episode", expected=f"0 .. {total - 1}", got=index)


def _json_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def video_pictures(part: VideoPart, fps: float) -> Iterator[UInt8[ndarray, "h w 3"]]:
    """RGB pictures of an episode, decoded one after the other.

    Raises:
        DatasetError: the video cannot be read or ends early.
    """
    import av  # noqa: PLC0415 - a heavy library, needed for videos only

    given = 0
    try:
        with av.open(str(part.file)) as container:
            stream = container.streams.video[0]
            if part.start_s > 0.0 and stream.time_base is not None:
                container.seek(int(part.start_s / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time is not None and frame.time < part.start_s - 0.5 / fps:
                    continue
                yield frame.to_ndarray(format="rgb24")
                given += 1
                if given == part.frames:
                    return
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DatasetError("the video cannot be read", where=part.file, got=error) from error
    raise DatasetError("the video has fewer pictures than rows", where=part.file, expected=part.frames, got=given)
