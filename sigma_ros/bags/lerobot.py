# SPDX-License-Identifier: Apache-2.0
"""One episode of a LeRobot data set (v2.x or v3.0) from its files: numbers whole, pictures one at a time.

The files are read as they are, not through `LeRobotDataset`: that class reads one version only. Pictures are looked up
by time as there; a data set with measured timestamps (the CR5's) must have as many pictures as rows instead.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.border import contained, filled, load_json, one_line, open_regular, read_json, read_text
from sigma_ros.contract import feature_names
from sigma_ros.errors import DatasetError, SigmaError
from sigma_ros.streams.video import TOLERANCE_S, VideoPart, counted_s

STATE_KEY = "observation.state"
ACTION_KEY = "action"

MAX_EPISODES, MAX_ROWS, MOST_FPS = 1_000_000, 5_000_000, 10_000
MAX_PICTURE_BYTES, MAX_JSON_LINES_BYTES, MAX_PARQUET_BYTES = 256 << 20, 256 << 20, 1 << 30


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

    def film_times_s(self, part: VideoPart) -> Float64[ndarray, " ticks"]:
        """When the rows are in their film: at their timestamps, as LeRobot looks them up, or counted (`counted_s`)."""
        return part.start_s + (self.timestamps_s if self.on_grid else counted_s(part, self.ticks, self.fps))

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
    if not isinstance(info, dict) or not isinstance(features := info.get("features"), dict):
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
    films = {key: filled(str(info["video_path"]), {**place, "video_key": key}) for key in _filmed(info, wanted)}
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
    films = {}
    for key in _filmed(info, wanted):
        of = {name: int(row[f"videos/{key}/{name}"]) for name in ("chunk_index", "file_index")}
        films[key] = filled(str(info["video_path"]), {"video_key": key, **of})
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
    listed = _parquet(root / "meta" / "tasks.parquet")
    texts = listed["task" if "task" in listed.column_names else "__index_level_0__"]  # as pandas stores a table's index
    tasks = dict(zip(listed["task_index"].to_pylist(), texts.to_pylist(), strict=True))
    videos = {}
    for key, film in films.items():
        start_s, end_s = float(row[f"videos/{key}/from_timestamp"]), row.get(f"videos/{key}/to_timestamp")
        end_s = None if end_s is None else float(end_s)
        videos[key] = VideoPart(file=contained(root, film), start_s=start_s, end_s=end_s)
    return _episode(root, info, table, wanted, index=index, tasks=tasks, videos=videos)


def _filmed(info: dict[str, Any], wanted: tuple[str, ...]) -> list[str]:
    """The features that are videos."""
    return [key for key in wanted if info["features"].get(key, {}).get("dtype") == "video"]


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
    _refuse_foreign_rows(root, table, index)
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
        names={key: feature_names(features.get(key, {})) for key in numbers},
        videos=videos,
        pictures=pictures,
        keys=tuple(one_line(key, 80) for key in features),
    )


def _refuse_foreign_rows(root: Path, table: pa.Table, index: int) -> None:
    """Rows number themselves: those of another episode, or with some lost between them, are not this episode's."""
    for name, step in (("episode_index", 0), ("frame_index", 1)):
        if name not in table.column_names:
            continue
        numbers = table[name].to_numpy().reshape(-1)
        (wrong,) = np.nonzero(np.diff(numbers) != step)
        if len(wrong) or (step == 0 and numbers[0] != index):
            row = int(wrong[0]) + 1 if len(wrong) else 0
            raise DatasetError(
                f"rows of episode {index} are another's, or some between them are lost",
                where=root,
                expected=f"{name} {index if step == 0 else numbers[row - 1] + 1} in row {row}",
                got=numbers[row],
                remedy="leave the episode out, or fetch the data set anew",
            )


def _coded(root: Path, key: str, picture: object) -> bytes:
    """A picture of a row: its bytes, or the file below the data set that it names."""
    data, name = (picture.get(part) if isinstance(picture, dict) else None for part in ("bytes", "path"))
    if isinstance(data, bytes) and data:
        return data
    if not isinstance(name, str):
        raise DatasetError(f"a picture of {key} has neither bytes nor a path", where=root)
    with open_regular(contained(root, name)) as file:
        return file.read(MAX_PICTURE_BYTES)


def _matrix(table: pa.Table, key: str) -> Float64[ndarray, "ticks width"]:
    return np.array(table[key].to_pylist(), dtype=np.float64).reshape(table.num_rows, -1)


def _refuse_unknown(info: dict[str, Any], index: int, *, there: bool) -> None:
    total = int(info["total_episodes"])
    if there:
        return
    if not 0 <= index < total:
        raise DatasetError("there is no such episode", expected=f"0 .. {total - 1}", got=index)
    raise DatasetError(f"episode {index} is not listed, or its file is missing", expected=f"one of {total}")


def _json_lines(file: Path) -> list[dict[str, Any]]:
    lines = read_text(file, limit=MAX_JSON_LINES_BYTES).splitlines()
    return [cast(dict[str, Any], load_json(line, where=file)) for line in lines if line.strip()]
