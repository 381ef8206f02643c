# SPDX-License-Identifier: Apache-2.0
"""The package's own messages <-> values, at the border and nowhere else.

Wrong shapes are refused here; wrong numbers (NaN, out of range) are the supervisor's to judge.
"""

import array
import math

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from sigma_ros.errors import SigmaError
from sigma_ros.msg import ActionChunk, TelepathyState
from sigma_ros.nodes.shared.sensor_messages import doubles, stamp_ns, to_duration, to_time
from sigma_ros.supervisor.identity import Author
from sigma_ros.values import AdapterSettings, Chunk, Gap, Risk, Telepathy

_CHUNK_FLOATS = ("scale", "tau_l2", "sem_align", "trained_delay_s", "disagreement_rad")
_TELEPATHY_FLOATS = ("tau_l2", "sem_align", "baseline_tau_l2", "baseline_sem_align")
_SETTINGS = ("min_scale", "max_scale", "risk_temperature")
_RISK = {
    "residual_ratio": "residual_ratio",
    "factor_ratio": "factor_ratio",
    "alignment": "alignment",
    "residual_term": "residual_risk",
    "factor_term": "factor_risk",
    "alignment_term": "alignment_risk",
}


def chunk_trajectory(chunk: Chunk) -> JointTrajectory:
    """A chunk for viewers: base and residual blended with the chunk's own scale, from its stamp on, one point a step.

    What the supervisor makes of it is in `SupervisorState.command`.
    """
    points = [
        JointTrajectoryPoint(positions=doubles(row), time_from_start=to_duration(i * chunk.step_period_ns))
        for i, row in enumerate(chunk.blended_rad(chunk.scale))
    ]
    return JointTrajectory(
        header=Header(stamp=to_time(chunk.stamp_ns)), joint_names=list(chunk.joint_names), points=points
    )


def chunk_message(chunk: Chunk, author: Author) -> ActionChunk:
    """A chunk as the policy publishes it."""
    return ActionChunk(
        robot_name=author.robot,
        policy_instance=author.instance,
        header=Header(stamp=to_time(chunk.stamp_ns)),
        chunk_id=chunk.chunk_id,
        epoch=chunk.epoch,
        tick=chunk.tick,
        joint_names=list(chunk.joint_names),
        step_period=to_duration(chunk.step_period_ns),
        horizon=chunk.horizon,
        base_positions=doubles(chunk.base_rad),
        residual_positions=doubles(chunk.residual_rad),
        observation_age=to_duration(chunk.observation_age_ns),
        inference_time=to_duration(chunk.inference_ns),
        checkpoint_hash=chunk.checkpoint_hash,
        crossfade_steps=chunk.crossfade_steps,
        alarmed=chunk.alarmed,
        **{name: float(getattr(chunk, name)) for name in _CHUNK_FLOATS},
        **{name: float(getattr(chunk.settings, name)) for name in _SETTINGS},
        **{theirs: float(getattr(chunk.risk, ours)) for ours, theirs in _RISK.items()},
    )


