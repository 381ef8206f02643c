# SPDX-License-Identifier: Apache-2.0
"""The policy loop, a pure state machine: ticks in, jobs out; results in, outcomes out.

    on_item(tick) -> ... -> begin() -> Job        someone executes it, in this time or another
                            on_result(result)  -> outcomes()

All rules are here: which tick plans, commits, refreshes, is scored; when an epoch's state begins;
what a slow model skips; whether the pose is in units. Time is passed in, nothing waits, nothing is
called but `check_units`.

A slow model must not change the memory: a tick that commits is never skipped, however late it is
worked on; where a newer plan waits behind it, only its memory is computed, not a chunk that would
come too late. A plan that waits is replaced by the next tick's, so that a model that comes free
works on the newest window. In lockstep every tick waits.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.errors import UsageError
from sigma_ros.policy.alarm import NO_ALARM, AlarmSettings, disagreement_of
from sigma_ros.policy.job import (
    Encode,
    Encoded,
    Failed,
    Job,
    Outcome,
    PassGap,
    Proposed,
    Refresh,
    Remember,
    Rescaled,
    Result,
    Step,
    TickRequest,
    Unused,
    gap_of,
)
from sigma_ros.policy.schedule import CROSSFADE_STEPS, STITCHING, Schedule, Stitching, left_over
from sigma_ros.risk import scale_of
from sigma_ros.values import AdapterSettings, Chunk, Gap, Window

if TYPE_CHECKING:
    from sigma_ros.model.step import RecurrentState

UnitsCheck = Callable[[Float64[ndarray, " dof"]], tuple[str, ...]]

MAX_WAITING = 3
"""With more ticks waiting a model cannot catch up; they are dropped, memory begins anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """How the policy runs; all may change while it does.

    `residual_every_tick`: between plans, while the model is free, the residual is renewed on the
    chunk in execution. `baseline_diagnostics`: commits also measure the arm without LoRA. `alarm`:
    what is done where a chunk disagrees with the one before.
    """

    schedule: Schedule
    adapter: AdapterSettings
    stitching: Stitching = STITCHING
    crossfade_steps: int = CROSSFADE_STEPS
    residual_every_tick: bool = False
    baseline_diagnostics: bool = False
    alarm: AlarmSettings = NO_ALARM


