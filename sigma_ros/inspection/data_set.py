# SPDX-License-Identifier: Apache-2.0
"""What is in a LeRobot data set: its description, the numbers of some episodes, a few pictures of the first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from sigma_ros.bags.dataset_facts import episode_numbers, fetcher, size_px
from sigma_ros.bags.lerobot import (
    ACTION_KEY,
    STATE_KEY,
    LerobotEpisode,
    film_times_s,
    read_episode,
    read_info,
    video_pictures,
)
from sigma_ros.bags.transcode import DatasetBag, load_episode
from sigma_ros.border import one_line
from sigma_ros.contract import Contract
from sigma_ros.conventions import guessed_units
from sigma_ros.errors import SigmaError
from sigma_ros.inspection.facts import THUMBNAILS, Contents, TopicFacts, account, small
from sigma_ros.streams.images import decode_coded
from sigma_ros.streams.quality import motion_findings

_EPISODES_READ = 64
_MOST_FEATURES = 64


def data_set_contents(
    place: str, contract: Contract | None, revision: str | None, episodes: Sequence[int], *, recover: bool
) -> Contents:
    """See `places.look_into`."""
    fetch = fetcher(place, revision)
    info = read_info(fetch)
    numbers = episode_numbers(place, revision=revision)
    judged = list(episodes) or numbers[:: max(1, len(numbers) // _EPISODES_READ)]
    losses: Counter[str] = Counter()
    read: list[LerobotEpisode] = []
    for number in judged:
        try:
            read.append(read_episode(fetch, number, wanted=tuple(info["features"])[:_MOST_FEATURES]))
        except SigmaError as error:
            losses[f"episode {number} is not read: {error.what}"] += 1
            continue
        if contract is not None:
            losses.update(_set_account(place, number, contract, revision, recover=recover))
    streams = tuple(_feature(str(key), feature, read) for key, feature in info["features"].items())
    state = next((s for s in streams if s.name == STATE_KEY and s.low), None)
    states = [episode.features[STATE_KEY] for episode in read if STATE_KEY in episode.features]
    rate_hz = float(info.get("fps", 0.0)) or 1.0
    names = () if state is None else state.joints or tuple(f"joint_{i}" for i in range(len(state.low)))
    facts = {
        "version": one_line(info.get("codebase_version", ""), 20),
        "robot": one_line(info.get("robot_type", "")),
        "fps": rate_hz,
        "rows": int(sum(episode.ticks for episode in read)),
        "episodes read": len(read),
    }
    findings = [
        f"episode {episode.index}: {finding}"
        for episode in read
        if STATE_KEY in episode.features
        for finding in motion_findings(
            names, episode.features[STATE_KEY], _same_shape(episode.features, states[0]), rate_hz=rate_hz
        )
    ]
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


def _same_shape(features: Mapping[str, ndarray], state: ndarray) -> ndarray | None:
    action = features.get(ACTION_KEY)
    return action if action is not None and action.shape[1:] == state.shape[1:] else None


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
        size_px=size_px(feature) if kind in ("video", "image") else None,
        joints=next((episode.names[key] for episode in episodes if key in episode.names), ()),
        low=tuple(values.min(axis=0).tolist()) if values.size else (),
        high=tuple(values.max(axis=0).tolist()) if values.size else (),
        pictures=_set_pictures(key, episodes[0]) if kind in ("video", "image") and episodes else (),
    )


def _set_pictures(key: str, episode: LerobotEpisode) -> tuple[ndarray, ...]:
    rows = [(2 * i + 1) * episode.ticks // (2 * THUMBNAILS) for i in range(THUMBNAILS)]
    try:
        if key in episode.pictures:
            return tuple(small(decode_coded(episode.pictures[key][row], where=key)) for row in rows)
        part = episode.videos[key]
        return tuple(small(picture) for picture in video_pictures(part, film_times_s(episode, part)[rows]))
    except (SigmaError, KeyError):
        return ()
