# SPDX-License-Identifier: Apache-2.0
"""The faults that the bench injects in RUN, row by row of the project's safety study."""

from collections.abc import Callable
from typing import Any

from sigma_ros.msg import SupervisorState
from std_msgs.msg import Bool

from safety import fault_acts as acts
from safety.faults import Fault, Inject, Seen, arm_mode, bounded, is_in, normal, policy_mode, refused, stays
from safety.rig import RUNNING, Rig, pause, resume
from sigma_ros.nodes.shared import topics
from sigma_ros.supervisor.reasons import State

_HOLD_LOST = is_in(State.HOLD, "HEARTBEAT_LOST")
_ALL_REFUSED = "every one refused with a reason, no change"
_ALL_ANSWERED = "every call answered with a reason, no limit broken"
_POLICY, _CHUNKS, _JOINT_STATES = "supervisor/policy", "supervisor/chunks", "io/joint_states"


def _joints(mode: str) -> Inject:
    return lambda rig: setattr(rig.arm, "mode", mode)


def _button(says: str) -> Inject:
    return lambda rig: setattr(rig, "estop", says)


def _stop_policy(rig: Rig) -> None:
    pause(rig.policy)


def _resume_policy(rig: Rig) -> None:
    resume(rig.policy)


def _press(rig: Rig) -> None:
    rig.estop_publisher.publish(Bool(data=True))


def _ask(service: str) -> Inject:
    return lambda rig: rig.ask(service)


def _let_go(said: SupervisorState, _before: SupervisorState) -> bool:
    return said.state in (State.HOLD, State.DISENGAGED)


def _anything(_said: object, _before: object) -> bool:
    """Any state will do: the oracle and the recovery judge."""
    return True


def _refusals() -> list[Fault]:
    chunk = "the chunk is refused with its reason, nothing of it is executed"
    rows = {
        "F14": ("nan_first", "nan_middle", "nan_last", "inf", "nan_residual", "nan_scale", "giant"),
        "F15": ("far_outside",),
        "F16": ("five_joints", "seven_joints", "ten_thousand_steps", "other_names", "other_period"),
        "F18": ("late", "duplicate"),
        "F71": ("other_robot", "other_checkpoint"),
        "F21": ("scale_above_one", "negative_scale"),
        "F39": ("future", "zero_stamp"),
    }
    return [policy_mode(row, mode, chunk, refused, within_s=0.1) for row, modes in rows.items() for mode in modes]


def _latched(state: State, reason: str, diagnosed: str, row: str, within_s: float) -> Callable[..., Fault]:
    """Faults that must lead to a state which is not left by itself."""

    def fault(name: str, expected: str, inject: Inject, **more: Any) -> Fault:
        options: dict[str, Any] = {"row": row, "within_s": within_s, "lasting": True, "diagnosed": diagnosed} | more
        return Fault(name=name, expected=expected, inject=inject, seen=is_in(state, reason), **options)

    return fault


_pressed = _latched(State.ESTOP, "ESTOP_PRESSED", "supervisor/estop", "F48", 0.06)
_estop_silent = _latched(State.ESTOP, "ESTOP_HEARTBEAT", "supervisor/estop", "F49", 0.7)
_foreign = _latched(State.STOPPED, "FOREIGN_PUBLISHER", "supervisor/publishers", "F30", 1.0)
_joints_lost = _latched(State.STOPPED, "JOINTS_LOST", _JOINT_STATES, "F07", 1.1)


def _fault(row: str, name: str, expected: str, inject: Inject, *, seen: Seen, within_s: float, **more: Any) -> Fault:
    return Fault(row=row, name=name, expected=expected, inject=inject, seen=seen, within_s=within_s, **more)


def _policy_gone(name: str, expected: str, inject: Inject, heal: Inject, within_s: float = 0.15, **more: Any) -> Fault:
    return _fault(
        "F25", name, expected, inject, seen=_HOLD_LOST, within_s=within_s, heal=heal, diagnosed=_POLICY, **more
    )


def _goes_on(row: str, name: str, expected: str, inject: Inject, within_s: float, **more: Any) -> Fault:
    return _fault(row, name, expected, inject, seen=stays, within_s=within_s, **more)


