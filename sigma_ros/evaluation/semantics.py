# SPDX-License-Identifier: Apache-2.0
"""Do the words matter, and does the memory? The same recordings under other texts and without a memory.

Each condition is a replay of its own without a supervisor, compared with the recorded text window by window. What the
memory says is found out by retrieval: among all candidate texts, which one lies nearest to the memory seen as text?
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.evaluation.log import ReplayLog, scored
from sigma_ros.evaluation.replay import Hooks, ReplayOptions, replay
from sigma_ros.evaluation.report.document import comparison_values, plain
from sigma_ros.evaluation.scoring.metrics import TRJ
from sigma_ros.evaluation.scoring.statistics import Comparison, compare
from sigma_ros.evaluation.scoring.windows import windows_of
from sigma_ros.policy.schedule import SCORE_STRIDE_TICKS
from sigma_ros.values import Chunk, Telepathy

if TYPE_CHECKING:
    from sigma_ros.model.runtime import SigmaRuntime

UNRELATED = "fold the towel and put it on the chair"
REWORDED = "please do the following: {task}"
CONDITIONS = 5
"""Replays of each recording: recorded, wrong, reworded and empty text, and the memory cut."""


LIMITS = (
    "sem_align is the cosine of the memory, mapped into the space of text embeddings, and the mean embedding of the "
    "task text. It can show that the memory still holds the text it was given, and whether that fades or drifts.",
    "It cannot show that the policy understood the task: the text itself is an input of the memory, so a memory that "
    "merely copies it scores high. It says nothing about actions: compare the errors under other texts for that.",
    "Retrieval under a wrong text tells the two apart: a memory that names the given text copies it, one that names "
    "the recorded text has read it from the pictures and the joints.",
    "Errors under a wrong text are against the recorded actions: a policy that obeys the other text is wrong by this "
    "measure, and one that ignores all text is not. How far the actions moved says whether the text mattered at all.",
)
"""What the semantic measures can and cannot show; stands beside them in every report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The other texts; `reworded` may hold `{task}`."""

    wrong: str = UNRELATED
    reworded: str = REWORDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A condition against the recorded text, over the windows that both scored; errors are mse_trj.

    `*_change_deg` is the rms change of an arm's 16 proposed steps, `sem_align` the mean under this condition.
    `retrieved_*` is the share of windows whose memory is nearest to the given, or to the recorded, text; NaN without a
    memory, or where that text is no candidate.
    """

    name: str
    text: str
    windows: int
    sigma: Comparison
    base: Comparison
    sigma_change_deg: float
    base_change_deg: float
    sem_align: float
    scale: float
    retrieved_given: float
    retrieved_recorded: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Semantics:
    """All effects; `candidates` are the texts among which the memory chooses, so that chance is one of their number."""

    candidates: tuple[str, ...]
    effects: tuple[Effect, ...]

    def document(self) -> dict[str, Any]:
        """As plain JSON values, with the limits of what they mean."""
        rows = [
            {**asdict(effect), "sigma": comparison_values(effect.sigma), "base": comparison_values(effect.base)}
            for effect in self.effects
        ]
        values = plain(
            {"candidates": self.candidates, "chance": 1.0 / len(self.candidates), "effects": rows, "limits": LIMITS}
        )
        assert isinstance(values, dict)
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """A scored window under one condition."""

    recording: int
    sigma: float
    baseline: float
    sigma_rad: Float64[ndarray, "16 dof"]
    base_rad: Float64[ndarray, "16 dof"]
    sem_align: float
    scale: float
    nearest: str | None
    given: str
    recorded: str


_Windows = Mapping[tuple[int, int, int], _Window]
"""By recording, epoch and tick."""

Progress = Callable[[str, int, float], None]


class _Study:
    """Runs the conditions; holds what they have in common."""

    def __init__(
        self,
        bags: Sequence[Path],
        *,
        runtime: "SigmaRuntime",
        options: ReplayOptions,
        progress: Progress,
        stopped: Callable[[], bool],
    ) -> None:
        self._bags = bags
        self._runtime = runtime
        self._options = replace(options, supervisor_limits=None)
        self._progress = progress
        self._stopped = stopped
        self.nearest: Callable[[ndarray], str | None] = lambda _memory: None

    def replay(self, name: str, number: int, **changes: Any) -> tuple[ReplayLog, dict[tuple[int, int], ndarray]]:
        """One recording under one condition, with the memories of its scored ticks."""
        memories: dict[tuple[int, int], ndarray] = {}

        def hear(chunk: Chunk, telepathy: Telepathy) -> None:
            if chunk.tick % SCORE_STRIDE_TICKS == 0:
                memories[chunk.epoch, chunk.tick] = telepathy.semantic_memory

        hooks = Hooks(stopped=self._stopped, progress=lambda share: self._progress(name, number, share), inferred=hear)
        options, runtime = replace(self._options, **changes), self._runtime
        log = replay(self._bags[number], contract=runtime.contract, runtime=runtime, options=options, hooks=hooks)
        return log, memories

    def condition(self, name: str, recorded: Sequence[str], changes: Sequence[Mapping[str, Any]]) -> _Windows:
        """Every recording under its changes of the replay's options."""
        seen: dict[tuple[int, int, int], _Window] = {}
        for number, change in enumerate(changes):
            seen |= self.windows(number, recorded[number], *self.replay(name, number, **change))
        return seen

    def windows(
        self, number: int, recorded: str, log: ReplayLog, memories: Mapping[tuple[int, int], ndarray]
    ) -> _Windows:
        """The scored windows of a replay."""
        errors = windows_of(log, number)
        entries = {(entry.chunk.epoch, entry.chunk.tick): entry for entry in log.inferences}
        seen = {}
        for row, key in enumerate(zip(errors.epoch.tolist(), errors.tick.tolist(), strict=True)):
            chunk = entries[key].chunk
            seen[number, *key] = _Window(
                recording=number,
                sigma=float(errors.sigma.spans[row, TRJ]),
                baseline=float(errors.baseline.spans[row, TRJ]),
                sigma_rad=scored(chunk.blended_rad(chunk.scale)),
                base_rad=scored(chunk.base_rad),
                sem_align=chunk.sem_align,
                scale=chunk.scale,
                nearest=self.nearest(memories[key]),
                given=log.run.task,
                recorded=recorded,
            )
        return seen


