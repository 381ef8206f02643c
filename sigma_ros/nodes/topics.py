# SPDX-License-Identifier: Apache-2.0
"""Names of the topics between our nodes; those of the robot are in its contract."""

from sigma_ros.contract import Camera

ACTION_CHUNK = "/sigma/action_chunk"
COMMIT_CHUNK = "/sigma/commit_chunk"
TICK = "/sigma/tick"
TELEPATHY = "/sigma/telepathy"
POLICY_HEARTBEAT = "/sigma/policy_heartbeat"
POLICY_INFO = "/sigma/policy_info"
SUPERVISOR_STATE = "/sigma/supervisor_state"
E_STOP = "/sigma/e_stop"
REPLAY_COMMANDS = "/sigma/replay_commands"

POLICY_NODE = "sigma_policy"
SUPERVISOR_NODE = "sigma_supervisor"
REPLAY_NODE = "sigma_replay"
SIM_NODE = "sigma_sim"
DRIVER_NODE = "so101_driver"
RECORD_NODE = "sigma_record"

TASK = f"/{POLICY_NODE}/task"
RESET_MEMORY = f"/{POLICY_NODE}/reset_memory"
PAUSE = f"/{POLICY_NODE}/pause"
SAVE_STATE = f"/{POLICY_NODE}/save_state"
RESTORE_STATE = f"/{POLICY_NODE}/restore_state"
ENGAGE = f"/{SUPERVISOR_NODE}/engage"
RELEASE = f"/{SUPERVISOR_NODE}/release"
RESET_STOP = f"/{SUPERVISOR_NODE}/reset_stop"
ESTOP_SERVICE = f"/{SUPERVISOR_NODE}/estop"


def raw_topic(camera: Camera) -> str:
    """Where raw images of a camera go in lockstep replay: the contract's topic if it is of that type."""
    return camera.topic if camera.message_type == "sensor_msgs/msg/Image" else f"{camera.topic}/raw"


def compressed_topic(camera: Camera) -> str:
    """Where compressed images of a camera go in lockstep replay, image_transport's name beside a raw topic."""
    return camera.topic if camera.message_type != "sensor_msgs/msg/Image" else f"{camera.topic}/compressed"
