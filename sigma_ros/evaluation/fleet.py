# SPDX-License-Identifier: Apache-2.0
"""Who does many pieces of work: this process one after the other, or Ray's workers, here or on a cluster.

Each worker loads what it needs once and takes one piece after the other. A worker that dies is replaced and its piece
given to another one; a piece on which `_MAX_DEATHS` workers died becomes a failure with that reason.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from sigma_ros.errors import MachineError, SigmaError
from sigma_ros.evaluation.batch import BagRow, BatchSpec, Unit, evaluate, failed

_POLL_S = 0.5
_MAX_START_FAILURES = 3
_MAX_DEATHS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many workers, where, and what each of them may use. `count` 0: in this process, without Ray."""

    count: int
    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work[Piece, Tool, Result]:
    """What is done with each piece; travels to the workers.

    `load` makes the tool, once per worker; `do` is a pure function of piece and tool; `failed` is the result of a piece
    on which workers died, for the reason given.
    """

    load: Callable[[], Tool]
    do: Callable[[Piece, Tool], Result]
    failed: Callable[[Piece, str], Result]


def run_units(
    units: Sequence[Unit],
    spec: BatchSpec,
    workers: Workers,
    *,
    on_row: Callable[[BagRow, Unit], None],
    stopped: Callable[[], bool],
) -> list[BagRow]:
    """Evaluates the units; rows come in the units' order whoever finished first. Fewer rows: it was stopped.

    Raises:
        MachineError: Ray is not installed, or no worker comes up.
        SigmaError: the model cannot be loaded.
    """
    work = Work(load=spec.load, do=partial(_evaluate, spec), failed=failed)
    return shared_out(units, work, workers, on_result=on_row, stopped=stopped)


def _evaluate(spec: BatchSpec, unit: Unit, runtime: Any) -> BagRow:
    return evaluate(unit, spec, runtime)


def shared_out[Piece, Tool, Result](
    pieces: Sequence[Piece],
    work: Work[Piece, Tool, Result],
    workers: Workers,
    *,
    on_result: Callable[[Result, Piece], None],
    stopped: Callable[[], bool] = lambda: False,
) -> list[Result]:
    """Results in the pieces' order whoever finished first; fewer where it was stopped. Raises as `run_units`."""
    if not pieces:
        return []
    run = _in_process if workers.count == 0 else _with_ray
    done = run(pieces, work, workers, on_result, stopped)
    return [done[i] for i in sorted(done)]


def _in_process(
    pieces: Sequence[Any],
    work: Work[Any, Any, Any],
    _workers: Workers,
    on_result: Callable[[Any, Any], None],
    stopped: Callable[[], bool],
) -> dict[int, Any]:
    worker = Worker(work)
    done: dict[int, Any] = {}
    for i, piece in enumerate(pieces):
        if stopped():
            break
        done[i] = worker.do(piece)
        on_result(done[i], piece)
    return done


class Worker:
    """Holds the tool; the same class in this process and as Ray's actor."""

    def __init__(self, work: Work[Any, Any, Any]) -> None:
        self._work = work

    @cached_property
    def tool(self) -> Any:
        """Loaded with the first piece."""
        return self._work.load()

    def start(self) -> str:
        """Loads the tool; an error comes back as text, because not every exception survives the way."""
        try:
            return "" if self.tool is not None else "it is nothing"
        except SigmaError as error:
            return str(error)

    def do(self, piece: Any) -> Any:
        """One piece."""
        return self._work.do(piece, self.tool)


def _with_ray(
    pieces: Sequence[Any],
    work: Work[Any, Any, Any],
    workers: Workers,
    on_result: Callable[[Any, Any], None],
    stopped: Callable[[], bool],
) -> dict[int, Any]:
    ray = import_ray()
    ray.init(**_where(workers), log_to_driver=False, logging_level="error")
    try:
        return _Fleet(ray, work, workers).run(pieces, on_result, stopped)
    finally:
        ray.shutdown()


def import_ray() -> Any:
    """Ray, without its calls home.

    Raises:
        MachineError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a worker without a GPU keeps its environment
    try:
        import ray  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise MachineError(
            "the Python package ray is not installed",
            expected="ray, which shares the work among workers",
            remedy='pip install "sigma_ros[fleet]"; or --workers 0 to do it in this process',
        ) from error
    return ray


def _where(workers: Workers) -> dict[str, Any]:
    if workers.address is not None:
        return {"address": workers.address}
    needed = max(1, round(workers.count * workers.cpus))
    return {"num_cpus": needed, "include_dashboard": False, "object_store_memory": 100 * 1024 * 1024}


class _Fleet:
    """Ray's actors and what each of them is working on."""

    def __init__(self, ray: Any, work: Work[Any, Any, Any], workers: Workers) -> None:
        self._ray = ray
        self._work = work
        self._there = ray.put(work)
        self._workers = workers
        self._actor = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus)(Worker)
        self._starting: dict[Any, Any] = {}
        self._working: dict[Any, tuple[Any, int]] = {}
        self._start_failures = 0
        self._deaths: Counter[int] = Counter()

    def run(
        self, pieces: Sequence[Any], on_result: Callable[[Any, Any], None], stopped: Callable[[], bool]
    ) -> dict[int, Any]:
        """Until every piece has a result, or until it is stopped; what is being worked on then is given up."""
        waiting = deque(range(len(pieces)))
        done: dict[int, Any] = {}
        for _ in range(min(self._workers.count, len(pieces))):
            self._start()
        while (waiting or self._working) and not stopped():
            ready, _ = self._ray.wait([*self._starting, *self._working], num_returns=1, timeout=_POLL_S)
            for reference in ready:
                if reference in self._starting:
                    actor = self._started(reference, self._starting.pop(reference))
                else:
                    actor, i = self._working.pop(reference)
                    actor, result = self._finished(reference, actor, i, pieces[i])
                    if result is None:
                        waiting.appendleft(i)
                    else:
                        done[i] = result
                        on_result(result, pieces[i])
                if actor is not None and waiting:
                    following = waiting.popleft()
                    self._working[actor.do.remote(pieces[following])] = (actor, following)
                elif actor is None and len(waiting) > len(self._starting):
                    self._start()
        return done

    def _start(self) -> None:
        actor = self._actor.remote(self._there)
        self._starting[actor.start.remote()] = actor

    def _finished(self, reference: Any, actor: Any, i: int, piece: Any) -> tuple[Any, Any]:
        """The worker that is free now, and the result; no worker where it died, and no result where another may try."""
        try:
            return actor, self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._deaths[i] += 1
            if self._deaths[i] < _MAX_DEATHS:
                return None, None
            return None, self._work.failed(piece, f"{_MAX_DEATHS} workers died on it: {_first_line(error)}")

    def _started(self, reference: Any, actor: Any) -> Any:
        try:
            problem = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._start_failures += 1
            if self._start_failures >= _MAX_START_FAILURES:
                raise MachineError("no worker comes up", got=_first_line(error), remedy="fewer --workers") from error
            return None
        if problem:
            raise SigmaError("a worker cannot load what it needs", got=problem)
        return actor


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
