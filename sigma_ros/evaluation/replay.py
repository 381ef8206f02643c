# SPDX-License-Identifier: Apache-2.0
"""The closed loop without a graph: observations from a bag, everything inside evolving as it does on the robot.

Window, memory, noise, adapter and supervisor are the live ones; only time is the recording's. An inference
takes no time here: the chunk of a tick is there at that tick, so results do not depend on the machine's speed.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigma_ros.bags.episode import Episode, Tick, recorded_task
from sigma_ros.bags.losses import refuse_losses
from sigma_ros.bags.reader import Bag, open_bag
from sigma_ros.contract import Contract
from sigma_ros.control.schedule import Schedule
from sigma_ros.control.units import units_gap
from sigma_ros.errors import SigmaError
from sigma_ros.evaluation.lookahead import NOTHING, Ready, ticks_ahead
from sigma_ros.evaluation.recorder import ReplayRecorder
from sigma_ros.evaluation.replay_log import SCORE_STRIDE_TICKS, BagFacts, PolicyFacts, ReplayLog, RunFacts
from sigma_ros.evaluation.supervised import BagTimeSupervisor
from sigma_ros.values import AdapterSettings, Chunk, Gap, Telepathy, Window

if TYPE_CHECKING:
    from sigma_ros.control.limits import SupervisorLimits
    from sigma_ros.model.runtime import SigmaRuntime
    from sigma_ros.model.state import RecurrentState


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """How to replay. `supervisor_limits` None leaves the supervisor out; `task` None takes the recorded text.

    `strict` turns any loss of the recording into an error; `recover` reads a bag whose end is cut off.
    `ahead` works vision and base chunks out in groups before their turn; the numbers are the same up to rounding.
    `forget_from` maps an epoch to the tick from which its memory is kept empty: what is the memory worth?
    """

    settings: AdapterSettings
    schedule: Schedule
    supervisor_limits: "SupervisorLimits | None"
    task: str | None = None
    strict: bool = False
    recover: bool = False
    forget_from: Mapping[int, int] | None = None
    ahead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the outside gives a replay: a clock to measure with, a wish to stop, an ear for progress (0 to 1).

    `inferred` hears every inference, with what the log does not keep.
    """

    clock_ns: Callable[[], int] = time.perf_counter_ns
    stopped: Callable[[], bool] = lambda: False
    progress: Callable[[float], None] = lambda _: None
    inferred: Callable[[Chunk, Telepathy], None] = lambda *_: None


def replay(
    bag_path: str | Path,
    *,
    contract: Contract,
    runtime: "SigmaRuntime",
    options: ReplayOptions,
    hooks: Hooks | None = None,
) -> ReplayLog:
    """Replays one recording; when `hooks.stopped` says so, the log is what there is by then, marked incomplete.

    Raises:
        BagError: the bag cannot be read, or has losses in strict mode.
        ContractError: the bag does not hold what the contract needs.
        SigmaError: not one tick could be given to the policy; the reasons are listed.
    """
    hooks = hooks or Hooks()
    started_ns = hooks.clock_ns()
    with open_bag(bag_path, strict=options.strict, recover=options.recover) as bag:
        ticks = Episode(bag, contract, image_size_px=runtime.image_size_px, task=options.task)
        run = run_facts(bag, contract, runtime, options)
        loop = _Loop(contract, runtime, options, ReplayRecorder(contract, policy_facts(runtime), run), hooks)
        complete = _drive(loop, ticks, bag, hooks)
        facts = bag_facts(bag, ticks)
        log = loop.recorder.finish(facts, complete=complete, wall_ns=hooks.clock_ns() - started_ns)
        refuse_losses(log.name, log.losses, strict=options.strict)
        return log


def run_facts(bag: Bag, contract: Contract, runtime: "SigmaRuntime", options: ReplayOptions) -> RunFacts:
    """What a report says about how a recording was replayed without a graph."""
    return RunFacts(
        mode="offline",
        task=options.task if options.task is not None else recorded_task(bag, contract),
        settings=options.settings,
        replan_ticks=options.schedule.replan_ticks,
        memory_stride=options.schedule.memory_stride,
        seed=runtime.seed,
        supervised=options.supervisor_limits is not None,
    )


def policy_facts(runtime: "SigmaRuntime") -> PolicyFacts:
    """What a report says about a loaded checkpoint, and its map from radians to normalised actions."""
    info = runtime.info
    dof = runtime.contract.dof
    zero, one = (runtime.normalise_actions(np.full((1, dof), value))[0] for value in (0.0, 1.0))
    return PolicyFacts(
        checkpoint_hash=info.hash,
        trained=info.trained,
        sigma_trained=info.sigma_trained,
        base_id=Path(info.base.source).name if Path(info.base.source).exists() else info.base.source,
        action_scale=one - zero,
        action_offset=zero,
        details={
            "base_parameters": info.base.parameters,
            "sigma_parameters": info.sigma_parameters,
            "heads": heads_of(runtime),
            "dtype": info.base.dtype,
            "device": info.base.device,
        },
    )


def heads_of(runtime: "SigmaRuntime") -> dict[str, float]:
    """The model card's CHECK A: number of the heads' tensors, and mean, deviation and rms of all their numbers."""
    heads = runtime.model.heads()
    if not heads:
        return {"tensors": 0}
    from sigma_ros.model.inspect import statistics  # noqa: PLC0415 - torch, only where a model is

    found = statistics(heads.values())
    return {"tensors": found.tensors, "mean": found.mean, "std": found.std, "rms": found.rms}


