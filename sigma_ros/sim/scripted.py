# SPDX-License-Identifier: Apache-2.0
"""The scripted expert in a model's place: its chunks are known to be good, so what fails is not the policy."""

from dataclasses import dataclass

import numpy as np

from sigma_ros.risk import assess
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.expert import Expert
from sigma_ros.sim.motion import JointPath
from sigma_ros.values import NS_PER_S, AdapterSettings, Chunk, LeftOver, Window

HORIZON = 50


@dataclass(frozen=True, slots=True)
class ScriptedInference:
    """What a step gives, as `model.runtime.Inference`."""

    chunk: Chunk
    telepathy: None


class ScriptedRuntime:
    """Steps along the expert's path, with no residual; the path is planned at the first step of an episode.

    Args:
        arm: Just reset; the path begins where it stands.
        seed: Of the expert's habits.
    """

    image_size_px = None
    memory_stride = 16

    def __init__(self, arm: SimArm, seed: int) -> None:
        self._contract = arm.contract
        self._path: JointPath = Expert(arm).plan(seed)

    def initial_state(self, *, epoch: int, task: str) -> None:
        """The expert remembers nothing."""

    def remember(self, _window: Window, _state: None) -> tuple[None, None]:
        """Nothing to commit."""
        return None, None

    def step(
        self,
        window: Window,
        _state: None,
        *,
        commit: bool,
        settings: AdapterSettings,
        chunk_id: int,
        baseline_diagnostics: bool = False,
        left_over: LeftOver | None = None,
    ) -> tuple[ScriptedInference, None]:
        """The path from this tick on."""
        times_s = [self._contract.tick_offset_ns(window.tick + i) / NS_PER_S for i in range(HORIZON)]
        base = np.array([self._path.at(time_s) for time_s in times_s])
        chunk = Chunk(
            chunk_id=chunk_id,
            epoch=window.epoch,
            tick=window.tick,
            stamp_ns=window.stamp_ns,
            joint_names=self._contract.joint_names,
            step_period_ns=self._contract.tick_period_ns,
            base_rad=base,
            residual_rad=np.zeros_like(base),
            scale=0.0,
            risk=assess(residual_ratio=0.0, factor_ratio=1.0, alignment=1.0),
            settings=settings,
            tau_l2=0.0,
            sem_align=0.0,
            observation_age_ns=0,
            inference_ns=0,
            checkpoint_hash="expert",
        )
        return ScriptedInference(chunk, None), None