def _of_the_policy() -> list[Fault]:
    inside, at_border = "bounded, inside all limits", "refused at the border, counted, no motion from it"
    spent = is_in(State.HOLD, "CHUNK_EXPIRED", "CHUNK_EXHAUSTED")
    unhealthy, next_epoch = is_in(State.HOLD, "POLICY_UNHEALTHY"), "to rest, then on with the new epoch"
    epoch_seen = is_in(State.ENGAGING, "EPOCH_CHANGED", "WAITING_FOR_CHUNK")
    lossy = "30 % of heartbeats and chunks lost: goes on or holds"
    return [
        _policy_gone("policy_sigkill", "HOLD", acts.kill_policy, acts.respawn),
        _policy_gone("policy_sigstop", "HOLD", _stop_policy, _resume_policy, dwell_s=1.0, lasting=True),
        policy_mode("F25", "hang", "HOLD while a callback holds the policy for 2 s", _HOLD_LOST, within_s=0.15),
        _policy_gone("policy_exception", "HOLD after the policy ended by itself", Rig.policy_ends, acts.respawn, 0.3),
        policy_mode("F25", "no_heartbeat", "HOLD", _HOLD_LOST, within_s=0.15, lasting=True),
        policy_mode("F19", "no_chunks", "HOLD when the chunk is spent", spent, within_s=1.8),
        policy_mode("F27", "unhealthy", "HOLD", unhealthy, within_s=0.1, lasting=True),
        policy_mode("F18", "new_epoch", next_epoch, epoch_seen, within_s=0.1, diagnosed=""),
        *_refusals(),
        policy_mode("F16", "no_steps", at_border, stays, within_s=0.3, diagnosed=_CHUNKS),
        policy_mode("F16", "ragged", at_border, stays, within_s=0.3, diagnosed=_CHUNKS),
        policy_mode("F15", "huge_step", inside, bounded, within_s=0.6),
        policy_mode("F15", "nyquist", inside, bounded, within_s=0.6),
        policy_mode("F15", "into_limit", "bounded at the position limit", bounded, within_s=3.0, dwell_s=0.5),
        policy_mode("F21", "flapping_scale", "slew-limited, inside all limits", stays, within_s=0.3, dwell_s=1.5),
        policy_mode("F42", "lossy", lossy, _anything, within_s=0.3, dwell_s=3.0),
        policy_mode("F20", "jump", "a certified blend to the new course", bounded, within_s=0.3),
        policy_mode("F22", "large_residual", "the scale is turned down", _scaled_down, within_s=0.5),
        policy_mode("F23", "opposed_residual", "BASE_ONLY", _base_only, within_s=3.0),
    ]


def _scaled_down(said: SupervisorState, _before: SupervisorState) -> bool:
    return bool(said.applied_scale <= 0.56 or said.state not in RUNNING)


def _base_only(said: SupervisorState, _before: SupervisorState) -> bool:
    return bool(said.state == State.BASE_ONLY or said.applied_scale == 0.0)


_STALE = {
    "F08": ("nan", "one_nan", "bare"),
    "F10": ("other_names", "five_joints", "degrees", "duplicate_names"),
    "F12": ("turned",),
    "F38": ("skewed_ahead", "skewed_behind"),
    "F39": ("zero_stamp", "future"),
}
"""Joint states that are refused."""


def _of_the_joints() -> list[Fault]:
    stale, implausible = is_in(State.HOLD, "JOINTS_STALE"), is_in(State.STOPPED, "JOINTS_IMPLAUSIBLE")
    refused_joints, blocked = "refused; HOLD when the last good one is 0.1 s old", is_in(State.HOLD, "CONTACT")
    pairs = [(row, mode) for row, modes in _STALE.items() for mode in modes]
    return [
        arm_mode("F07", "silent", "HOLD after 0.1 s", stale, within_s=0.15),
        _joints_lost("joints_lost", "STOPPED after 1 s", _joints("silent"), heal=_joints("normal")),
        *(arm_mode(row, mode, refused_joints, stale, within_s=0.2) for row, mode in pairs),
        *(
            arm_mode(row, mode, "STOPPED", implausible, within_s=0.1, lasting=True)
            for row, mode in (("F09", "swapped_values"), ("F12", "jump"))
        ),
        *(
            arm_mode("F06", mode, "HOLD: a joint is blocked, or seems so", blocked, within_s=3.0, lasting=True)
            for mode in ("stalled", "frozen")
        ),
        arm_mode("F09", "shuffled", "no difference: joints are matched by name", stays, within_s=0.1),
    ]


