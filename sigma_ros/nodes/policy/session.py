# SPDX-License-Identifier: Apache-2.0
"""The policy node's inside, without ROS: streams -> frame clock -> policy loop on its inference thread.

Everything here runs on one thread and never waits.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sigma_ros.contract import Contract
from sigma_ros.errors import SigmaError
from sigma_ros.nodes.policy.options import PolicyOptions
from sigma_ros.policy.alarm import AlarmAction, AlarmSettings
from sigma_ros.policy.job import Runtime
from sigma_ros.policy.loop import PolicyLoop, PolicySettings
from sigma_ros.policy.remote import RemoteRuntime
from sigma_ros.policy.schedule import Schedule, Stitching
from sigma_ros.policy.worker import InferenceThread
from sigma_ros.streams.frame_clock import FrameClock
from sigma_ros.streams.images import ImageMessage, black_square
from sigma_ros.streams.quality import FreezeWatch
from sigma_ros.values import Gap, Window

if TYPE_CHECKING:
    from sigma_ros.model.step import RecurrentState


class PolicySession:
    """One activation of the policy: from the first message to deactivation.

    `clock` takes joints and gives epoch, task and counters; `thread` gives outcomes and decides by its `loop`.

    Args:
        runtime: The loaded model; used by the inference thread alone.
        image_size_px: Side of the model's square images.
        memory_stride: Ticks between two commits of the recurrent memory, as trained.
        options: Parameters at the start; `options` may be set at any time.
        on_tick: Told every tick that was consumed, before anything comes of it.
        wake: Called from the inference thread when `thread.outcomes()` has something.
    """

    def __init__(
        self,
        contract: Contract,
        runtime: Runtime,
        *,
        image_size_px: int,
        memory_stride: int,
        options: PolicyOptions,
        on_tick: Callable[[Window | Gap], None],
        wake: Callable[[], None],
    ) -> None:
        self._contract = contract
        self._runtime = runtime
        self._image_size_px = image_size_px
        self._memory_stride = memory_stride
        self._on_tick = on_tick
        self._lockstep = options.lockstep
        self._options = options
        self._freezes = {camera.name: FreezeWatch() for camera in contract.cameras}
        self._valid = False
        self._square = runtime.square if isinstance(runtime, RemoteRuntime) else black_square
        self.clock = self._new_clock()
        loop = PolicyLoop(
            contract,
            policy_settings(options, memory_stride),
            check_units=runtime.check_units,
            lockstep=options.lockstep,
            encodes_ahead=True,
        )
        self.thread = InferenceThread(loop, runtime, wake=wake, certifies=True)
        self._mended = 0
        self.paused = False
        self.clock_stands = False
        self.set_task(options.task)

    @property
    def options(self) -> PolicyOptions:
        """The parameters in force."""
        return self._options

    @options.setter
    def options(self, options: PolicyOptions) -> None:
        self._options = options
        self.thread.configure(policy_settings(options, self._memory_stride))

    @property
    def healthy(self) -> bool:
        """Whether chunks can be expected: not paused, units fit, time goes on, the newest tick was a window.

        With `frozen_camera` = hold also: no camera stands still.
        """
        stands_still = self.clock_stands or (self.options.frozen_camera == "hold" and bool(self.frozen))
        able = self._valid and not self.paused and not self.thread.loop.blocked and not self.thread.problem
        return able and not stands_still

    @property
    def frozen(self) -> tuple[str, ...]:
        """Cameras that send the same picture again and again."""
        return tuple(name for name, watch in self._freezes.items() if watch.is_frozen)

    def push_image(self, camera: str, stamp_ns: int, image: ImageMessage) -> None:
        """Stores an image."""
        self._freezes[camera].note(image.data)
        self.clock.push_image(camera, stamp_ns, image)

    def set_task(self, task: str) -> None:
        """Sets the task; an empty text means the contract's first. A new text starts a new epoch."""
        self.clock.set_task(task.strip() or self._contract.tasks[0])

    def reset(self, inherits: "RecurrentState | None" = None) -> None:
        """Clears window and memory: a new epoch. In lockstep all begins anew, epochs from 0, as in a new process."""
        if self._lockstep:
            task = self.clock.task
            self.clock = self._new_clock()
            self.clock.set_task(task)
        else:
            self.clock.reset()
        self.thread.restart(inherits)

    def _new_clock(self) -> FrameClock:
        return FrameClock(
            self._contract, image_size_px=self._image_size_px, square=self._square, recorded=self._lockstep
        )

    def save(self, path: Path) -> int:
        """Writes the memory to a file; returns how many commits are in it.

        Raises:
            SigmaError: there is none yet, or the disk refuses.
        """
        state = self.thread.loop.state
        if state is None:
            raise SigmaError("there is no memory to save yet", remedy="wait for the first chunk")
        try:
            self._runtime.save(state, path)
        except OSError as error:
            raise SigmaError("the memory cannot be written", where=path, got=error) from error
        return state.commits

    def restore(self, path: Path) -> int:
        """Begins a new epoch with a saved memory; returns how many commits are in it.

        Raises:
            SigmaError: the file cannot be used with this model and task.
        """
        fresh = self._runtime.initial_state(epoch=0, task=self.clock.task)
        state = self._runtime.restore(path, fresh)
        self.reset(state)
        return state.commits

    def pause(self) -> None:
        """Ticks go on, inference does not."""
        self.paused = True

    def resume(self) -> None:
        """Inference goes on, in a new epoch: the memory missed ticks."""
        if self.paused:
            self.paused = False
            self.reset()

    def recover(self) -> bool:
        """After the inference process was started again: a new epoch with the memory of before; else False."""
        if self.thread.mended == self._mended:
            return False
        self._mended = self.thread.mended
        self.reset(self.thread.loop.state)
        return True

    def advance(self, now_ns: int | None) -> None:
        """Consumes the ticks that are complete at `now_ns`; None: by messages alone."""
        while self.clock.ready(now_ns):
            item = self.clock.next_tick()
            self._valid = isinstance(item, Window)
            self._on_tick(item)
            late_ns = 0 if now_ns is None else max(0, now_ns - item.stamp_ns)
            if self.paused or self.thread.problem:
                continue
            if not self.thread.on_item(item, task=self.clock.task, late_ns=late_ns):
                self.reset()


def policy_settings(options: PolicyOptions, memory_stride: int) -> PolicySettings:
    """What of the node's parameters the policy loop knows."""
    return PolicySettings(
        schedule=Schedule(options.replan_ticks, memory_stride),
        adapter=options.settings,
        stitching=cast("Stitching", options.stitching),
        crossfade_steps=options.crossfade_steps,
        residual_every_tick=options.residual_every_tick,
        baseline_diagnostics=options.baseline_diagnostics,
        alarm=AlarmSettings(
            threshold_rad=options.alarm_threshold_rad,
            joint=options.alarm_joint,
            below_rad=options.alarm_below_rad,
            action=cast("AlarmAction", options.on_alarm),
        ),
    )
