# SPDX-License-Identifier: Apache-2.0
"""Episodes for `sigma audit`: random ones, and such in which a policy is always right."""

from collections.abc import Sequence
from dataclasses import replace

from tiny_base import TASK, frames

from sigma_ros.bags.episode import Tick
from sigma_ros.evaluation.audit.channels import listen
from sigma_ros.evaluation.log import SCORED_STEPS
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.streams.frame_clock import WindowHistory
from sigma_ros.values import Window

OTHER_TEXT = "push the blue cup to the left"
WINDOWS = 2


def episodes(runtime: SigmaRuntime, count: int) -> list[list[Tick]]:
    """Random pictures and joints; the recorded action is the pose itself."""
    made = []
    for seed in range(count):
        history = WindowHistory()
        recording = frames(WINDOWS * SCORED_STEPS, runtime.image_size_px, seed)
        windows = [history.add(frame, task=TASK) for frame in recording]
        pose = [frame.positions_rad for frame in recording]
        made.append(
            [Tick(item=w, action_rad=p, joint_rad=p, joint_samples=()) for w, p in zip(windows, pose, strict=True)]
        )
    return made


def _tick(window: Window) -> Tick:
    pose_rad = window.newest.positions_rad
    return Tick(item=window, action_rad=pose_rad, joint_rad=pose_rad, joint_samples=())


def always_right(runtime: SigmaRuntime, ticks: Sequence[Sequence[Tick]]) -> list[list[Tick]]:
    """The same episodes with what the policy proposes on them as the recorded actions."""
    made = []
    for one in ticks:
        proposed = listen(runtime, one).actions["checkpoint"]
        actions = runtime.units.denormalise_chunk(proposed.reshape(len(one), -1), ticks[0][0].joint_rad)
        made.append([replace(tick, action_rad=action) for tick, action in zip(one, actions, strict=True)])
    return made