class PolicyLoop:
    """Decides for one model at a time; not thread-safe.

    Args:
        contract: The robot, for the words of a refusal.
        check_units: Why a pose [rad] cannot be in the units of the training data; asked once an
            epoch.
        lockstep: For a replay: every tick that asks for something is worked on, scored windows too,
            and settings are in force from the next chunk on, for it knows which chunks are to come.
        encodes_ahead: A free model encodes the pictures of ticks that ask for nothing, so that a plan need not.

    Raises:
        UsageError: the alarm's joint is none of the contract's.
    """

    def __init__(
        self,
        contract: Contract,
        settings: PolicySettings,
        *,
        check_units: UnitsCheck,
        lockstep: bool,
        encodes_ahead: bool = False,
    ) -> None:
        if settings.alarm.joint not in ("", *contract.joint_names):
            known = ", ".join(contract.joint_names)
            raise UsageError("the contract has no such joint to alarm by", expected=known, got=settings.alarm.joint)
        self._contract = contract
        self._settings = settings
        self._check_units = check_units
        self._lockstep = lockstep
        self._encodes_ahead = encodes_ahead
        self._unencoded: Window | None = None
        self._waiting: deque[TickRequest] = deque()
        self._busy: Job | None = None
        self._outcomes: list[Outcome] = []
        self._state: RecurrentState | None = None
        self._inherited: RecurrentState | None = None
        self._executed: Proposed | None = None
        self._planned: Chunk | None = None
        self._judged_epoch = -1
        self._refusal: tuple[str, ...] = ()
        self._session = self._chunks = self._faded_in_ns = 0
        self._only_remembered = False
        self.blocked: tuple[str, ...] = ()
        self.skipped = self.overruns = 0
        self.busy_since_ns: int | None = None

    @property
    def awaits_plan(self) -> bool:
        """Whether a tick that plans still waits to be begun: the next tick will take its place."""
        return any(request.plans for request in self._waiting)

    @property
    def state(self) -> "RecurrentState | None":
        """The recurrent state after the newest result; None before the first of an epoch."""
        return self._state

    @property
    def executed(self) -> Chunk | None:
        """The newest chunk."""
        return None if self._executed is None else self._executed.chunk

    def judge(self, item: Window | Gap) -> Window | Gap:
        """The item, or a gap that says why its epoch's first pose cannot be in units."""
        if isinstance(item, Gap):
            return item
        if item.epoch != self._judged_epoch:
            self._judged_epoch = item.epoch
            self.blocked = self._check_units(item.newest.positions_rad)
            self._refusal = (self._units_reason(),) if self.blocked else ()
        if not self._refusal:
            return item
        return gap_of(item, *self._refusal)

    def on_item(self, item: Window | Gap, now_ns: int, *, task: str = "", late_ns: int = 0) -> bool:
        """Takes the next tick; False: too much waited, all was dropped and memory begins anew.

        `now_ns` is on any one clock, as for `begin` and `on_result`, and `late_ns` later than the tick's stamp;
        `task` is the one in force at a gap (a window has its own).
        """
        item = self.judge(item)
        request = self._request(item, now_ns, task=task, late_ns=late_ns)
        self._unencoded = item if self._encodes_ahead and request is None and isinstance(item, Window) else None
        if request is None:
            return True
        if not self._lockstep:
            if self._waiting and self._waiting[-1].item.epoch != request.item.epoch:
                self._waiting.clear()
            if request.refreshes and (self._waiting or self._busy is not None):
                return True
            if request.plans:
                self._waiting = deque(replace(older, plans=False) for older in self._waiting if older.commits)
            if len(self._waiting) >= MAX_WAITING:
                self.overruns += 1
                self.restart()
                return False
        self._waiting.append(request)
        return True

    def begin(self, now_ns: int) -> Job | None:
        """What a free model does now; None: nothing waits, or the last job has no result yet."""
        while self._busy is None and self._waiting:
            self._busy = self._job(self._next(), now_ns)
            self.busy_since_ns = None if self._busy is None else now_ns
            if self._busy is not None:
                return self._busy
        if self._busy is None and self._unencoded is not None:
            self._busy, self._unencoded, self.busy_since_ns = self._encode(self._unencoded), None, now_ns
            return self._busy
        return None

    def _encode(self, window: Window) -> Encode:
        settings, session = self._settings.adapter, self._session
        request = TickRequest(
            item=window, task=window.task, settings=settings, plans=False, commits=False, session=session
        )
        return Encode(request, window, self._state_of(window, request))

    def on_result(self, result: Result) -> None:
        """Takes the result of the job that was begun; one from before a restart is forgotten."""
        (outcome, state), self._busy, self.busy_since_ns = result, None, None
        request = outcome.request
        if request.session != self._session:
            return
        if isinstance(outcome, Encoded):
            self._state = state
            return
        if isinstance(outcome, Proposed):
            chunk = self._numbered(replace(outcome.chunk, crossfade_steps=request.crossfade_steps))
            chunk = self._judged(chunk, request)
            outcome = self._executed = replace(outcome, chunk=chunk)
            if request.plans:
                self._faded_in_ns = outcome.arrival_ns + chunk.crossfade_steps * self._contract.tick_period_ns
        elif isinstance(outcome, Unused) and isinstance(request.item, Window):
            self._refusal = outcome.gap.reasons
        if isinstance(outcome, Failed) or (request.plans or request.commits or request.refreshes):
            self._state = self._state if isinstance(outcome, Unused) else state
        self._outcomes.append(outcome)

    def outcomes(self) -> list[Outcome]:
        """What has come of ticks since the last call, in order."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def restart(self, inherits: "RecurrentState | None" = None) -> None:
        """Forgets ticks, outcomes and the recurrent state, also of the job that is being worked on.

        The next epoch begins with the memory of what it `inherits`, if that has the same task.
        Chunk ids go on; in lockstep they begin at 0, as in a new process.
        """
        self._session += 1
        if self._lockstep:
            self._chunks = 0
        self._waiting.clear()
        self._outcomes.clear()
        self._unencoded = None
        self._state = self._executed = self._planned = None
        self._inherited = inherits
        self._judged_epoch = -1

    def configure(self, settings: PolicySettings) -> None:
        """Puts settings in force; live, new adapter settings send the chunk in execution again."""
        self._settings = settings
        last = self._executed
        if self._lockstep or last is None or last.chunk.settings == settings.adapter:
            return
        chunk = self._numbered(replace(last.chunk, stamp_ns=last.chunk.stamp_ns + 1))
        self._executed = replace(last, chunk=chunk)
        self._outcomes.append(Rescaled(request=last.request, chunk=chunk))

    def _request(self, item: Window | Gap, now_ns: int, *, task: str, late_ns: int) -> TickRequest | None:
        """What a tick asks for, None for nothing. A plan that still waits moves to this tick."""
        settings, live, is_window = self._settings, not self._lockstep, isinstance(item, Window)
        schedule, waits = settings.schedule, live and self.awaits_plan
        plans = self._plans(item.tick)
        self.skipped += plans and waits
        plans = plans or waits
        commits = is_window and schedule.commits(item.tick)
        scored = is_window and not live and schedule.scores(item.tick)
        refreshes = is_window and live and settings.residual_every_tick and not (plans or commits)
        if not (plans or commits or scored or refreshes):
            return None
        return TickRequest(
            item=item,
            task=item.task if isinstance(item, Window) else task,
            settings=settings.adapter,
            plans=plans,
            commits=commits,
            baseline=scored or (commits and settings.baseline_diagnostics),
            refreshes=refreshes,
            guided=live and settings.stitching == "rtc",
            crossfade_steps=settings.crossfade_steps if settings.stitching == "crossfade" else 0,
            late_ns=late_ns,
            since_ns=now_ns,
            session=self._session,
        )

    def _plans(self, tick: int) -> bool:
        """Whether a tick plans: on schedule, twice as often while an alarm lasts, never after one that stops."""
        settings, last = self._settings, self._planned
        if last is None or not last.alarmed or self._lockstep:
            return settings.schedule.plans(tick)
        if settings.alarm.action == "stop":
            return False
        sooner = settings.alarm.action == "replan" and 2 * (tick - last.tick) >= settings.schedule.replan_ticks
        return sooner or settings.schedule.plans(tick)

    def _judged(self, chunk: Chunk, request: TickRequest) -> Chunk:
        """A chunk with its disagreement; a renewed residual and a scored window have that of the plan before."""
        before = self._planned
        item = request.item
        if not request.plans or isinstance(item, Gap):
            known = {} if before is None else {"disagreement_rad": before.disagreement_rad, "alarmed": before.alarmed}
            return replace(chunk, **known)  # type: ignore[arg-type]
        apart_rad = disagreement_of(before, chunk)
        pose = dict(zip(self._contract.joint_names, item.newest.positions_rad.tolist(), strict=True))
        alarmed = self._settings.alarm.alarmed(apart_rad, pose)
        self._planned = replace(chunk, disagreement_rad=apart_rad, alarmed=alarmed)
        return self._planned

    def _next(self) -> TickRequest:
        """The oldest tick. Where commits alone fill the time, every second one plans too."""
        request = self._waiting.popleft()
        only_remembers = request.commits and not request.plans and not self._lockstep
        if only_remembers and self._only_remembered and self.awaits_plan:
            request, only_remembers = replace(request, plans=True), False
        self._only_remembered = only_remembers
        return request

    def _job(self, request: TickRequest, now_ns: int) -> Job | None:
        """The work for a tick; None where there is no chunk whose residual could be renewed."""
        request, item = replace(request, waited_ns=now_ns - request.since_ns), request.item
        if isinstance(item, Gap):
            return PassGap(request, item)
        state, last = self._state_of(item, request), self._executed
        if request.refreshes:
            if state is None or last is None or left_over(last.chunk, item, delay_ns=0) is None:
                return None
            left = round((self._faded_in_ns - item.stamp_ns) / self._contract.tick_period_ns)
            request = replace(request, crossfade_steps=max(0, min(request.crossfade_steps, left)))
            return Refresh(request, item, state, self._chunks, last.chunk)
        if request.commits and not request.plans and not self._lockstep:
            return Remember(request, item, state)
        remaining = None
        if request.guided and last is not None:
            remaining = left_over(last.chunk, item, delay_ns=last.delay_ns)
        return Step(request, item, state, self._chunks, remaining)

    def _state_of(self, window: Window, request: TickRequest) -> "RecurrentState | None":
        """The state a window goes on from, an epoch's first from what it inherits; None: empty."""
        state = self._state
        if state is not None and (state.epoch, state.task) == (window.epoch, window.task):
            return state
        if request.refreshes:
            return None
        inherited, self._inherited = self._inherited, None
        if inherited is None or inherited.task != window.task:
            return None
        return replace(inherited, epoch=window.epoch)

    def _numbered(self, chunk: Chunk) -> Chunk:
        """A chunk with the next id and, live, with the adapter's settings that are in force now."""
        chunk = replace(chunk, chunk_id=self._chunks)
        self._chunks += 1
        return chunk if self._lockstep else rescaled(chunk, self._settings.adapter)

    def _units_reason(self) -> str:
        return (
            f"units: the pose does not look like the training data: {'; '.join(self.blocked)}; check that joint states "
            f"are in radians, and policy_unit and limits in the contract {self._contract.name}"
        )


def rescaled(chunk: Chunk, settings: AdapterSettings) -> Chunk:
    """A chunk as these settings scale it; the scale of a base that is not finite stays 0."""
    if chunk.settings == settings:
        return chunk
    scale = scale_of(chunk.risk, settings) if np.isfinite(chunk.base_rad).all() else 0.0
    return replace(chunk, settings=settings, scale=scale)
