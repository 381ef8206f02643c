# SPDX-License-Identifier: Apache-2.0
"""The closed loop without a graph: observations from a bag, everything inside evolving as it does on the robot.

Window, memory, noise, adapter and supervisor are the live ones; only time is the recording's. An inference
takes no time here: the chunk of a tick is there at that tick, so results do not depend on the machine's speed.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigma_ros.bags.episode import Episode, Tick
from sigma_ros.bags.losses import refuse_losses
from sigma_ros.bags.reader import Bag, BagInfo, Stamps, open_bag
from sigma_ros.bags.topics import recorded_task
from sigma_ros.border import one_line
from sigma_ros.contract import Contract
from sigma_ros.errors import SigmaError
from sigma_ros.evaluation.drive import ReplayDrive
from sigma_ros.evaluation.log import BagFacts, PolicyFacts, ReplayLog, RunFacts
from sigma_ros.evaluation.precompute import NOTHING, Ready, ticks_ahead
from sigma_ros.evaluation.recorder import ReplayRecorder
from sigma_ros.evaluation.supervised import LocalSupervisor, SupervisorGrid
from sigma_ros.policy.job import Job, PassGap, Proposed, Result, Step, execute
from sigma_ros.policy.loop import PolicyLoop, PolicySettings
from sigma_ros.policy.schedule import Schedule
from sigma_ros.policy.worker import TimedWorker
from sigma_ros.values import AdapterSettings, Chunk, Telepathy, Window

if TYPE_CHECKING:
    from sigma_ros.model.runtime import SigmaRuntime
    from sigma_ros.supervisor.limits import SupervisorLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """How to replay. `supervisor_limits` None leaves the supervisor out; `task` None takes the recorded text.

    `strict` turns any loss of the recording into an error; `recover` reads a bag whose end is cut off.
    `stamps` is which time messages have (`bags.reader.open_bag`).
    `ahead` works vision and base chunks out in groups before their turn; the numbers are the same up to rounding.
    `residual_every_tick`: in a replay that takes time, as the policy node's; in lockstep it does nothing.
    `forget_from` maps an epoch to the tick from which its memory is kept empty: what is the memory worth?
    `pictures`: the log keeps small ones for a page.
    """

    settings: AdapterSettings
    schedule: Schedule
    residual_every_tick: bool = False
    supervisor_limits: "SupervisorLimits | None"
    task: str | None = None
    strict: bool = False
    recover: bool = False
    stamps: Stamps = "header"
    forget_from: Mapping[int, int] | None = None
    ahead: bool = False
    pictures: bool = True


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
    with open_bag(bag_path, strict=options.strict, recover=options.recover, stamps=options.stamps) as bag:
        ticks = Episode(bag, contract, image_size_px=runtime.image_size_px, task=options.task)
        recorder = recorder_of(bag, contract, runtime, options)
        model = _Model(runtime, options, hooks.clock_ns)
        drive = ReplayDrive(
            TimedWorker(policy_loop(contract, runtime, options, lockstep=True), model.run),
            recorder,
            local_supervisor(contract, options, recorder, hooks.clock_ns),
            inferred=hooks.inferred,
        )
        prepared = (
            ticks_ahead(ticks, runtime, lambda window: options.schedule.infers(window.tick), model.certify)
            if options.ahead
            else ((tick, NOTHING) for tick in ticks)
        )
        with closing(prepared):
            complete = _drive(drive, model, prepared, bag, hooks)
        log = recorder.finish(bag_facts(bag, ticks), complete=complete, wall_ns=hooks.clock_ns() - started_ns)
        refuse_losses(log.name, log.losses, strict=options.strict)
        return log.certified(model.certificate)


def policy_loop(contract: Contract, runtime: "SigmaRuntime", options: ReplayOptions, *, lockstep: bool) -> PolicyLoop:
    """The policy loop of a replay: in lockstep, or with the rules for a model that takes time."""
    settings = PolicySettings(
        schedule=options.schedule, adapter=options.settings, residual_every_tick=options.residual_every_tick
    )
    return PolicyLoop(contract, settings, check_units=runtime.check_units, lockstep=lockstep)


def local_supervisor(
    contract: Contract, options: ReplayOptions, recorder: ReplayRecorder, clock_ns: Callable[[], int]
) -> SupervisorGrid | None:
    """The supervisor of a replay in this process; None where the options leave it out."""
    if options.supervisor_limits is None:
        return None
    local = LocalSupervisor(contract, options.supervisor_limits, recorder, clock_ns)
    return SupervisorGrid(contract.command_period_ns, local)


def recorder_of(bag: Bag, contract: Contract, runtime: "SigmaRuntime", options: ReplayOptions) -> ReplayRecorder:
    """What a replay of a recording is written down by."""
    task = options.task if options.task is not None else recorded_task(bag, contract)
    facts = policy_facts(runtime), run_facts(task, runtime, options)
    return ReplayRecorder(contract, *facts, pictures=options.pictures)


def run_facts(task: str, runtime: "SigmaRuntime", options: ReplayOptions) -> RunFacts:
    """What a report says about how a recording of a task was replayed without a graph."""
    return RunFacts(
        mode="offline",
        task=task,
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
    from sigma_ros.model.checkpoint.inspect import statistics  # noqa: PLC0415

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
        setup=one_line(info.metadata.get("sigma.setup", ""), 40),
        stamps=bag.stamps,
    )


def _drive(drive: ReplayDrive, model: "_Model", prepared: Iterable[tuple[Tick, Ready]], bag: Bag, hooks: Hooks) -> bool:
    """Feeds every tick to the drive; False when it was stopped before the end."""
    info = bag.info
    for tick, ready in prepared:
        if hooks.stopped():
            return False
        model.ready = ready
        drive.tick(tick)
        hooks.progress(share_done(info, tick))
    drive.end()
    hooks.progress(1.0)
    if not drive.inferences:
        raise nothing_inferred(info.path, drive.reasons)
    return True


def share_done(info: BagInfo, tick: Tick) -> float:
    """How far a tick is into its recording, 0 to 1."""
    span_ns = max(1, info.end_ns - info.start_ns)
    return min(1.0, max(0.0, (tick.item.stamp_ns - info.start_ns) / span_ns))


def nothing_inferred(bag: Path, reasons: Counter[str]) -> SigmaError:
    """The error for a recording of which no tick could be used, with the commonest reasons."""
    return SigmaError(
        "no tick of the recording could be given to the policy",
        where=bag,
        got=" | ".join(f"{reason} ({n} ticks)" for reason, n in reasons.most_common(5)),
        remedy="check topics, rates and age limits in the contract against the recording",
    )


class _Model:
    """The model of a replay without a graph: with what was prepared for a tick, and without memory where asked."""

    def __init__(self, runtime: "SigmaRuntime", options: ReplayOptions, clock_ns: Callable[[], int]) -> None:
        self.ready = NOTHING
        self.certificate = "no chunk was asked for"
        self._certified = False
        self._runtime = runtime
        self._forget_from = options.forget_from or {}
        self._clock_ns = clock_ns

    def run(self, job: Job) -> Result:
        """Executes a job."""
        ready = self.ready
        if isinstance(job, Step):
            self.certify(job.window)
        prepared: dict[str, Any] = {} if ready.prepared is None else {"prepared": ready.prepared}
        outcome, state = execute(self._forgotten(job), self._runtime, clock_ns=self._clock_ns, **prepared)
        if isinstance(outcome, Proposed):
            outcome = replace(outcome, host_ns=outcome.host_ns + ready.took_ns)
        return outcome, state

    def certify(self, window: Window) -> None:
        """Certifies the model on the first window that comes here."""
        if not self._certified:
            self.certificate, self._certified = self._runtime.certify(window).line, True

    def _forgotten(self, job: Job) -> Job:
        """The job with an empty memory, where the options want it so; window and task stay."""
        if isinstance(job, PassGap) or job.state is None:
            return job
        state = job.state
        from_tick = self._forget_from.get(state.epoch)
        if from_tick is None or job.window.tick < from_tick:
            return job
        empty = self._runtime.initial_state(epoch=state.epoch, task=state.task)
        return replace(job, state=replace(state, memory=empty.memory, factors=empty.factors))
