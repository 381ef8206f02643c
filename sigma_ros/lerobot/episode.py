# SPDX-License-Identifier: Apache-2.0
"""One environment's side of a LeRobot rollout: its window, its memory, the chunk in execution.

The rules are `PolicyLoop`'s, as on the robot; a LeRobot observation is one tick, and an inference takes no time.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Float64, UInt8
from numpy import ndarray

from sigma_ros.errors import SigmaError
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.policy.job import Proposed, Unused, execute
from sigma_ros.policy.loop import PolicyLoop, PolicySettings
from sigma_ros.policy.schedule import Schedule
from sigma_ros.policy.worker import TimedWorker
from sigma_ros.streams.frame_clock import WindowHistory
from sigma_ros.values import NS_PER_S, WINDOW_TICKS, Chunk, Frame

_START_NS = NS_PER_S
"""A stamp of zero is refused everywhere."""

_NEVER = 2**31
"""Plans at tick 0 alone."""


class RowEpisode:
    """From a reset to the next. Epoch 0 always: an episode's chunks depend on what it saw and nothing else."""

    def __init__(self, runtime: SigmaRuntime, settings: PolicySettings) -> None:
        self._contract = runtime.contract
        self._settings = settings
        self._loop = PolicyLoop(runtime.contract, settings, check_units=runtime.check_units, lockstep=False)
        self._worker = TimedWorker(self._loop, partial(execute, runtime=runtime))
        self._history = WindowHistory()
        self._tick = -1
        self._chunk: Chunk | None = None

    def observe(
        self,
        images: Mapping[str, UInt8[ndarray, "size size 3"]],
        positions_rad: Float64[ndarray, " dof"],
        *,
        task: str,
        plan: bool | None = None,
    ) -> None:
        """The next tick.

        Args:
            images: Letterboxed picture of each of the contract's cameras.
            positions_rad: Joints in contract order.
            task: In words; another one begins a new memory.
            plan: Whether to plan at this tick; None: if it is its turn.

        Raises:
            SigmaError: the pose cannot be in the contract's units.
        """
        self._tick += 1
        schedule = self._settings.schedule
        due = schedule if plan is None else replace(schedule, replan_ticks=1 if plan else _NEVER)
        self._loop.configure(replace(self._settings, schedule=due))
        stamp_ns = _START_NS + self._contract.tick_offset_ns(self._tick)
        frame = Frame(
            epoch=0,
            tick=self._tick,
            stamp_ns=stamp_ns,
            images=images,
            positions_rad=positions_rad,
            image_age_ns=dict.fromkeys(images, 0),
            joint_age_ns=0,
        )
        self._worker.on_item(self._history.add(frame, task=task))
        for outcome in self._worker.outcomes(stamp_ns):
            if isinstance(outcome, Unused):
                raise SigmaError("the policy refuses the observation", got="; ".join(outcome.gap.reasons))
            if isinstance(outcome, Proposed):
                self._chunk = outcome.chunk

    def pass_ticks(self, count: int) -> None:
        """Ticks of which there is no observation: masked in the windows that contain them."""
        self._tick += count
        for _ in range(min(count, WINDOW_TICKS)):
            self._history.add_gap()

    def actions_rad(self) -> Float64[ndarray, "steps dof"]:
        """What is left of the newest chunk, `base + scale * residual`, from this tick on."""
        chunk = self._chunk
        assert chunk is not None  # tick 0 plans
        return chunk.blended_rad(chunk.scale)[self._tick - chunk.tick :]


def schedule_of(n_action_steps: int, runtime: SigmaRuntime) -> Schedule:
    """A chunk every `n_action_steps`, a commit at the stride that the memory was trained with.

    Raises:
        SigmaError: a chunk is shorter than that.
    """
    if not 1 <= n_action_steps <= runtime.horizon:
        raise SigmaError(
            "n_action_steps does not fit the policy's chunk", expected=f"1 to {runtime.horizon}", got=n_action_steps
        )
    return Schedule(n_action_steps, runtime.memory_stride)


def finite(values: ndarray, what: str) -> ndarray:
    """The values.

    Raises:
        SigmaError: one is not finite.
    """
    if not np.isfinite(values).all():
        raise SigmaError(f"{what} is not finite", remedy="look at the robot or environment that gave it")
    return values
