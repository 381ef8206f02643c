# SPDX-License-Identifier: Apache-2.0
"""One episode of a LeRobot data set (v2.x or v3.0) from its files: numbers whole, pictures one at a time.

The files are read as they are, not through `LeRobotDataset`: that class reads one version only. Pictures are looked up
by time as there; a data set with measured timestamps (the CR5's) must have as many pictures as rows instead.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64, UInt8
from numpy import ndarray

from sigma_ros.border import (
    MAX_JSON_BYTES,
    contained,
    filled,
    load_json,
    one_line,
    open_regular,
    read_json,
    read_text,
)
from sigma_ros.contract import joint_name
from sigma_ros.errors import DatasetError, SigmaError

STATE_KEY = "observation.state"
ACTION_KEY = "action"
TOLERANCE_S = 1e-4
"""How far a picture's time may be from its row's, as in LeRobot."""

MAX_EPISODES = 1_000_000
MOST_FPS = 10_000
MAX_ROWS = 5_000_000
MAX_PICTURE_BYTES = 256 << 20
MAX_PARQUET_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPart:
    """Where an episode's pictures are: a video from `start_s` to before `end_s` (None: to its end)."""

    file: Path
    start_s: float
    end_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LerobotEpisode:
    """An episode's rows, in the data set's own units. `timestamps_s` count from the episode's beginning.

    `tasks` is the task of each row, `task` that of the first; `keys` are all features that the data set lists.
    `videos` maps feature keys to video parts, `pictures` to coded images for data sets that keep them in rows.
    """

    root: Path
    name: str
    version: str
    index: int
    fps: float
    task: str
    tasks: tuple[str, ...]
    timestamps_s: Float64[ndarray, " ticks"]
    features: Mapping[str, Float64[ndarray, "ticks width"]]
    names: Mapping[str, tuple[str, ...]]
    videos: Mapping[str, VideoPart]
    pictures: Mapping[str, tuple[bytes, ...]]
    keys: tuple[str, ...]

    @property
    def ticks(self) -> int:
        """Number of rows."""
        return len(self.timestamps_s)

    @property
    def on_grid(self) -> bool:
        """Whether the timestamps are row numbers over the rate, up to their 32-bit rounding."""
        counted_s = self.timestamps_s[0] + np.arange(self.ticks) / self.fps
        return bool(np.abs(self.timestamps_s - counted_s).max() < TOLERANCE_S)

    def misnamed(self, key: str) -> str | None:
        """Why the names of a feature's entries mean nothing; None where there is one for each."""
        entries, names = self.features[key].shape[1], len(self.names[key])
        return None if entries == names else f"{key} has {entries} entries and {names} names"


_NUMBER = re.compile(r"episode_(\d+)\.parquet$")

Fetch = Callable[[list[str]], Path]
"""Makes files (paths below the data set's root, `*` allowed) present and returns the root."""


def read_episode(fetch: Fetch, index: int, *, wanted: tuple[str, ...]) -> LerobotEpisode:
    """Reads the rows of an episode and finds its pictures of the `wanted` features.

    Raises:
        DatasetError: the data set is of another version, or the episode or a file of it is missing or damaged.
    """
    root = fetch(["meta/info.json"])
    info = _info(root)
    version = one_line(info.get("codebase_version", ""), 20)
    if not (version.startswith("v2.") or version == "v3.0"):
        raise DatasetError(
            "the data set's version is not known", where=root, expected="v2.0, v2.1 or v3.0", got=version
        )
    try:
        return (_read_v2 if version.startswith("v2.") else _read_v3)(fetch, info, index, wanted)
    except SigmaError:
        raise
    except Exception as error:  # files of others: whatever else is wrong with them is one sentence too
        got = f"{type(error).__name__}: {one_line(error)}"
        raise DatasetError(f"episode {index} cannot be read", where=root, got=got) from error