def measure(
    bags: Sequence[Path],
    *,
    runtime: "SigmaRuntime",
    options: ReplayOptions,
    texts: Texts,
    progress: Progress = lambda *_: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Semantics:
    """Replays every bag under each condition; `progress` is told the condition, the bag's number and the share of it.

    A stop ends the replays early: the numbers are then those of the windows that were reached.
    """
    study = _Study(bags, runtime=runtime, options=options, progress=progress, stopped=stopped)
    first = [study.replay("recorded", number) for number in range(len(bags))]
    tasks = [log.run.task for log, _ in first]
    known = tuple(dict.fromkeys([*tasks, *runtime.contract.tasks]))
    candidates = tuple(dict.fromkeys([*known, texts.wrong]))
    study.nearest = _retriever(runtime, candidates)
    reference: dict[tuple[int, int, int], _Window] = {}
    for number, (log, memories) in enumerate(first):
        reference |= study.windows(number, tasks[number], log, memories)
    wrong = [next((other for other in known if other != task), texts.wrong) for task in tasks]
    middles = [_middles(log) for log, _ in first]
    conditions: dict[str, list[dict[str, Any]]] = {
        "wrong": [{"task": text} for text in wrong],
        "reworded": [{"task": texts.reworded.format(task=task)} for task in tasks],
        "empty": [{"task": ""} for _ in tasks],
        "memory cut": [{"forget_from": middle} for middle in middles],
    }
    effects = [effect_of("recorded", reference, reference, candidates)]
    for name, changes in conditions.items():
        seen = study.condition(name, tasks, changes)
        if name == "memory cut":
            seen = {key: window for key, window in seen.items() if key[2] >= middles[key[0]][key[1]]}
        effects.append(effect_of(name, reference, seen, candidates))
    return Semantics(candidates=candidates, effects=tuple(effects))


def effect_of(name: str, reference: _Windows, seen: _Windows, candidates: Sequence[str]) -> Effect:
    """One condition against the recorded text, over the windows that both have."""
    common = sorted(reference.keys() & seen.keys())
    pairs = [(reference[key], seen[key]) for key in common]
    after = [window for _, window in pairs]
    episodes = np.array([window.recording for window in after], dtype=np.int64)
    given = sorted({window.given for window in after})

    def compared(arm: str) -> Comparison:
        before_after = np.array([[getattr(w, arm) for w in pair] for pair in pairs]).reshape(-1, 2)
        return compare(before_after[:, 0], before_after[:, 1], episodes)

    def change_deg(arm: str) -> float:
        squares = [np.mean(np.degrees(getattr(b, arm) - getattr(a, arm)) ** 2) for a, b in pairs]
        return float(np.sqrt(np.mean(squares))) if squares else np.nan

    def retrieved(which: str) -> float:
        hits = [w.nearest == getattr(w, which) for w in after if w.nearest and getattr(w, which) in candidates]
        return float(np.mean(hits)) if hits else np.nan

    return Effect(
        name=name,
        text=given[0] if len(given) == 1 else f"{len(given)} texts",
        windows=len(pairs),
        sigma=compared("sigma"),
        base=compared("baseline"),
        sigma_change_deg=change_deg("sigma_rad"),
        base_change_deg=change_deg("base_rad"),
        sem_align=float(np.mean([w.sem_align for w in after])) if after else np.nan,
        scale=float(np.mean([w.scale for w in after])) if after else np.nan,
        retrieved_given=retrieved("given"),
        retrieved_recorded=retrieved("recorded"),
    )


def _middles(log: ReplayLog) -> dict[int, int]:
    """The middle of each epoch, on the raster of the memory's updates."""
    stride = log.run.memory_stride
    ends = {int(epoch): int(log.ticks.tick[log.ticks.epoch == epoch].max()) for epoch in np.unique(log.ticks.epoch)}
    return {epoch: (end // 2) // stride * stride for epoch, end in ends.items()}


def _retriever(runtime: "SigmaRuntime", candidates: Sequence[str]) -> Callable[[ndarray], str | None]:
    """Which candidate lies nearest to a memory that is mapped into the space of the text embeddings."""
    model = runtime.model
    telepathy = getattr(model, "telepathy", None)
    if telepathy is None:
        return lambda _memory: None
    import torch  # noqa: PLC0415 - only where a model is

    def nearest(memory: ndarray) -> str | None:
        parameter = next(telepathy.memory_to_text.parameters())
        with torch.no_grad():
            seen = telepathy.memory_to_text(torch.tensor(memory, dtype=parameter.dtype, device=parameter.device))
            cosines = torch.nn.functional.cosine_similarity(seen[None].to(torch.float64), embedded, dim=1)
        return candidates[int(cosines.argmax())] if bool(torch.isfinite(cosines).all()) else None

    with torch.no_grad():
        tokens, mask = model.read_text(list(candidates))
        flags = mask[..., None]
        total = torch.where(flags, tokens.to(torch.float64), 0.0).sum(dim=1)
        embedded = total / flags.sum(dim=1).clamp(min=1)
    return nearest
