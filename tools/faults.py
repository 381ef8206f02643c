# SPDX-License-Identifier: Apache-2.0
"""Faults that the bench (`tools/rig.py`) can inject, with what the supervisor must do about each.

Rows are those of the project's safety study (F01-F70). A fault is injected in RUN; it counts as noticed at the
source time of the first state message that shows the expected reaction.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from std_msgs.msg import Bool, Float64MultiArray

from sigma_ros.control.reasons import State
from sigma_ros.msg import SupervisorState
from sigma_ros.nodes import qos, topics
from tools.rig import RUNNING, Rig, pause, resume
from tools.stand_in_policy import SPOILS

Seen = Callable[[SupervisorState, SupervisorState], bool]
"""(state now, state before the fault) -> the reaction is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way things go wrong.

    Attributes:
        row: Row of the safety study.
        name: Short and unique.
        expected: The reaction in words.
        inject: Does it; returns the moment it took effect [ns since 1970].
        heal: Undoes it.
        seen: Recognises the reaction.
        within_s: How soon the reaction must come.
        dwell_s: How long the fault stays after it was noticed.
        lasting: Whether the reaction must still stand when the dwell ends (a state that must not be left by itself).
        soak: Whether the soak draws it.
    """

    row: str
    name: str
    expected: str
    inject: Callable[[Rig], int]
    heal: Callable[[Rig], None]
    seen: Seen
    within_s: float
    dwell_s: float = 0.3
    lasting: bool = False
    soak: bool = True


def now(act: Callable[[Rig], object]) -> Callable[[Rig], int]:
    """An injection that takes effect at once."""

    def inject(rig: Rig) -> int:
        at_ns = time.time_ns()
        act(rig)
        return at_ns

    return inject


def is_in(state: State, *reasons: str) -> Seen:
    """The supervisor is in a state, for one of the reasons if any are given."""
    return lambda said, _before: said.state == state and (not reasons or said.reason in reasons)


def refused(said: SupervisorState, before: SupervisorState) -> bool:
    """A chunk was refused; nothing of it is executed."""
    return bool(said.refused_chunks > before.refused_chunks)


def bounded(said: SupervisorState, before: SupervisorState) -> bool:
    """A command was bounded."""
    return bool(said.clipped_ticks > before.clipped_ticks)


def stays(said: SupervisorState, _before: SupervisorState) -> bool:
    """The supervisor goes on as before."""
    return said.state in RUNNING


def nothing(_rig: Rig) -> None:
    """Nothing to undo."""


def _normal(rig: Rig) -> None:
    if rig.policy is not None and rig.policy.alive:
        rig.policy_mode("normal")


def _respawn(rig: Rig) -> None:
    rig.start_policy()


def policy_mode(row: str, mode: str, expected: str, seen: Seen, *, within_s: float, **more: object) -> Fault:
    """A fault that the scripted policy commits."""
    return Fault(
        row=row,
        name=mode,
        expected=expected,
        inject=lambda rig: rig.policy_mode(mode),
        heal=_normal,
        seen=seen,
        within_s=within_s,
        **more,  # type: ignore[arg-type]
    )


def arm_mode(row: str, mode: str, expected: str, seen: Seen, *, within_s: float, **more: object) -> Fault:
    """A fault of the joint states."""
    return Fault(
        row=row,
        name=f"joints_{mode}",
        expected=expected,
        inject=now(lambda rig: setattr(rig.arm, "mode", mode)),
        heal=lambda rig: setattr(rig.arm, "mode", "normal"),
        seen=seen,
        within_s=within_s,
        **more,  # type: ignore[arg-type]
    )


def _refusals() -> list[Fault]:
    chunk = "the chunk is refused with its reason, nothing of it is executed"
    rows = {
        "F14": ("nan_first", "nan_middle", "nan_last", "inf", "nan_residual", "nan_scale", "giant"),
        "F15": ("far_outside",),
        "F16": ("five_joints", "seven_joints", "ten_thousand_steps", "other_names", "other_period"),
        "F18": ("late", "duplicate"),
        "F21": ("scale_above_one", "negative_scale"),
        "F39": ("future", "zero_stamp"),
    }
    return [policy_mode(row, mode, chunk, refused, within_s=0.1) for row, modes in rows.items() for mode in modes]


def _kill_policy(rig: Rig) -> None:
    assert rig.policy is not None
    rig.policy.signal(9)


def _flood(rig: Rig) -> None:
    command = [sys.executable, "-m", "tools.flood", "--seconds", "3"]
    subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # it ends by itself
    rig.rest(3.5)


def _second_publisher(rig: Rig) -> None:
    rig.foreign = rig.create_publisher(Float64MultiArray, rig.contract.command_topic, qos.COMMAND)


def _no_second_publisher(rig: Rig) -> None:
    rig.destroy_publisher(rig.foreign)
    rig.foreign = None


def _flap(rig: Rig) -> None:
    for index in range(50):
        rig.estop_publisher.publish(Bool(data=index % 2 == 0))
        rig.rest(0.01)


def _senseless_parameters(rig: Rig) -> None:
    values = {
        "scale_ceiling": (float("nan"), float("inf"), 1.0000001, -1e-9, "high", True),
        "velocity_scale": (0.0, 2.0, float("nan")),
        "contract": ("cr5",),
    }
    for name, tries in values.items():
        for value in tries:
            accepted, reason = rig.set_on_supervisor(**{name: value})[0]
            if accepted or not reason:
                raise AssertionError(f"{name} = {value!r} was accepted or refused without a reason")


def _pause_supervisor(rig: Rig) -> None:
    pause(rig.supervisor)
    rig.rest(0.3)
    resume(rig.supervisor)


def _calm(rig: Rig) -> None:
    rig.estop = "calm"


CATALOGUE: tuple[Fault, ...] = (
    Fault(
        row="F25",
        name="policy_sigkill",
        expected="HOLD",
        inject=now(_kill_policy),
        heal=_respawn,
        seen=is_in(State.HOLD, "HEARTBEAT_LOST"),
        within_s=0.15,
    ),
    Fault(
        row="F25",
        name="policy_sigstop",
        expected="HOLD",
        inject=now(lambda rig: pause(rig.policy)),
        heal=lambda rig: resume(rig.policy),
        seen=is_in(State.HOLD, "HEARTBEAT_LOST"),
        within_s=0.15,
        dwell_s=1.0,
        lasting=True,
    ),
    policy_mode(
        "F25",
        "hang",
        "HOLD while a callback holds the policy for 2 s",
        is_in(State.HOLD, "HEARTBEAT_LOST"),
        within_s=0.15,
    ),
    Fault(
        row="F25",
        name="policy_exception",
        expected="HOLD after the policy ended by itself",
        inject=lambda rig: rig.policy_ends(),
        heal=_respawn,
        seen=is_in(State.HOLD, "HEARTBEAT_LOST"),
        within_s=0.3,
    ),
    policy_mode("F25", "no_heartbeat", "HOLD", is_in(State.HOLD, "HEARTBEAT_LOST"), within_s=0.15, lasting=True),
    policy_mode(
        "F19",
        "no_chunks",
        "HOLD when the chunk is spent",
        is_in(State.HOLD, "CHUNK_EXPIRED", "CHUNK_EXHAUSTED"),
        within_s=1.8,
    ),
    policy_mode("F27", "unhealthy", "HOLD", is_in(State.HOLD, "POLICY_UNHEALTHY"), within_s=0.1, lasting=True),
    policy_mode(
        "F18",
        "new_epoch",
        "to rest, then on with the new epoch",
        is_in(State.ENGAGING, "EPOCH_CHANGED", "WAITING_FOR_CHUNK"),
        within_s=0.1,
    ),
    *_refusals(),
    policy_mode("F16", "no_steps", "refused at the border, counted, no motion from it", stays, within_s=0.3),
    policy_mode("F16", "ragged", "refused at the border, counted, no motion from it", stays, within_s=0.3),
    policy_mode("F15", "huge_step", "bounded, inside all limits", bounded, within_s=0.6),
    policy_mode("F15", "nyquist", "bounded, inside all limits", bounded, within_s=0.6),
    policy_mode("F15", "into_limit", "bounded at the position limit", bounded, within_s=3.0, dwell_s=0.5),
    policy_mode("F20", "jump", "a certified blend to the new course", bounded, within_s=0.3),
    policy_mode(
        "F22",
        "large_residual",
        "the scale is turned down",
        lambda s, _: s.applied_scale <= 0.56 or s.state not in RUNNING,
        within_s=0.5,
    ),
    policy_mode(
        "F23",
        "opposed_residual",
        "BASE_ONLY",
        lambda s, _: s.state == State.BASE_ONLY or s.applied_scale == 0.0,
        within_s=3.0,
    ),
    arm_mode("F07", "silent", "HOLD after 0.1 s", is_in(State.HOLD, "JOINTS_STALE"), within_s=0.15),
    Fault(
        row="F07",
        name="joints_lost",
        expected="STOPPED after 1 s",
        inject=now(lambda rig: setattr(rig.arm, "mode", "silent")),
        heal=lambda rig: setattr(rig.arm, "mode", "normal"),
        seen=is_in(State.STOPPED, "JOINTS_LOST"),
        within_s=1.1,
        lasting=True,
    ),
    *(
        arm_mode(
            row,
            mode,
            "refused; HOLD when the last good one is 0.1 s old",
            is_in(State.HOLD, "JOINTS_STALE"),
            within_s=0.2,
        )
        for row, mode in (
            ("F08", "nan"),
            ("F08", "one_nan"),
            ("F08", "bare"),
            ("F10", "other_names"),
            ("F10", "five_joints"),
            ("F10", "degrees"),
            ("F39", "zero_stamp"),
        )
    ),
    arm_mode("F09", "shuffled", "no difference: joints are matched by name", stays, within_s=0.1),
    arm_mode("F12", "jump", "STOPPED", is_in(State.STOPPED, "JOINTS_IMPLAUSIBLE"), within_s=0.1, lasting=True),
    arm_mode(
        "F06",
        "stalled",
        "STOPPED: the arm does not follow",
        is_in(State.STOPPED, "JOINTS_FROZEN", "TRACKING"),
        within_s=3.0,
        lasting=True,
    ),
    Fault(
        row="F48",
        name="estop_pressed",
        expected="ESTOP, still so after the button says released",
        inject=now(lambda rig: rig.estop_publisher.publish(Bool(data=True))),
        heal=nothing,
        seen=is_in(State.ESTOP, "ESTOP_PRESSED"),
        within_s=0.06,
        lasting=True,
    ),
    Fault(
        row="F49",
        name="estop_silent",
        expected="ESTOP: silence counts as pressed",
        inject=now(lambda rig: setattr(rig, "estop", "silent")),
        heal=_calm,
        seen=is_in(State.ESTOP, "ESTOP_HEARTBEAT"),
        within_s=0.7,
        lasting=True,
    ),
    Fault(
        row="F50",
        name="estop_flapping",
        expected="ESTOP, latched once",
        inject=now(_flap),
        heal=nothing,
        seen=is_in(State.ESTOP, "ESTOP_PRESSED"),
        within_s=0.06,
        lasting=True,
    ),
    Fault(
        row="F48",
        name="estop_service",
        expected="ESTOP",
        inject=now(lambda rig: rig.ask(topics.ESTOP_SERVICE)),
        heal=nothing,
        seen=is_in(State.ESTOP, "ESTOP_REQUESTED"),
        within_s=0.06,
        lasting=True,
    ),
    Fault(
        row="F30",
        name="second_publisher",
        expected="STOPPED",
        inject=now(_second_publisher),
        heal=_no_second_publisher,
        seen=is_in(State.STOPPED, "FOREIGN_PUBLISHER"),
        within_s=1.0,
        lasting=True,
    ),
    Fault(
        row="F24",
        name="senseless_parameters",
        expected="every one refused with a reason, no change",
        inject=now(_senseless_parameters),
        heal=nothing,
        seen=stays,
        within_s=2.0,
    ),
    Fault(
        row="F33",
        name="supervisor_paused",
        expected="HOLD: it notices that it was held up",
        inject=now(_pause_supervisor),
        heal=nothing,
        seen=is_in(State.HOLD, "TICK_OVERRUN", "HEARTBEAT_LOST", "JOINTS_STALE"),
        within_s=0.5,
    ),
    Fault(
        row="F41",
        name="flood",
        expected="goes on: no limit broken, tick gap within 40 ms",
        inject=now(_flood),
        heal=nothing,
        seen=stays,
        within_s=5.0,
    ),
)
"""What this bench injects, in the order of the campaign."""

assert len({fault.name for fault in CATALOGUE}) == len(CATALOGUE)
assert {fault.name for fault in CATALOGUE} & set(SPOILS)
