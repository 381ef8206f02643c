# SPDX-License-Identifier: Apache-2.0
"""The policy node's inside, without ROS: streams -> frame clock -> jobs for the inference thread.

Everything here runs on one thread and never waits; only `InferenceWorker` has a thread of its own.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.control.freeze import FreezeWatch
from sigma_ros.control.images import ImageMessage
from sigma_ros.control.observation import FrameClock, StreamCounters
from sigma_ros.control.schedule import Schedule
from sigma_ros.control.units import units_gap
from sigma_ros.evaluation.replay_log import SCORE_STRIDE_TICKS
from sigma_ros.nodes.node_options import PolicyOptions
from sigma_ros.nodes.policy_job import Job, Outcome, Runtime
from sigma_ros.nodes.policy_worker import InferenceWorker
from sigma_ros.values import Gap, Window

UnitsCheck = Callable[[Float64[ndarray, " dof"]], tuple[str, ...]]


class PolicySession:
    """One activation of the policy: from the first message to deactivation.

    Args:
        contract: The robot.
        runtime: The loaded model; used by the inference thread alone.
        image_size_px: Side of the model's square images.
        memory_stride: Ticks between two commits of the recurrent memory, as trained.
        options: Parameters at the start; `options` may be set at any time.
        check_units: Judges an epoch's first pose [rad]; reasons block inference until the next epoch.
        on_tick: Told every tick that was consumed, before anything comes of it.
        wake: Called from the inference thread when `outcomes` has something.
    """

    def __init__(
        self,
        contract: Contract,
        runtime: Runtime,
        *,
        image_size_px: int,
        memory_stride: int,
        options: PolicyOptions,
        check_units: UnitsCheck,
        on_tick: Callable[[Window | Gap], None],
        wake: Callable[[], None],
    ) -> None:
        self._contract = contract
        self._image_size_px = image_size_px
        self._memory_stride = memory_stride
        self._check_units = check_units
        self._on_tick = on_tick
        self._lockstep = options.lockstep
        self._clock = FrameClock(contract, image_size_px=image_size_px)
        self._worker = InferenceWorker(runtime, lockstep=self._lockstep, wake=wake)
        self._freezes = {camera.name: FreezeWatch() for camera in contract.cameras}
        self._judged_epoch = -1
        self._valid = False
        self._skipped = 0
        self.blocked: tuple[str, ...] = ()
        self.paused = False
        self.clock_stands = False
        self.overruns = 0
        self._options = options
        self.set_task(options.task)

    @property
    def options(self) -> PolicyOptions:
        """The parameters in force."""
        return self._options

    @options.setter
    def options(self, options: PolicyOptions) -> None:
        self._options = options
        self._worker.rescale(options.settings)

    @property
    def healthy(self) -> bool:
        """Whether chunks can be expected: not paused, units fit, time goes on, the newest tick was a window.

        With `frozen_camera` = hold also: no camera stands still.
        """
        stands_still = self.clock_stands or (self.options.frozen_camera == "hold" and bool(self.frozen))
        return self._valid and not self.paused and not self.blocked and not stands_still

    @property
    def task(self) -> str:
        """The task text in force."""
        return self._clock.task

    @property
    def epoch(self) -> int:
        """The epoch of the coming tick."""
        return self._clock.epoch

    @property
    def counters(self) -> StreamCounters:
        """What the frame clock received and made of it."""
        return self._clock.counters

    @property
    def missing(self) -> tuple[str, ...]:
        """Streams the first tick still waits for."""
        return self._clock.missing

    @property
    def skipped(self) -> int:
        """Planning ticks that came while the one before still waited."""
        return self._skipped

    @property
    def busy_ns(self) -> int:
        """How long the inference in progress has taken so far."""
        return self._worker.busy_ns()

    @property
    def frozen(self) -> tuple[str, ...]:
        """Cameras that send the same picture again and again."""
        return tuple(name for name, watch in self._freezes.items() if watch.is_frozen)

    def push_image(self, camera: str, stamp_ns: int, image: ImageMessage) -> None:
        """Stores an image."""
        self._freezes[camera].note(image)
        self._clock.push_image(camera, stamp_ns, image)

    def push_joints(self, stamp_ns: int, names: tuple[str, ...], positions_rad: np.ndarray) -> None:
        """Stores joint positions."""
        self._clock.push_joints(stamp_ns, names, positions_rad)

    def set_task(self, task: str) -> None:
        """Sets the task; an empty text means the contract's first. A new text starts a new epoch."""
        self._clock.set_task(task.strip() or self._contract.tasks[0])

    def reset(self) -> None:
        """Clears window and memory: a new epoch. In lockstep all begins anew, epochs from 0, as in a new process."""
        if self._lockstep:
            task = self._clock.task
            self._clock = FrameClock(self._contract, image_size_px=self._image_size_px)
            self._clock.set_task(task)
        else:
            self._clock.reset()
        self._judged_epoch = -1
        self._worker.restart()

    def save(self, path: Path) -> int:
        """Writes the memory; returns how many commits are in it. Raises SigmaError where it cannot."""
        return self._worker.save(path)

    def restore(self, path: Path) -> int:
        """Begins a new epoch with a saved memory; returns how many commits are in it. Raises SigmaError as above."""
        state = self._worker.read(path, task=self.task)
        self.reset()
        self._worker.inherit(state)
        return state.commits

    def pause(self) -> None:
        """Ticks go on, inference does not."""
        self.paused = True

    def resume(self) -> None:
        """Inference goes on, in a new epoch: the memory missed ticks."""
        if self.paused:
            self.paused = False
            self.reset()

    def advance(self, now_ns: int | None) -> None:
        """Consumes the ticks that are complete at `now_ns`; None: by messages alone."""
        while self._clock.ready(now_ns):
            item = self._clock.next_tick()
            self._valid = isinstance(item, Window)
            self._on_tick(item)
            if not self.paused:
                self._consume(item, late_ns=0 if now_ns is None else max(0, now_ns - item.stamp_ns))

    def outcomes(self) -> list[Outcome]:
        """What the inference thread has finished since the last call."""
        return self._worker.outcomes()

    def close(self, timeout_s: float) -> bool:
        """Ends the inference thread; False when it hangs."""
        return self._worker.close(timeout_s)

    def _consume(self, item: Window | Gap, *, late_ns: int) -> None:
        job = self._job(self._judged(item), late_ns=late_ns)
        if job is not None and not self._worker.submit(job):
            self.overruns += 1
            self.reset()

    def _job(self, item: Window | Gap, *, late_ns: int) -> Job | None:
        """What a tick asks of the inference thread, None for nothing. A plan that still waits moves to this tick."""
        options, live = self.options, not self._lockstep
        schedule = Schedule(options.replan_ticks, self._memory_stride)
        waits = live and self._worker.awaits_plan
        plans = schedule.plans(item.tick)
        self._skipped += plans and waits
        plans = plans or waits
        commits = schedule.commits(item.tick) and isinstance(item, Window)
        scored = self._lockstep and item.tick % SCORE_STRIDE_TICKS == 0 and isinstance(item, Window)
        refreshes = live and options.residual_every_tick and isinstance(item, Window) and not (plans or commits)
        if not (plans or commits or scored or refreshes):
            return None
        return Job(
            item=item,
            task=self.task,
            settings=options.settings,
            plans=plans,
            commits=commits,
            baseline=scored or (commits and options.baseline_diagnostics),
            refreshes=refreshes,
            guided=live and options.stitching == "rtc",
            crossfade_steps=options.crossfade_steps if live and options.stitching == "crossfade" else 0,
            late_ns=late_ns,
        )

    def _judged(self, item: Window | Gap) -> Window | Gap:
        """The item, or a gap that says why the units cannot be right."""
        if isinstance(item, Window) and item.epoch != self._judged_epoch:
            self._judged_epoch = item.epoch
            self.blocked = self._check_units(item.newest.positions_rad)
        return units_gap(item, self.blocked, self._contract) if self.blocked and isinstance(item, Window) else item
