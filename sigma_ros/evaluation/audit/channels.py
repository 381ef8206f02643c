# SPDX-License-Identifier: Apache-2.0
"""A policy's actions on recorded windows, as recorded and with one channel exchanged.

Windows are those of the memory's stride, each given to the robot's own `SigmaRuntime.step`; what a policy remembers is
its own under the same exchange. Nothing is executed: the joints are the recording's.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.bags.episode import Tick
from sigma_ros.errors import SigmaError
from sigma_ros.evaluation.log import SCORED_STEPS
from sigma_ros.streams.frame_clock import WindowHistory
from sigma_ros.values import AdapterSettings, Window

if TYPE_CHECKING:
    from torch import Tensor

    from sigma_ros.model.runtime import SigmaRuntime
    from sigma_ros.model.step import RecurrentState

Channel = Literal["pictures", "text", "memory"]
Policy = Literal["base", "checkpoint"]
Memory = tuple["Tensor", "Tensor"]


def with_pictures_of(ticks: Iterable[Tick], others: Iterable[Tick]) -> Iterator[Tick]:
    """The ticks with another episode's pictures, valid tick by valid tick; its last ones again where it has ended.

    Raises:
        SigmaError: the other episode has no valid tick.
    """
    pictures = [other.window.newest.images for other in others if other.window is not None]
    if not pictures:
        raise SigmaError("there are no pictures to show instead", expected="an episode with a valid tick")
    history, epoch = WindowHistory(), None
    for number, tick in enumerate(ticks):
        window = tick.window
        if window is None:
            history.add_gap()
            yield tick
            continue
        if window.epoch != epoch:
            history.clear()
            epoch = window.epoch
        shown = replace(window.newest, images=pictures[min(number, len(pictures) - 1)])
        yield replace(tick, item=history.add(shown, task=window.task))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One channel with other content; a window's recurrence is replaced by `memory` of its number."""

    channel: Channel | None
    name: str
    text: str | None = None
    memory: Callable[[int], Memory] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """What came of an episode under one exchange.

    `actions` are normalised proposals of each policy, `target` the recorded actions; `tokens` are hashes of what the
    model was given through each channel; `memories` the memory and factors that each window started from.
    """

    actions: Mapping[Policy, Float64[ndarray, "windows steps dof"]]
    target: Float64[ndarray, "windows steps dof"]
    tokens: Mapping[Channel, str]
    memories: Sequence[Memory]

    def memory(self, number: int) -> Memory:
        """Of a window; the last one again behind the end."""
        return self.memories[min(number, len(self.memories) - 1)]


