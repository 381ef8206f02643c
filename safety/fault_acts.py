# SPDX-License-Identifier: Apache-2.0
"""What is done to inject a fault, and to undo it, where that is more than one line.

An `AssertionError` raised in here is a finding: the supervisor answered what it must not.
"""

import argparse
import os
import random
import socket
import subprocess
import sys
import time

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from sigma_ros.msg import ActionChunk
from std_msgs.msg import Bool, Float64MultiArray

from safety.rig import Process, Rig, pause, resume
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.process import ros_context
from sigma_ros.supervisor.reasons import State


def respawn(rig: Rig) -> None:
    """Starts the policy again."""
    rig.start_policy()


def kill_policy(rig: Rig) -> None:
    """SIGKILL."""
    assert rig.policy is not None
    rig.policy.signal(9)


def flood(rig: Rig) -> None:
    """Floods the inputs for three seconds from a process of its own."""
    command = [sys.executable, "-m", "safety.fault_acts", "--seconds", "3"]
    subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # it ends by itself
    rig.rest(3.5)


def second_publisher(rig: Rig) -> None:
    """Somebody else announces commands."""
    rig.foreign = rig.create_publisher(Float64MultiArray, rig.contract.command_topic, qos.COMMAND)


def no_second_publisher(rig: Rig) -> None:
    """And leaves again."""
    rig.destroy_publisher(rig.foreign)
    rig.foreign = None


def flap(rig: Rig) -> None:
    """The button flaps at 100 Hz."""
    for index in range(50):
        rig.estop_publisher.publish(Bool(data=index % 2 == 0))
        rig.rest(0.01)


def senseless_parameters(rig: Rig) -> None:
    """Every senseless value must be refused with a reason."""
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


def pause_supervisor(rig: Rig) -> None:
    """SIGSTOP for 0.3 s."""
    pause(rig.supervisor)
    rig.rest(0.3)
    resume(rig.supervisor)


def calm(rig: Rig) -> None:
    """The button is released, its heartbeat goes on."""
    rig.estop = "calm"


def refuse_reset_while_pressed(rig: Rig) -> int:
    """Presses and keeps pressing; a reset must be refused."""
    at_ns = time.time_ns()
    rig.estop = "pressed"
    rig.estop_publisher.publish(Bool(data=True))
    rig.wait(lambda: rig.state is State.ESTOP, "ESTOP", timeout_s=2.0)
    answer = rig.ask(topics.RESET_STOP)
    assert not answer.success, "a reset was accepted while the emergency stop is pressed"
    assert "pressed" in answer.message
    return at_ns


def reset_must_not_engage(rig: Rig) -> None:
    """Lets the button go; a reset must lead to DISENGAGED and no further."""
    rig.estop = "calm"
    rig.rest(0.25)
    answer = rig.ask(topics.RESET_STOP)
    assert answer.success, answer.message
    rig.rest(0.5)
    assert rig.state is State.DISENGAGED, f"after a reset the state is {rig.state.name}"


def let_go(rig: Rig) -> None:
    """Releases the arm and waits until the supervisor has let go."""
    rig.ask(topics.RELEASE)
    rig.wait(lambda: rig.state is State.DISENGAGED, "DISENGAGED", timeout_s=2.0)


def engage_outside(rig: Rig) -> int:
    """The arm stands beyond a limit: engage must be refused."""
    let_go(rig)
    rig.arm.put(rig.arm.pose_rad + np.array([2.1 - rig.arm.pose_rad[0], 0, 0, 0, 0, 0]))
    rig.rest(0.5)
    at_ns = time.time_ns()
    answer = rig.ask(topics.ENGAGE)
    assert not answer.success, "engaged outside the limits"
    assert "outside its limits" in answer.message, answer.message
    return at_ns


def back_inside(rig: Rig) -> None:
    """Moves the arm inside by hand."""
    rig.arm.put(np.array([0.1, -0.2, 0.3, -0.1, 0.05, 0.4]))
    rig.rest(0.5)


def engage_far_from_the_course(rig: Rig) -> int:
    """The policy's first target is 0.3 rad away: the arm must not move."""
    let_go(rig)
    rig.policy_mode("jump")
    rig.rest(0.1)
    at_ns = time.time_ns()
    assert rig.ask(topics.ENGAGE).success
    return at_ns