def chunk_value(message: ActionChunk) -> Chunk:
    """A chunk as the supervisor sees it; its arrays are read-only views of the message.

    Raises:
        SigmaError: the arrays do not fit horizon and joint names, or the adapter settings cannot be.
    """
    shape = (int(message.horizon), len(message.joint_names))
    for name in ("base_positions", "residual_positions"):
        if len(getattr(message, name)) != shape[0] * shape[1] or 0 in shape:
            raise SigmaError(
                f"an action chunk's {name} do not fit its horizon and joint names",
                where=f"chunk {message.chunk_id}",
                expected=f"{shape[0]} x {shape[1]} values, both above 0",
                got=f"{len(getattr(message, name))} values",
                remedy="fix the publisher",
            )
    try:
        settings = AdapterSettings(**{name: getattr(message, name) for name in _SETTINGS})
    except ValueError as error:
        raise SigmaError(
            "an action chunk's adapter settings are senseless", where=f"chunk {message.chunk_id}", got=error
        ) from error
    return Chunk(
        chunk_id=message.chunk_id,
        epoch=message.epoch,
        tick=message.tick,
        stamp_ns=stamp_ns(message.header.stamp),
        joint_names=tuple(message.joint_names),
        step_period_ns=stamp_ns(message.step_period),
        base_rad=_matrix(message.base_positions, shape),
        residual_rad=_matrix(message.residual_positions, shape),
        risk=Risk(**{ours: getattr(message, theirs) for ours, theirs in _RISK.items()}),
        settings=settings,
        observation_age_ns=stamp_ns(message.observation_age),
        inference_ns=stamp_ns(message.inference_time),
        checkpoint_hash=message.checkpoint_hash,
        crossfade_steps=message.crossfade_steps,
        alarmed=message.alarmed,
        **{name: getattr(message, name) for name in _CHUNK_FLOATS},
    )


def chunk_author(message: ActionChunk) -> Author:
    """What the policy says of itself."""
    return Author(robot=message.robot_name, instance=message.policy_instance)


def telepathy_message(telepathy: Telepathy, task: str) -> TelepathyState:
    """What Sigma believed at a tick, as a message."""
    return TelepathyState(
        header=Header(stamp=to_time(telepathy.stamp_ns)),
        epoch=telepathy.epoch,
        tick=telepathy.tick,
        task=task,
        valid=True,
        committed=telepathy.committed,
        semantic_memory=_floats(telepathy.semantic_memory),
        intent=_floats(telepathy.intent),
        telepathy_factors=_floats(telepathy.factors),
        factor_count=telepathy.factors.shape[0],
        memory_l2=float(np.linalg.norm(telepathy.semantic_memory)),
        intent_l2=float(np.linalg.norm(telepathy.intent)),
        **{name: float(getattr(telepathy, name)) for name in _TELEPATHY_FLOATS},
    )


def gap_message(gap: Gap, task: str) -> TelepathyState:
    """A replanning tick that could not be used, with the reasons."""
    return TelepathyState(
        header=Header(stamp=to_time(gap.stamp_ns)),
        epoch=gap.epoch,
        tick=gap.tick,
        task=task,
        valid=False,
        reasons=list(gap.reasons),
        **dict.fromkeys(("memory_l2", "intent_l2", *_TELEPATHY_FLOATS), math.nan),
    )


def telepathy_value(message: TelepathyState) -> Telepathy:
    """What the policy believed at a usable tick.

    Raises:
        SigmaError: the message says the tick was not usable, or the factors do not divide into `factor_count`.
    """
    count = int(message.factor_count)
    if not message.valid or count == 0 or len(message.telepathy_factors) % count:
        raise SigmaError(
            "a telepathy state holds no usable values",
            where=f"epoch {message.epoch} tick {message.tick}",
            expected="valid, with factor_count equal rows",
            got=f"valid {message.valid}, {len(message.telepathy_factors)} factors in {count} rows",
        )
    return Telepathy(
        epoch=message.epoch,
        tick=message.tick,
        stamp_ns=stamp_ns(message.header.stamp),
        semantic_memory=np.array(message.semantic_memory, dtype=np.float64),
        intent=np.array(message.intent, dtype=np.float64),
        factors=np.array(message.telepathy_factors, dtype=np.float64).reshape(count, -1),
        committed=message.committed,
        **{name: getattr(message, name) for name in _TELEPATHY_FLOATS},
    )


def _matrix(data: array.array, shape: tuple[int, int]) -> Float64[ndarray, "horizon dof"]:
    view = np.frombuffer(data, dtype=np.float64).reshape(shape)
    view.flags.writeable = False
    return view


def _floats(values: ndarray) -> array.array:
    return array.array("f", np.ascontiguousarray(values, dtype=np.float32).tobytes())
