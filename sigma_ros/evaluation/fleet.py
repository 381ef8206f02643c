# SPDX-License-Identifier: Apache-2.0
"""Who runs the units: this process one after the other, or Ray's workers, here or on a cluster.

Each worker loads the model once and takes one bag after the other; a worker that dies costs its bag, which becomes a
row with that reason, and is replaced.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sigma_ros.errors import MachineError, SigmaError
from sigma_ros.evaluation.batch import BagRow, BatchSpec, Unit, evaluate, failed

if TYPE_CHECKING:
    from sigma_ros.model.runtime import SigmaRuntime

_POLL_S = 0.5
_MAX_START_FAILURES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many workers, where, and what each of them may use. `count` 0: in this process, without Ray."""

    count: int
    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0


OnRow = Callable[[BagRow, Unit], None]


def run_units(
    units: Sequence[Unit], spec: BatchSpec, workers: Workers, *, on_row: OnRow, stopped: Callable[[], bool]
) -> list[BagRow]:
    """Evaluates the units; rows come in the units' order whoever finished first. Fewer rows: it was stopped.

    Raises:
        MachineError: Ray is not installed, or no worker comes up.
        SigmaError: the model cannot be loaded.
    """
    if not units:
        return []
    done = (
        _in_process(units, spec, on_row, stopped)
        if workers.count == 0
        else _with_ray(units, spec, workers, on_row, stopped)
    )
    return [done[unit.bag] for unit in units if unit.bag in done]


def _in_process(
    units: Sequence[Unit], spec: BatchSpec, on_row: OnRow, stopped: Callable[[], bool]
) -> dict[Any, BagRow]:
    worker = Worker(spec)
    done: dict[Any, BagRow] = {}
    for unit in units:
        if stopped():
            break
        done[unit.bag] = worker.evaluate(unit)
        on_row(done[unit.bag], unit)
    return done


class Worker:
    """Holds the model; the same class in this process and as Ray's actor."""

    def __init__(self, spec: BatchSpec) -> None:
        self._spec = spec

    @cached_property
    def runtime(self) -> "SigmaRuntime":
        """Loaded with the first bag."""
        return self._spec.load()

    def start(self) -> str:
        """Loads the model; an error comes back as text, because not every exception survives the way."""
        try:
            return "" if self.runtime is not None else "no model"
        except SigmaError as error:
            return str(error)

    def evaluate(self, unit: Unit) -> BagRow:
        """One bag."""
        return evaluate(unit, self._spec, self.runtime)


def _with_ray(
    units: Sequence[Unit], spec: BatchSpec, workers: Workers, on_row: OnRow, stopped: Callable[[], bool]
) -> dict[Any, BagRow]:
    ray = import_ray()
    ray.init(**_where(workers), log_to_driver=False, logging_level="error")
    try:
        return _Fleet(ray, spec, workers).run(units, on_row, stopped)
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
            expected="ray, which shares the bags among workers",
            remedy='pip install "sigma_ros[fleet]"; or --workers 0 to evaluate in this process',
        ) from error
    return ray


def _where(workers: Workers) -> dict[str, Any]:
    if workers.address is not None:
        return {"address": workers.address}
    needed = max(1, round(workers.count * workers.cpus))
    return {"num_cpus": needed, "include_dashboard": False, "object_store_memory": 100 * 1024 * 1024}


class _Fleet:
    """Ray's actors and what each of them is working on."""

    def __init__(self, ray: Any, spec: BatchSpec, workers: Workers) -> None:
        self._ray = ray
        self._spec = ray.put(spec)
        self._workers = workers
        self._actor = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus)(Worker)
        self._starting: dict[Any, Any] = {}
        self._working: dict[Any, tuple[Any, Unit]] = {}
        self._start_failures = 0

    def run(self, units: Sequence[Unit], on_row: OnRow, stopped: Callable[[], bool]) -> dict[Any, BagRow]:
        """Until every unit has a row, or until it is stopped; what is being worked on then is given up."""
        waiting = deque(units)
        done: dict[Any, BagRow] = {}
        for _ in range(min(self._workers.count, len(units))):
            self._start()
        while (waiting or self._working) and not stopped():
            ready, _ = self._ray.wait([*self._starting, *self._working], num_returns=1, timeout=_POLL_S)
            for reference in ready:
                actor, unit, row = self._finished(reference)
                if unit is not None and row is not None:
                    done[unit.bag] = row
                    on_row(row, unit)
                if actor is not None and waiting:
                    following = waiting.popleft()
                    self._working[actor.evaluate.remote(following)] = (actor, following)
                elif actor is None and len(waiting) > len(self._starting):
                    self._start()
        return done

    def _start(self) -> None:
        actor = self._actor.remote(self._spec)
        self._starting[actor.start.remote()] = actor

    def _finished(self, reference: Any) -> tuple[Any, Unit | None, BagRow | None]:
        """The worker that is free now, and its unit and row; no worker where it died."""
        if reference in self._starting:
            return self._started(reference, self._starting.pop(reference)), None, None
        actor, unit = self._working.pop(reference)
        try:
            return actor, unit, self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return None, unit, failed(unit, f"the worker died on this bag: {_first_line(error)}")

    def _started(self, reference: Any, actor: Any) -> Any:
        try:
            problem = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._start_failures += 1
            if self._start_failures >= _MAX_START_FAILURES:
                raise MachineError("no worker comes up", got=_first_line(error), remedy="fewer --workers") from error
            return None
        if problem:
            raise SigmaError("a worker cannot load the model", got=problem)
        return actor


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