def short_bus_error(rig: Rig) -> None:
    """Three joint states in a row are missing."""
    rig.arm.mode = "silent"
    rig.rest(0.06)
    rig.arm.mode = "normal"


def driver_restart(rig: Rig) -> None:
    """The driver is away for one and a half seconds and comes back."""
    rig.arm.mode = "silent"
    rig.rest(1.5)
    rig.arm.mode = "normal"


def service_storm(rig: Rig) -> None:
    """Sixty calls in a senseless order."""
    names = (topics.ENGAGE, topics.RELEASE, topics.RESET_STOP, topics.ESTOP_SERVICE)
    rng = random.Random(0)
    for _ in range(60):
        assert rig.ask(rng.choice(names)).message, "an answer without a reason"


def second_supervisor(rig: Rig) -> int:
    """Another supervisor process on the same command topic; its state goes elsewhere."""
    options = ("--ros-args", "-r", "/sigma/supervisor_state:=/sigma/other_state")
    rig.other = Process("-m", "sigma_ros.nodes.supervisor_node", *options, log=rig.log)
    topic = rig.contract.command_topic
    rig.wait(lambda: rig.count_publishers(topic) > 1, "the second supervisor")
    return time.time_ns()


def no_second_supervisor(rig: Rig) -> None:
    """Ends it and waits until it is forgotten."""
    assert rig.other is not None
    rig.other.popen.terminate()
    rig.other.popen.wait(10)
    rig.other = None
    rig.wait(lambda: rig.count_publishers(rig.contract.command_topic) == 1, "one publisher")


def mismatched_chunks(rig: Rig) -> None:
    """A policy that offers best effort without deadline: nothing of it would ever arrive."""
    profile = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    rig.foreign = rig.create_publisher(ActionChunk, topics.ACTION_CHUNK, profile)


def rtps_garbage(rig: Rig) -> None:
    """Malformed RTPS datagrams at every port that participants of this domain listen on."""
    rng = random.Random(0)
    domain = int(os.environ.get("ROS_DOMAIN_ID", "0"))
    ports = [7400 + 250 * domain + offset for offset in range(40)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for index in range(4000):
            header = b"RTPS\x02\x03\x01\x0f" if index % 2 else b"RTPX"
            sender.sendto(header + rng.randbytes(rng.randrange(400)), ("127.0.0.1", rng.choice(ports)))
    rig.rest(0.5)


def partition(rig: Rig) -> None:
    """Policy, driver and operator all vanish for two seconds, then all are back."""
    rig.estop, rig.arm.mode = "silent", "silent"
    pause(rig.policy)
    rig.rest(2.0)


def heal_partition(rig: Rig) -> None:
    """Everybody is back."""
    resume(rig.policy)
    rig.estop, rig.arm.mode = "calm", "normal"
    rig.rest(0.3)


# The process that floods the inputs: python -m safety.fault_acts --seconds 3


def main() -> int:
    """Joint states of an unknown arm and malformed chunks, as fast as Python can."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    with ros_context([sys.argv[0]]):
        node = Node("flood")
        joints = node.create_publisher(JointState, "/joint_states", qos.SENSOR)
        chunks = node.create_publisher(ActionChunk, topics.ACTION_CHUNK, qos.CHUNK)
        other = node.create_publisher(Float64MultiArray, "/sigma/flood", qos.SENSOR)
        joint_state = JointState(name=[f"x{i}" for i in range(6)], position=[0.0] * 6)
        chunk = ActionChunk(horizon=3, joint_names=["a"])
        megabyte = Float64MultiArray(data=[0.0] * 125_000)
        count, end_s = 0, time.monotonic() + options.seconds
        while time.monotonic() < end_s:
            joints.publish(joint_state)
            count += 1
            if count % 50 == 0:
                chunks.publish(chunk)
            if count % 2000 == 0:
                other.publish(megabyte)
        sys.stdout.write(f"{count / options.seconds:.0f} joint states a second\n")
        node.destroy_node()
    return 0


if __name__ == "__main__":
    sys.exit(main())
