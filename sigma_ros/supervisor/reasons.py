# SPDX-License-Identifier: Apache-2.0
"""Every state, what leads from one to another, and every reason, each with a sentence and what to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, unique
from types import MappingProxyType

from jaxtyping import Float64
from numpy import ndarray


@unique
class State(IntEnum):
    """Values equal the constants of `msg/SupervisorState.msg`."""

    DISENGAGED = 0
    ENGAGING = 1
    RUN = 2
    BASE_ONLY = 3
    HOLD = 4
    STOPPED = 5
    ESTOP = 6

    @property
    def may_move(self) -> bool:
        """Whether new targets may be taken. In every other state the stored stop is played to rest."""
        return self in (State.ENGAGING, State.RUN, State.BASE_ONLY)

    @property
    def is_latched(self) -> bool:
        """Whether only `reset_stop` leads out."""
        return self in (State.STOPPED, State.ESTOP)


# The state machine as a table: what each event does in each state. What is not in it changes nothing.


@unique
class Event(Enum):
    """What can happen; the value says it in words, for the diagram."""

    ENGAGE = "engage"
    SET_OFF = "at rest, promised limits in force, permission not expired, a chunk passes the gate; own ceiling above 0"
    SET_OFF_ON_BASE = "the same; own ceiling 0"
    NEW_EPOCH = "the policy began anew"
    FAULT = "fault, or limits tightened"
    WELL = "all well for resume_after_s"
    RELEASE = "release"
    LET_GO = "at rest, after release or with an expired permission"
    STOP = "joints lost, implausible, not following; foreign publisher"
    ESTOP = "emergency stop pressed, called or silent"
    RESET = "reset_stop: cause gone, arm at rest, stop published"


_MOVING = (State.ENGAGING, State.RUN, State.BASE_ONLY)
_ENGAGED = (*_MOVING, State.HOLD)

TRANSITIONS: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (State.DISENGAGED, Event.ENGAGE): State.ENGAGING,
        (State.HOLD, Event.ENGAGE): State.ENGAGING,
        **{(state, Event.SET_OFF): State.RUN for state in _MOVING},
        **{(state, Event.SET_OFF_ON_BASE): State.BASE_ONLY for state in _MOVING},
        **{(state, Event.NEW_EPOCH): State.ENGAGING for state in _MOVING},
        **{(state, Event.FAULT): State.HOLD for state in _ENGAGED},
        (State.HOLD, Event.WELL): State.ENGAGING,
        **{(state, Event.RELEASE): State.HOLD for state in _ENGAGED},
        (State.ENGAGING, Event.LET_GO): State.DISENGAGED,
        (State.HOLD, Event.LET_GO): State.DISENGAGED,
        **{(state, Event.STOP): State.STOPPED for state in (State.DISENGAGED, *_ENGAGED)},
        **{(state, Event.ESTOP): State.ESTOP for state in (State.DISENGAGED, *_ENGAGED, State.STOPPED)},
        (State.STOPPED, Event.RESET): State.DISENGAGED,
        (State.ESTOP, Event.RESET): State.DISENGAGED,
    }
)
"""(state, event) -> the state after it. Motion is entered by SET_OFF and SET_OFF_ON_BASE alone."""


def diagram() -> str:
    """The table as text, one line per event and target: `STATES --event--> STATE`."""
    lines = []
    for event in Event:
        targets: dict[State, list[str]] = {}
        for (state, cause), target in TRANSITIONS.items():
            if cause is event:
                targets.setdefault(target, []).append(state.name)
        lines += [f"{', '.join(states)} --{event.value}--> {target.name}" for target, states in targets.items()]
    return "\n".join(lines)


@unique
class Reason(Enum):
    """Why something is as it is: `name` is published, `value` is (sentence, remedy)."""

    OK = ("nothing is wrong", "")

    NOT_ENGAGED = ("the supervisor is not engaged", "call engage")
    ALREADY_ENGAGED = ("the supervisor is engaged already", "")
    RELEASED = ("the operator released the arm", "call engage to go on")
    AUTHORITY_AGED = ("the arm stood for too long to go on by itself", "look at it, then engage")
    NOT_PAIRED = (
        "the operator is not paired",
        "call engage_paired or reset_stop_paired with the token that the supervisor showed at its start",
    )
    LATCHED = ("a stop is latched", "clear its cause, call reset_stop, then engage")
    NOT_LATCHED = ("there is no latched stop to reset", "")
    STILL_MOVING = ("the arm is still being brought to rest", "try again in half a second")
    WAITING_FOR_CHUNK = ("no acceptable chunk has come yet", "start the policy, or read why its chunks are refused")
    START_POSE = ("the first target is too far from where the arm is", "move the arm closer, or allow start_ramp")
    RAMPING = ("the arm is being led to the policy's first target", "")

    CHUNK_MALFORMED = ("a field of the chunk has the wrong type", "publish sigma_ros/ActionChunk")
    CHUNK_NAMES = ("the chunk's joint names are not the contract's", "use one contract for policy and supervisor")
    CHUNK_SHAPE = ("the chunk's arrays do not fit together", "publish horizon x joints for base and residual")
    CHUNK_NOT_FINITE = ("the chunk holds NaN or infinity", "look at the policy's log and checkpoint")
    CHUNK_PERIOD = ("the chunk's step period is not the contract's", "use one contract for policy and supervisor")
    CHUNK_STALE = ("the chunk's observation is too old", "make inference faster, or raise max_chunk_delay_s")
    CHUNK_FROM_FUTURE = ("the chunk is stamped in the future", "synchronise the clocks")
    CHUNK_OUT_OF_ORDER = ("the chunk is not newer than the last one", "publish each chunk once, in order")
    CHUNK_OLD_EPOCH = ("the chunk belongs to an epoch that has ended", "")
    CHUNK_BEFORE_STOP = ("the chunk was made before the last stop", "")
    CHUNK_IMPLAUSIBLE = ("the chunk asks for positions far outside the arm's range", "check the policy's units")
    CHUNK_EXHAUSTED = ("the chunk was played to its end and no other came", "replan sooner, or publish longer chunks")
    CHUNK_EXPIRED = ("the chunk in execution is too old", "replan sooner, or raise max_chunk_age_s")
    OBSERVATION_STALE = ("the policy acted on observations that are too old", "check cameras and joint states")
    EPOCH_CHANGED = ("the policy started anew", "")
    CHUNK_ROBOT = ("the chunk was made for another robot", "give each robot's policy its own topics")
    CHUNK_CHECKPOINT = ("the policy changed its checkpoint since engage", "release, then engage anew")
    POLICY_OTHER = ("another policy publishes; it is not followed", "stop it, or release and engage to follow it")
    POLICY_SEVERAL = ("several policies publish", "stop all but one, then engage")

    HEARTBEAT_MISSING = ("the policy's heartbeat has not been heard", "start the policy")
    HEARTBEAT_LOST = ("the policy's heartbeat stopped", "look at the policy's process")
    POLICY_UNHEALTHY = ("the policy says that it cannot act", "read its state and diagnostics")
    CLOCK_JUMP = ("the observation clock jumped", "")
    TICK_OVERRUN = ("the supervisor itself was held up", "free the processor it runs on")

    JOINTS_MISSING = ("no joint state has come, or too few", "start the driver")
    JOINTS_STALE = ("joint states stopped coming", "check the driver and the servo bus")
    JOINTS_LOST = ("joint states stayed away for too long", "check the driver and the servo bus")
    JOINTS_SHAPE = ("a joint state has the wrong number of joints", "check the contract's joint names")
    JOINTS_NOT_FINITE = ("a joint state holds NaN or infinity", "check the driver")
    JOINTS_STAMP = ("a joint state is not newer than the last one", "check the driver's clock")
    JOINTS_FROM_FUTURE = ("a joint state is stamped in the future", "synchronise the clocks")
    JOINTS_IMPLAUSIBLE = ("a joint moved faster than it can", "check encoders and calibration")
    JOINTS_UNITS = ("a joint state is far outside the arm's range", "check that the driver publishes radians")
    JOINTS_MOVING = ("the arm moves, or its joint states disagree", "let it rest, then engage")
    JOINTS_OUTSIDE = ("a joint is outside its limits", "move it inside by hand")
    TRACKING = ("a joint does not follow its commands", "look for a collision or a stalled servo")
    CONTACT = ("a joint is blocked", "look at what it touches, then engage")
    JOINTS_FROZEN = ("joint states do not change while the arm is commanded to move", "check the driver")

    ESTOP_PRESSED = ("the emergency stop is pressed", "release it, then reset_stop, then engage")
    ESTOP_HEARTBEAT = ("the emergency stop's heartbeat is missing", "start its publisher, then reset_stop")
    ESTOP_LATE = ("the emergency stop's heartbeat is late", "beat at 50 Hz, or allow more by estop_hold_s")
    NOT_ENABLED = ("the enabling device is not held", "hold it, then engage")
    ESTOP_REQUESTED = ("the emergency stop was called", "call reset_stop, then engage")

    SCALE_FAULT = ("the residual was turned off by a fault and comes back slowly", "")
    SCALE_HEARTBEAT = ("the policy's heartbeat is late, the residual is turned down", "")
    SCALE_DELAY = (
        "chunks arrive later than the residual was trained for (`trained_delay_s` of the chunk), it is turned down",
        "make inference faster, or train for the delay",
    )
    SCALE_AGE = ("chunks come too rarely, the residual is turned down", "replan sooner")
    SCALE_MISSES = (
        "the arm follows worse than the base alone, the residual is turned down",
        "look at the policy's chunks",
    )
    SCALE_RESIDUAL_LARGE = ("the residual is too large, it is turned down", "look at the adapter")
    SCALE_RESIDUAL_OPPOSED = ("the residual works against the base, it is off", "look at the adapter")

    BASE_MISBEHAVES = ("the base policy itself asks for what the arm cannot do", "look at the policy, then engage")
    TOOL_SPEED = ("the tool is held to its speed limit", "make the policy's motions slower")
    TOOL_PLANE = ("the tool would go below its plane", "look at the policy's targets, and at plane_height_m")
    TOOL_BELOW = ("the tool is below its plane", "move it up by hand, or lower plane_height_m")
    COLLISION = ("a collision was ahead", "look at the policy's targets; engage the arm where nothing touches")
    LIMITS_CHANGED = ("limits were tightened", "")
    SETTING_REFUSED = ("the setting was refused", "read the text")
    FOREIGN_PUBLISHER = ("somebody else publishes commands", "stop the other publisher, then reset_stop")
    CONTROLLER = ("a controller does not take its goals", "read its log, then reset_stop")
    VIOLATION = ("a command broke a limit in the supervisor's own check", "report this with the recording")
    INTERNAL_ERROR = ("the supervisor met an error of its own", "report this with the log")

    @property
    def sentence(self) -> str:
        """What happened, without a full stop."""
        return self.value[0]

    @property
    def remedy(self) -> str:
        """What the user can do; empty where nothing is needed."""
        return self.value[1]

    def text(self, detail: str = "") -> str:
        """The sentence with numbers and the remedy, for people."""
        parts = [self.sentence + (f" ({detail})" if detail else "")]
        if self.remedy:
            parts.append(self.remedy)
        return "; ".join(parts)


# What the supervisor says: the answer to a service, and the decision of a tick.


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to a service call or a setting."""

    success: bool
    reason: Reason
    detail: str = ""

    @property
    def text(self) -> str:
        """One sentence for people."""
        return self.reason.text(self.detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Counts since the start; none ever falls. `violations` must stay 0.

    `late_ticks` came more than two control periods after the one before.
    """

    ticks: int = 0
    clipped_ticks: int = 0
    accepted_chunks: int = 0
    refused_chunks: int = 0
    refused_joint_states: int = 0
    holds: int = 0
    stops: int = 0
    engagements: int = 0
    violations: int = 0
    late_ticks: int = 0
    tick_gap_max_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One tick. `command_rad` is None while nothing is to be published (DISENGAGED before the first engage).

    `stop_rad` holds the commands that would bring the arm to rest after this one, one control period apart:
    the rest of a trajectory piece. `scale_ceiling` is the lower of the user's and the own ceiling. Ages are
    infinite where there is nothing yet; `chunk_age_s` counts from arrival. `followed_policy` is the instance that is
    followed; `other_policies` are publishers of chunks or heartbeats that are not.
    """

    state: State
    reason: Reason
    reason_text: str
    command_rad: Float64[ndarray, " dof"] | None
    stop_rad: Float64[ndarray, "ticks dof"] | None
    clipped_joints: tuple[str, ...]
    miss_rad: float
    requested_scale: float
    scale_ceiling: float
    applied_scale: float
    chunk_id: int
    epoch: int
    chunk_accepted: bool
    chunk_age_s: float
    joint_state_age_s: float
    observation_age_s: float
    counters: Counters
    followed_policy: str = ""
    other_policies: tuple[str, ...] = ()
