# SPDX-License-Identifier: Apache-2.0
"""What a run will cost, told before it begins: memory counted, time measured on passes that change nothing."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from sigma_ros.model.sigma import SigmaTelepathyVLA

from ..data import ShardData

if TYPE_CHECKING:
    from ..run import Run

_BYTES_TRAINED = 16
"""Per parameter in float32: itself, its gradient, two moments."""

_MOST_PASSES, _ENOUGH_S, _LONG_S = 4, 1.0, 20.0
"""Passes end after so many or so long; after one that took long there is no other."""

_UNSEEN = 1.3
"""The longest pass becomes so much longer for what was not measured: the optimiser, saved states, a busy machine."""

_STEPS_AHEAD = 100
"""Sizes of so many coming steps are looked at."""


def say(text: str) -> None:
    """A line on stderr."""
    Console(stderr=True, markup=False).print(text, highlight=False)


def duration(time_s: float) -> str:
    """A time for the eye: `0.4 s`, `40 s`, `12 min`, `3.5 h`."""
    if time_s < 10.0:
        return f"{time_s:.1f} s"
    if time_s < 100.0:
        return f"{time_s:.0f} s"
    return f"{time_s / 60.0:.0f} min" if time_s < 6000.0 else f"{time_s / 3600.0:.1f} h"


def memory_bytes() -> int:
    """Peak memory: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory(model: SigmaTelepathyVLA, data: ShardData) -> str:
    """What is known of a run's memory before anything is computed."""
    base_bytes = sum(p.numel() * p.element_size() for p in model.backbone.parameters())
    trained = sum(p.numel() for p in model.trained().values())
    ticks = sum(episode.ticks for episode in data.episodes)
    return (
        f"estimate: {base_bytes / 1e9:.2f} GB of frozen base, {trained * _BYTES_TRAINED / 1e9:.2f} GB for "
        f"{trained / 1e6:.2f} M trained parameters with AdamW, activations on top; the base looks once at "
        f"{ticks} ticks of {len(data.episodes)} episodes"
    )


def measured(work: Callable[[], object], *, passes: int | None = None) -> tuple[float, float]:
    """Least and largest time [s] of a piece of work; of several passes the first only warms up.

    Args:
        work: Changes nothing.
        passes: How many; else as many as tell enough.
    """
    times_s = [_timed(work)]
    while len(times_s) < (passes or _MOST_PASSES) and (passes or _tells_too_little(times_s)):
        times_s.append(_timed(work))
    warm = times_s[1:] or times_s
    return min(warm), max(warm)


def _tells_too_little(times_s: list[float]) -> bool:
    return sum(times_s) < _ENOUGH_S or (len(times_s) == 1 and times_s[0] < _LONG_S)


def _timed(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began_s


def span(measured_s: tuple[float, float], times: float) -> str:
    """`12 min to 15 min`: what so many such pieces of work take."""
    low_s, high_s = measured_s
    return f"{duration(low_s * times)} to {duration(_UNSEEN * high_s * times)}"


@contextmanager
def unchanged(run: "Run") -> Iterator[None]:
    """Whatever is computed within, the run goes on as if it had not been: streams, memories, random numbers."""
    places, memories = list(run.places), list(run.memories)
    device = run.model.backbone.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
    run.places, run.memories = places, memories
    run.optimizer.zero_grad()


def steps(run: "Run", *, alike: int = 1) -> str:
    """What the steps to come will take, from passes forward and backward over the first of their micro-steps.

    Args:
        run: Ready for its next step; as it was afterwards.
        alike: How many runs like this one are to be done.
    """
    left, count = run.options.max_steps - run.step, run.options.gradient_accumulation_steps
    run.model.train()

    def dry() -> None:
        with unchanged(run):
            run.backward(0)

    # processes wait for each other in a pass, so that all must do as many
    measured_s = measured(dry, passes=2 if run.accelerator.num_processes > 1 else None)
    with unchanged(run):
        sizes = [run.size(run.pieces(m)) for _ in range(min(left, _STEPS_AHEAD)) for m in range(count)]
    passes = left * sum(sizes) / min(left, _STEPS_AHEAD) / sizes[0]
    text = (
        f"estimate: {span(measured_s, passes)} for {left} steps, {memory_bytes() / 1e9:.1f} GB; from dry passes over "
        f"the first of {passes:.0f} micro-steps of its size. Looks at held-out windows and the last scores come on top"
    )
    return text if alike == 1 else f"{text}; {span(measured_s, passes * alike)} for {alike} runs like this one"