def episode_indices(fetch: Fetch) -> list[int]:
    """The episodes of a data set: those that its files name, and those that `info.json` counts but no file holds."""
    root = fetch(["meta/info.json", "meta/episodes.jsonl", "meta/episodes/*"])
    info = _info(root)
    total = info.get("total_episodes", 0)
    if not isinstance(total, int) or not 0 <= total <= MAX_EPISODES:
        raise DatasetError("total_episodes is not a number of episodes", where=root, got=one_line(total, 40))
    listed = {int(found[1]) for file in root.glob("data/**/episode_*.parquet") if (found := _NUMBER.search(file.name))}
    for file in sorted((root / "meta" / "episodes").rglob("*.parquet")):
        numbers = _parquet(file, columns=["episode_index"])["episode_index"].to_pylist()
        if not all(isinstance(number, int) and 0 <= number < MAX_EPISODES for number in numbers):
            raise DatasetError("the table of episodes numbers some by no number", where=file, got=one_line(numbers, 60))
        listed |= set(numbers)
    return sorted(listed | set(range(total)))


def read_info(fetch: Fetch) -> dict[str, Any]:
    """A data set's `meta/info.json`.

    Raises:
        DatasetError: it is missing, or lists no features.
    """
    return _info(fetch(["meta/info.json"]))


def _info(root: Path) -> dict[str, Any]:
    file = root / "meta" / "info.json"
    try:
        info = read_json(file)
    except SigmaError as error:
        if "LFS" in error.what:
            raise
        raise DatasetError(
            "this is not a LeRobot data set", where=root, expected="meta/info.json", got=error.got or error.what
        ) from error
    features = info.get("features") if isinstance(info, dict) else None
    if not isinstance(info, dict) or not isinstance(features, dict):
        raise DatasetError("meta/info.json lists no features", where=file)
    if not all(isinstance(feature, dict) for feature in features.values()):
        raise DatasetError("meta/info.json has a feature that is no object", where=file)
    fps = info.get("fps", 1.0)
    if not isinstance(fps, int | float) or not 0.0 < fps <= MOST_FPS:
        got = one_line(fps, 40)
        raise DatasetError("meta/info.json has no rate", where=file, expected=f"fps up to {MOST_FPS}", got=got)
    return info


def _parquet(file: Path, **how: Any) -> pa.Table:
    """A table of a regular file, of at most `MAX_ROWS` rows and `MAX_PARQUET_BYTES`."""
    open_regular(file).close()
    try:
        found = pq.read_metadata(file)
        size = sum(found.row_group(i).total_byte_size for i in range(found.num_row_groups))
        if found.num_rows <= MAX_ROWS and size <= MAX_PARQUET_BYTES:
            return pq.read_table(file, **how)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise DatasetError("the table cannot be read", where=file, got=one_line(error)) from error
    raise DatasetError(
        "the table is too large",
        where=file,
        expected=f"at most {MAX_ROWS} rows and {MAX_PARQUET_BYTES >> 20} MiB",
        got=f"{found.num_rows} rows, {size >> 20} MiB",
    )