AS_RECORDED = Exchange(channel=None, name="as recorded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """All episodes as recorded, and under each exchange."""

    recorded: tuple[Proposals, ...]
    exchanged: tuple[tuple[Exchange, tuple[Proposals, ...]], ...]


def observe(
    runtime: "SigmaRuntime",
    episodes: Sequence[Sequence[Tick]],
    *,
    other_text: str,
    on_episode: Callable[[], None] = lambda: None,
) -> Observed:
    """Every episode with its own content and with the next episode's pictures and memory, no memory, another text.

    `on_episode` is told five times an episode.

    Raises:
        SigmaError: fewer than two episodes, or one without a scored window.
    """
    if len(episodes) < 2:
        raise SigmaError("an audit exchanges content between episodes", expected="at least two", got=str(len(episodes)))

    def each(exchange: Callable[[int], Exchange], shown: Callable[[int], Iterable[Tick]]) -> tuple[Proposals, ...]:
        found = []
        for number in range(len(episodes)):
            found.append(listen(runtime, shown(number), exchange(number)))
            on_episode()
        return tuple(found)

    def own(number: int) -> Sequence[Tick]:
        return episodes[number]

    def others(number: int) -> int:
        return (number + 1) % len(episodes)

    recorded = each(lambda _: AS_RECORDED, own)
    start = recorded[0].memories[0]
    pictures = Exchange(channel="pictures", name="next episode's")
    text = Exchange(channel="text", name="another text", text=other_text)
    reset = Exchange(channel="memory", name="emptied", memory=lambda _: start)
    swap = Exchange(channel="memory", name="next episode's")
    exchanged = (
        (pictures, each(lambda _: pictures, lambda n: with_pictures_of(episodes[n], episodes[others(n)]))),
        (text, each(lambda _: text, own)),
        (reset, each(lambda _: reset, own)),
        (swap, each(lambda n: replace(swap, memory=recorded[others(n)].memory), own)),
    )
    return Observed(recorded=recorded, exchanged=exchanged)


def listen(runtime: "SigmaRuntime", ticks: Iterable[Tick], exchange: Exchange = AS_RECORDED) -> Proposals:
    """What the policies propose on an episode under an exchange.

    Raises:
        SigmaError: it has no window with all its recorded actions.
    """
    actions: dict[Policy, list[ndarray]] = {"base": [], "checkpoint": []}
    targets: list[ndarray] = []
    memories: list[Memory] = []
    prints = _Prints()
    state: RecurrentState | None = None
    for recorded, target in _scored(ticks, runtime):
        window = recorded if exchange.text is None else replace(recorded, task=exchange.text)
        if state is None or (state.epoch, state.task) != (window.epoch, window.task):
            state = runtime.initial_state(epoch=window.epoch, task=window.task)
        state = runtime.observe(window, state)
        if exchange.memory is not None:
            memory, factors = exchange.memory(len(memories))
            state = replace(state, memory=memory, factors=factors)
        memories.append((state.memory, state.factors))
        prints.add(runtime, state)
        inference, state = runtime.step(window, state, commit=True, settings=AdapterSettings(), chunk_id=len(memories))
        base = inference.base_normalised[:SCORED_STEPS]
        actions["base"].append(base)
        actions["checkpoint"].append(base + inference.residual_normalised[:SCORED_STEPS])
        targets.append(runtime.normalise_actions(target))
    if not targets:
        raise SigmaError("an episode has no window to audit", expected=f"one with {SCORED_STEPS} recorded actions")
    return Proposals(
        actions={policy: np.stack(found) for policy, found in actions.items()},
        target=np.stack(targets),
        tokens=prints.hashes(),
        memories=memories,
    )


def _scored(ticks: Iterable[Tick], runtime: "SigmaRuntime") -> Iterator[tuple[Window, ndarray]]:
    """Windows of the memory's stride, with their recorded actions [rad]; those at the end that lack some are left."""
    waiting: list[tuple[Window, list[ndarray]]] = []
    for tick in ticks:
        window, action = tick.window, tick.action_rad
        if window is None or action is None:
            waiting.clear()
            continue
        if window.tick % runtime.memory_stride == 0:
            waiting.append((window, []))
        for _, actions in waiting:
            actions.append(action)
        while waiting and len(waiting[0][1]) == SCORED_STEPS:
            ready, actions = waiting.pop(0)
            yield ready, np.stack(actions)


class _Prints:
    """Hashes of the tokens a model was given: that an exchange reached it is shown, not assumed."""

    def __init__(self) -> None:
        self._hashes = {channel: hashlib.sha256() for channel in ("pictures", "text", "memory")}

    def add(self, runtime: "SigmaRuntime", state: "RecurrentState") -> None:
        ring = state.ring
        tokens, _ = runtime.model.backbone.tokenize(state.task, ring.states[-1:].cpu().numpy())
        given = {"pictures": (ring.patches,), "text": (tokens,), "memory": (state.memory, state.factors)}
        for channel, tensors in given.items():
            for tensor in tensors:
                self._hashes[channel].update(tensor.detach().float().cpu().numpy().tobytes())

    def hashes(self) -> dict[Channel, str]:
        return {channel: digest.hexdigest() for channel, digest in self._hashes.items()}  # type: ignore[misc]