def bag_facts(bag: Bag, ticks: Episode) -> BagFacts:
    """What a report says about a recording that was read, with everything that was lost in reading it."""
    info = bag.info
    return BagFacts(
        name=info.path.name,
        sha256=info.sha256(),
        storage=info.storage,
        duration_s=info.duration_s,
        messages=info.messages,
        checksummed=info.checksummed,
        losses=ticks.losses,
    )


def _drive(loop: "_Loop", ticks: Episode, bag: Bag, hooks: Hooks) -> bool:
    """Feeds every tick to the loop; False when it was stopped before the end."""
    info = bag.info
    span_ns = max(1, info.end_ns - info.start_ns)
    with closing(loop.ahead(ticks)) as prepared:
        for tick, ready in prepared:
            if hooks.stopped():
                return False
            loop.tick(tick, ready)
            hooks.progress(min(1.0, max(0.0, (tick.item.stamp_ns - info.start_ns) / span_ns)))
    loop.end()
    hooks.progress(1.0)
    if not loop.inferences:
        raise nothing_inferred(info.path, loop.reasons)
    return True


def nothing_inferred(bag: Path, reasons: Counter[str]) -> SigmaError:
    """The error for a recording of which no tick could be used, with the commonest reasons."""
    return SigmaError(
        "no tick of the recording could be given to the policy",
        where=bag,
        got=" | ".join(f"{reason} ({n} ticks)" for reason, n in reasons.most_common(5)),
        remedy="check topics, rates and age limits in the contract against the recording",
    )


class _Loop:
    """Policy and supervisor of one recording, advanced tick by tick."""

    def __init__(
        self,
        contract: Contract,
        runtime: "SigmaRuntime",
        options: ReplayOptions,
        recorder: ReplayRecorder,
        hooks: Hooks,
    ) -> None:
        self.recorder = recorder
        self.inferences = 0
        self.reasons: Counter[str] = Counter()
        self._contract = contract
        self._runtime = runtime
        self._options = options
        self._hooks = hooks
        self._clock_ns = hooks.clock_ns
        self._state: RecurrentState | None = None
        self._judged_epoch = -1
        self._problems: tuple[str, ...] = ()
        self._supervisor: BagTimeSupervisor | None = None
        if options.supervisor_limits is not None:
            self._supervisor = BagTimeSupervisor(contract, options.supervisor_limits, recorder, hooks.clock_ns)

    def ahead(self, ticks: Episode) -> Generator[tuple[Tick, Ready]]:
        """The ticks, with what can be worked out before their turn if the options want that."""
        if not self._options.ahead:
            return ((tick, NOTHING) for tick in ticks)
        return ticks_ahead(ticks, self._runtime, self._is_due)

    def _is_due(self, window: Window) -> bool:
        schedule = self._options.schedule
        scored = window.tick % SCORE_STRIDE_TICKS == 0
        return scored or schedule.plans(window.tick) or schedule.commits(window.tick)

    def tick(self, tick: Tick, ready: Ready) -> None:
        """One tick: the supervisor catches up to it, then the policy sees it."""
        item = self._judged(tick.item)
        self.recorder.tick(item, tick.action_rad)
        if self._supervisor is not None:
            self._supervisor.advance(item.stamp_ns, tick.joint_samples)
        if isinstance(item, Gap):
            self.reasons.update(item.reasons)
            return
        chunk = self._inferred(item, ready)
        if chunk is not None and self._supervisor is not None:
            self._supervisor.on_chunk(chunk)

    def end(self) -> None:
        """The supervisor's ticks up to and including the last tick's stamp."""
        if self._supervisor is not None:
            self._supervisor.end()

    def _judged(self, item: Window | Gap) -> Window | Gap:
        """As the policy node does: an epoch whose first pose is in foreign units gives gaps."""
        if isinstance(item, Gap):
            return item
        if item.epoch != self._judged_epoch:
            self._judged_epoch = item.epoch
            self._problems = self._runtime.check_units(item.newest.positions_rad)
        return units_gap(item, self._problems, self._contract) if self._problems else item

    def _inferred(self, window: Window, ready: Ready) -> Chunk | None:
        """Infers where a chunk is due, the memory commits, or the window is scored; returns a chunk that is due."""
        schedule = self._options.schedule
        plans, commits = schedule.plans(window.tick), schedule.commits(window.tick)
        scored = window.tick % SCORE_STRIDE_TICKS == 0
        if not self._is_due(window):
            return None
        state = self._state
        if state is None or (state.epoch, state.task) != (window.epoch, window.task):
            state = self._runtime.initial_state(epoch=window.epoch, task=window.task)
        state = self._forgotten(state, window.tick)
        prepared: dict[str, Any] = {} if ready.prepared is None else {"prepared": ready.prepared}
        started_ns = self._clock_ns()
        inference, advanced = self._runtime.step(
            window,
            state,
            commit=commits,
            settings=self._options.settings,
            chunk_id=self.inferences,
            baseline_diagnostics=scored,
            **prepared,
        )
        host_ns = self._clock_ns() - started_ns + ready.took_ns
        self._state = advanced if plans or commits else state
        self.inferences += 1
        self.recorder.inference(inference.chunk, inference.telepathy, published=plans, host_ns=host_ns)
        self._hooks.inferred(inference.chunk, inference.telepathy)
        return inference.chunk if plans else None

    def _forgotten(self, state: "RecurrentState", tick: int) -> "RecurrentState":
        """The state with an empty memory, where the options want it so; window and task stay."""
        from_tick = (self._options.forget_from or {}).get(state.epoch)
        if from_tick is None or tick < from_tick:
            return state
        empty = self._runtime.initial_state(epoch=state.epoch, task=state.task)
        return replace(state, memory=empty.memory, factors=empty.factors)