def _read_v2(fetch: Fetch, info: dict[str, Any], index: int, wanted: tuple[str, ...]) -> LerobotEpisode:
    place = {"episode_chunk": index // int(info["chunks_size"]), "episode_index": index}
    data = filled(str(info["data_path"]), place)
    keys = [key for key in wanted if info["features"].get(key, {}).get("dtype") == "video"]
    films = {key: filled(str(info["video_path"]), {**place, "video_key": key}) for key in keys}
    root = fetch(["meta/tasks.jsonl", data, *films.values()])
    _refuse_unknown(info, index, there=contained(root, data).is_file())
    table = _parquet(contained(root, data))
    tasks = {row["task_index"]: row["task"] for row in _json_lines(root / "meta" / "tasks.jsonl")}
    videos = {key: VideoPart(file=contained(root, film), start_s=0.0, end_s=None) for key, film in films.items()}
    return _episode(root, info, table, wanted, index=index, tasks=tasks, videos=videos)


def _read_v3(fetch: Fetch, info: dict[str, Any], index: int, wanted: tuple[str, ...]) -> LerobotEpisode:
    root = fetch(["meta/tasks.parquet", "meta/episodes/*"])
    row = _v3_row(root, index)
    _refuse_unknown(info, index, there=row is not None)
    assert row is not None
    place = {"chunk_index": int(row["data/chunk_index"]), "file_index": int(row["data/file_index"])}
    data = filled(str(info["data_path"]), place)
    keys = [key for key in wanted if info["features"].get(key, {}).get("dtype") == "video"]
    films = {
        key: filled(
            str(info["video_path"]),
            {
                "video_key": key,
                "chunk_index": int(row[f"videos/{key}/chunk_index"]),
                "file_index": int(row[f"videos/{key}/file_index"]),
            },
        )
        for key in keys
    }
    root = fetch([data, *films.values()])
    table = _parquet(contained(root, data), filters=[("episode_index", "=", index)])
    if row.get("length") not in (None, table.num_rows):
        raise DatasetError(
            f"episode {index} has other rows than the table of episodes says",
            where=contained(root, data),
            expected=f"{one_line(row['length'], 20)} rows",
            got=table.num_rows,
            remedy="leave the episode out, or fetch the data set anew",
        )
    task_table = _parquet(root / "meta" / "tasks.parquet").to_pandas()
    tasks = {int(task_index): str(text) for text, task_index in task_table["task_index"].items()}
    videos = {
        key: VideoPart(
            file=contained(root, film),
            start_s=float(row[f"videos/{key}/from_timestamp"]),
            end_s=None if row.get(f"videos/{key}/to_timestamp") is None else float(row[f"videos/{key}/to_timestamp"]),
        )
        for key, film in films.items()
    }
    return _episode(root, info, table, wanted, index=index, tasks=tasks, videos=videos)


def _v3_row(root: Path, index: int) -> dict[str, Any] | None:
    for file in sorted((root / "meta" / "episodes").rglob("*.parquet")):
        open_regular(file).close()
        names = [name for name in pq.read_schema(file).names if not name.startswith("stats/")]
        rows = _parquet(file, columns=names, filters=[("episode_index", "=", index)]).to_pylist()
        if rows:
            return rows[0]
    return None


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
    texts = [tasks.get(number) for number in table["task_index"].to_pylist()]
    if not all(isinstance(text, str) for text in texts):
        raise DatasetError(
            f"episode {index} has a task that no table of tasks names",
            where=root,
            expected=f"task_index one of {', '.join(map(str, sorted(tasks))) or 'none: the table is empty'}",
            got=sorted({n for n in table["task_index"].to_pylist() if not isinstance(tasks.get(n), str)}),
            remedy="add the task to meta/tasks, or leave the episode out",
        )
    kinds = {key: features.get(key, {}).get("dtype") for key in wanted if key in table.column_names}
    numbers = {key: _matrix(table, key) for key, kind in kinds.items() if kind != "image"}
    pictures = {
        key: tuple(_coded(root, key, picture) for picture in table[key].to_pylist())
        for key, kind in kinds.items()
        if kind == "image"
    }
    return LerobotEpisode(
        root=root,
        name="/".join(root.absolute().parts[-2:]),
        version=str(info["codebase_version"]),
        index=index,
        fps=float(info["fps"]),
        task=cast(str, texts[0]),
        tasks=tuple(map(str, texts)),
        timestamps_s=table["timestamp"].to_numpy().astype(np.float64).reshape(-1),
        features=numbers,
        names={key: _names(features.get(key, {})) for key in numbers},
        videos=videos,
        pictures=pictures,
        keys=tuple(one_line(key, 80) for key in features),
    )


def _coded(root: Path, key: str, picture: object) -> bytes:
    """A picture of a row: its bytes, or the file below the data set that it names."""
    data = picture.get("bytes") if isinstance(picture, dict) else None
    if isinstance(data, bytes) and data:
        return data
    name = picture.get("path") if isinstance(picture, dict) else None
    if not isinstance(name, str):
        raise DatasetError(f"a picture of {key} has neither bytes nor a path", where=root)
    with open_regular(contained(root, name)) as file:
        return file.read(MAX_PICTURE_BYTES)


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


def _refuse_unknown(info: dict[str, Any], index: int, *, there: bool) -> None:
    total = int(info["total_episodes"])
    if not there and not 0 <= index < total:
        raise DatasetError("there is no such episode", expected=f"0 .. {total - 1}", got=index)
    if not there:
        raise DatasetError(f"episode {index} is not listed, or its file is missing", expected=f"one of {total}")


def _json_lines(file: Path) -> list[dict[str, Any]]:
    lines = read_text(file, limit=MAX_JSON_BYTES).splitlines()
    return [cast(dict[str, Any], load_json(line, where=file)) for line in lines if line.strip()]


def video_pictures(part: VideoPart, wanted_s: Float64[ndarray, " ticks"]) -> Iterator[UInt8[ndarray, "h w 3"]]:
    """RGB pictures at times of the film [s], increasing, each the nearest one within LeRobot's tolerance.

    Raises:
        DatasetError: the video cannot be read, ends early, or has no picture at a time.
    """
    given = 0
    with _film(part) as (container, stream):
        if part.start_s > 0.0 and stream.time_base is not None:
            container.seek(int(part.start_s / stream.time_base), stream=stream)
        before: Any = None
        for frame in container.decode(stream):
            if frame.time is None:
                raise DatasetError("the video's pictures have no times", where=part.file)
            while given < len(wanted_s) and frame.time >= wanted_s[given]:
                yield _nearest(before, frame, wanted_s[given], part).to_ndarray(format="rgb24")
                given += 1
            if given == len(wanted_s):
                return
            before = frame
        while before is not None and given < len(wanted_s) and _distance_s(before, wanted_s[given]) <= TOLERANCE_S:
            yield _nearest(before, before, wanted_s[given], part).to_ndarray(format="rgb24")
            given += 1
        if given == len(wanted_s):
            return
    raise DatasetError("the video has fewer pictures than rows", where=part.file, expected=len(wanted_s), got=given)


@contextmanager
def _film(part: VideoPart) -> Iterator[tuple[Any, Any]]:
    """An opened film and its video stream.

    Raises:
        DatasetError: it is none, is damaged where it is read, or nobody here knows its codec.
    """
    import av  # noqa: PLC0415 - a heavy library, needed for videos only

    open_regular(part.file).close()
    try:
        with av.open(str(part.file)) as container:
            stream = container.streams.video[0]
            if stream.codec_context is None:  # PyAV takes the process with it when it is asked to decode this
                raise DatasetError("the video's codec is not known", where=part.file)
            yield container, stream
    except (av.FFmpegError, OSError, IndexError, ValueError) as error:
        raise DatasetError("the video cannot be read", where=part.file, got=one_line(error)) from error


def _distance_s(frame: Any, wanted_s: float) -> float:
    return abs(float(frame.time) - wanted_s)


def _nearest(before: Any, frame: Any, wanted_s: float, part: VideoPart) -> Any:
    nearest = frame if before is None or _distance_s(frame, wanted_s) <= _distance_s(before, wanted_s) else before
    if part.end_s is not None and nearest.time > part.end_s - TOLERANCE_S:
        raise DatasetError(
            "the video has fewer pictures than rows: the next are another episode's",
            where=part.file,
            expected=f"a picture at {wanted_s:.4f} s",
            got=f"the episode's film ends at {part.end_s:.4f} s",
        )
    if _distance_s(nearest, wanted_s) > TOLERANCE_S:
        raise DatasetError(
            "the video has no picture at a row's time",
            where=part.file,
            expected=f"one within {TOLERANCE_S:g} s of {wanted_s:.4f} s",
            got=f"{nearest.time:.4f} s",
            remedy="leave the episode out, or record it again: its film has another rate or holes",
        )
    return nearest


def film_times_s(source: LerobotEpisode, part: VideoPart) -> Float64[ndarray, " ticks"]:
    """When an episode's rows are in its film: at their timestamps, as LeRobot looks them up.

    Rows with measured timestamps (the CR5's) were filmed picture by picture: row k is picture k of the film's rate.

    Raises:
        DatasetError: then the film must have exactly as many pictures as rows.
    """
    if source.on_grid:
        return part.start_s + source.timestamps_s
    pictures = _count_pictures(part)
    if pictures != source.ticks:
        raise DatasetError(
            "the rows' times are not those of the film, and their numbers differ",
            where=part.file,
            expected=f"{source.ticks} pictures",
            got=pictures,
        )
    return part.start_s + np.arange(source.ticks) / source.fps


def _count_pictures(part: VideoPart) -> int:
    """Pictures of the episode, from the film's packets: nothing is decoded."""
    with _film(part) as (container, stream):
        times_s = [float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None]
    end_s = np.inf if part.end_s is None else part.end_s - TOLERANCE_S
    return sum(part.start_s - TOLERANCE_S <= time_s < end_s for time_s in times_s)
