# SPDX-License-Identifier: Apache-2.0
"""What is in a LeRobot data set: its description, the numbers of some episodes, the pictures of a few of them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy import ndarray

from sigma_ros.bags.dataset_facts import check_facts, check_numbers, episode_numbers, fetcher, repeated, size_px
from sigma_ros.bags.lerobot import ACTION_KEY, STATE_KEY, LerobotEpisode, read_episode, read_info
from sigma_ros.bags.transcode import DatasetBag, load_episode
from sigma_ros.border import one_line
from sigma_ros.camera_names import NO_RENAME
from sigma_ros.contract import Contract
from sigma_ros.conventions import guessed_units
from sigma_ros.errors import SigmaError
from sigma_ros.inspection.facts import THUMBNAILS, Contents, TopicFacts, account, small
from sigma_ros.streams.images import decode_coded
from sigma_ros.streams.quality import FROZEN_PICTURES, FreezeWatch, motion_findings, moves, rhythm
from sigma_ros.streams.video import video_pictures
from sigma_ros.values import NS_PER_S

_EPISODES_READ = 64
_EPISODES_SEEN = 3
_MOST_PICTURES = 3000
"""Of a camera in an episode that are looked at: decoding takes as long as reading does otherwise."""

_MOST_FEATURES = 64


def data_set_contents(
    place: str, contract: Contract | None, revision: str | None, episodes: Sequence[int], *, recover: bool
) -> Contents:
    """See `places.look_into`."""
    fetch = fetcher(place, revision)
    info = read_info(fetch)
    numbers = episode_numbers(place, revision=revision)
    if contract is not None:
        check_facts(fetch, contract, rename=NO_RENAME, resample=False)
    judged = list(episodes) or numbers[:: max(1, len(numbers) // _EPISODES_READ)]
    doubts = check_numbers(place, judged, contract, revision=revision, rename=NO_RENAME) if contract else []
    losses: Counter[str] = Counter()
    read: list[LerobotEpisode] = []
    for number in judged:
        try:
            read.append(read_episode(fetch, number, wanted=tuple(info["features"])[:_MOST_FEATURES]))
            if contract is not None:
                losses.update(_set_account(place, number, contract, revision, recover=recover))
        except SigmaError as error:
            losses[f"episode {number} is not read: {error.what}"] += 1
    streams = tuple(_feature(str(key), feature, read) for key, feature in info["features"].items())
    state = next((s for s in streams if s.name == STATE_KEY and s.low), None)
    states = [episode.features[STATE_KEY] for episode in read if STATE_KEY in episode.features]
    rate_hz = float(info.get("fps", 0.0)) or 1.0
    numbered = () if state is None else tuple(f"joint_{i}" for i in range(len(state.low)))
    misnamed = next((said for e in read if STATE_KEY in e.features and (said := e.misnamed(STATE_KEY))), None)
    names = numbered if state is None or misnamed else state.joints
    facts = {
        "version": one_line(info.get("codebase_version", ""), 20),
        "robot": one_line(info.get("robot_type", "")),
        "fps": rate_hz,
        "rows": int(sum(episode.ticks for episode in read)),
        "episodes read": len(read),
    }
    seen = read[:: max(1, -(-len(read) // _EPISODES_SEEN))]
    cameras = [stream.name for stream in streams if stream.is_camera]
    findings = [f"episode {e.index}: {finding}" for e in read for finding in _findings(e, names, rate_hz)]
    findings += doubts + repeated([episode for episode in read if STATE_KEY in episode.features])
    findings += [misnamed] if misnamed and state is not None and state.joints else []
    findings += [f"episode {e.index}: {finding}" for e in seen for key in cameras for finding in _frozen(key, e)]
    return Contents(
        path=place,
        kind="data set",
        facts=facts,
        streams=streams,
        units=guessed_units(names, np.concatenate(states)) if state is not None else (),
        tasks=dict(Counter(one_line(task) for episode in read for task in dict.fromkeys(episode.tasks))),
        episodes=len(numbers),
        losses=dict(losses),
        findings=tuple(findings),
    )


def _findings(episode: LerobotEpisode, names: Sequence[str], rate_hz: float) -> Iterator[str]:
    """What is odd about an episode's rows."""
    rows = rhythm(_stamps_ns(episode))
    if rows is not None and rows.dropped:
        yield f"{rows.dropped} rows are missing between the others, {rows.longest_gap_s:.3g} s at most"
    state, action = (episode.features.get(key) for key in (STATE_KEY, ACTION_KEY))
    if state is not None:
        same = action if action is not None and action.shape[1:] == state.shape[1:] else None
        yield from motion_findings(names, state, same, rate_hz=rate_hz)


def _stamps_ns(episode: LerobotEpisode) -> ndarray:
    return np.round(episode.timestamps_s * NS_PER_S).astype(np.int64)


def _frozen(key: str, episode: LerobotEpisode) -> Iterator[str]:
    """Whether a camera repeats one picture while the joints move: a picture of what stands still may be the same."""
    watch, state = FreezeWatch(), episode.features.get(STATE_KEY)
    try:
        for row, picture in enumerate(islice(_pictures(key, episode), _MOST_PICTURES)):
            watch.note(np.ascontiguousarray(picture))
            began = row - FROZEN_PICTURES
            if watch.is_frozen and (state is None or moves(state, slice(began, row + 1))):
                yield f"{key} repeats one picture from row {began} on, while the joints move"
                return
    except SigmaError as error:
        yield f"{key} cannot be read to its end: {error.what}"


def _set_account(place: str, number: int, contract: Contract, revision: str | None, *, recover: bool) -> dict[str, int]:
    source = load_episode(place, number, contract, revision=revision)
    return account(DatasetBag(source, contract, recover=recover), contract)


def _feature(key: str, feature: Mapping[str, Any], episodes: list[LerobotEpisode]) -> TopicFacts:
    kind = one_line(feature.get("dtype", ""), 20)
    rows = [episode.features[key] for episode in episodes if key in episode.features]
    values = np.concatenate(rows) if rows and kind not in ("video", "image") else np.zeros((0, 0))
    values = values[np.isfinite(values).all(axis=1)]
    return TopicFacts(
        name=one_line(key, 80),
        kind=kind,
        messages=sum(episode.ticks for episode in episodes),
        rhythm=rhythm(np.concatenate([_stamps_ns(episode) for episode in episodes])) if episodes else None,
        size_px=size_px(feature) if kind in ("video", "image") else None,
        joints=next((episode.names[key] for episode in episodes if key in episode.names), ()),
        low=tuple(values.min(axis=0).tolist()) if values.size else (),
        high=tuple(values.max(axis=0).tolist()) if values.size else (),
        pictures=_set_pictures(key, episodes[0]) if kind in ("video", "image") and episodes else (),
    )


def _set_pictures(key: str, episode: LerobotEpisode) -> tuple[ndarray, ...]:
    rows = [(2 * i + 1) * episode.ticks // (2 * THUMBNAILS) for i in range(THUMBNAILS)]
    try:
        return tuple(small(picture) for picture in _pictures(key, episode, rows))
    except SigmaError:
        return ()


def _pictures(key: str, episode: LerobotEpisode, rows: Sequence[int] | None = None) -> Iterator[ndarray]:
    """A camera's pictures of some rows (None: of all), one at a time."""
    wanted = range(episode.ticks) if rows is None else rows
    if key in episode.pictures:
        yield from (decode_coded(episode.pictures[key][row], where=key) for row in wanted)
    elif (part := episode.videos.get(key)) is not None:
        yield from video_pictures(part, episode.film_times_s(part)[list(wanted)])