def _of_the_operator() -> list[Fault]:
    still_pressed, silent = "ESTOP, still so after the button says released", "ESTOP: silence counts as pressed"
    reset = "refused; a reset after the release leads to DISENGAGED and no further"
    deadman = "HOLD, then DISENGAGED: the deadman is a call of release"
    requested = _latched(State.ESTOP, "ESTOP_REQUESTED", "supervisor/estop", "F48", 0.06)
    return [
        _pressed("estop_pressed", still_pressed, _press),
        _estop_silent("estop_silent", silent, _button("silent"), heal=_button("calm")),
        _pressed("estop_flapping", "ESTOP, latched once", acts.flap, row="F50"),
        requested("estop_service", "ESTOP", _ask(topics.ESTOP_SERVICE)),
        _pressed(
            "reset_while_pressed", reset, acts.refuse_reset_while_pressed, heal=acts.reset_must_not_engage, row="F51"
        ),
        _fault("F52", "released", deadman, _ask(topics.RELEASE), seen=_let_go, within_s=0.06, lasting=True),
        _fault(
            "F11", "arm_outside", "engage is refused", acts.engage_outside,
            seen=is_in(State.DISENGAGED), within_s=0.1, heal=acts.back_inside, lasting=True,
        ),
        _fault(
            "F17", "start_pose", "ENGAGING: nothing moves towards a far first target", acts.engage_far_from_the_course,
            seen=is_in(State.ENGAGING, "START_POSE"), within_s=0.5,
            heal=normal, dwell_s=1.0, lasting=True, diagnosed=_CHUNKS,
        ),
        _goes_on("F24", "senseless_parameters", _ALL_REFUSED, acts.senseless_parameters, 2.0),
        _fault("F32", "service_storm", _ALL_ANSWERED, acts.service_storm, seen=_anything, within_s=0.1),
    ]  # fmt: skip


def _of_the_graph() -> list[Fault]:
    held_up = is_in(State.HOLD, "TICK_OVERRUN", "HEARTBEAT_LOST", "JOINTS_STALE")
    away = "ESTOP: policy, driver and operator were all away; nothing moves when they are back"
    tolerated, still = "three missing joint states are tolerated", "STOPPED, and still so when the driver is back"
    noticed, unheard = "HOLD: it notices that it was held up", "goes on, and says that a publisher cannot be heard"
    return [
        _foreign("second_publisher", "STOPPED", acts.second_publisher, heal=acts.no_second_publisher),
        _fault(
            "F33",
            "supervisor_paused",
            noticed,
            acts.pause_supervisor,
            seen=held_up,
            within_s=0.5,
            diagnosed="supervisor/timing",
        ),
        _goes_on("F41", "flood", "goes on: no limit broken, tick gap within 40 ms", acts.flood, 5.0),
        _goes_on("F13", "short_bus_error", tolerated, acts.short_bus_error, 0.1, lasting=True),
        _joints_lost("driver_restart", still, acts.driver_restart, row="F31", dwell_s=0.5),
        _estop_silent("partition", away, acts.partition, heal=acts.heal_partition, row="F43"),
        _goes_on(
            "F44",
            "mismatched_qos",
            unheard,
            acts.mismatched_chunks,
            0.1,
            heal=acts.no_second_publisher,
            diagnosed=_CHUNKS,
            soak=False,
        ),
        _foreign("second_supervisor", "STOPPED", acts.second_supervisor, heal=acts.no_second_supervisor, soak=False),
        _goes_on("F47", "rtps_garbage", "goes on (were it to die, F29 would hold)", acts.rtps_garbage, 0.5, soak=False),
    ]


CATALOGUE: tuple[Fault, ...] = (*_of_the_policy(), *_of_the_joints(), *_of_the_operator(), *_of_the_graph())
"""What this bench injects, in the order of the campaign."""

assert len({fault.name for fault in CATALOGUE}) == len(CATALOGUE)
