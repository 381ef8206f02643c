# SPDX-License-Identifier: Apache-2.0
"""Put your own policy behind the supervisor: it proposes far too fast, the commands stay inside the robot's limits.

    python examples/own_policy.py

The supervisor needs neither torch nor ROS. Time is passed in, so this runs as fast as it can: the arm here does at once
what it is told. With ROS, publish `ActionChunk` on `/sigma/action_chunk` instead and start `supervisor_node`.
"""

import numpy as np

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.risk import plain_chunk
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.supervisor import Supervisor
from sigma_ros.values import NS_PER_S, Chunk

HORIZON, REPLAN_TICKS, SECONDS = 50, 25, 4
ENGAGED_AT = 4  # a few joint states must agree where the arm is


def policy(contract: Contract, chunk_id: int, now_ns: int, pose_rad: np.ndarray) -> Chunk:
    """Your model goes here. This one wants the arm 0.8 rad to the side within a fifth of a second."""
    goal_rad = pose_rad + np.array([0.8, 0, 0, 0, 0, 0]) * (1 if chunk_id % 2 == 0 else -1)
    share = np.clip(np.arange(HORIZON) / 6, 0.0, 1.0)[:, None]
    base_rad = pose_rad + share * (goal_rad - pose_rad)
    return plain_chunk(contract, base_rad, stamp_ns=now_ns, chunk_id=chunk_id, checkpoint_hash="my policy")


def main() -> None:
    """Four seconds at the contract's command rate."""
    contract = load_contract("so101")
    supervisor = Supervisor(contract, SupervisorLimits(require_heartbeat=False))
    pose_rad, commands, states = np.zeros(contract.dof), [], []
    for tick in range(round(SECONDS * NS_PER_S / contract.command_period_ns)):
        now_ns = NS_PER_S + tick * contract.command_period_ns
        supervisor.on_joints(now_ns, pose_rad, now_ns)
        if tick == ENGAGED_AT:
            print("engage:", supervisor.engage(now_ns).text)
        if tick % REPLAN_TICKS == 0:
            supervisor.on_chunk(policy(contract, tick // REPLAN_TICKS, now_ns, pose_rad), now_ns)
        decision = supervisor.tick(now_ns)
        states.append(decision.state.name)
        if decision.command_rad is not None:
            pose_rad = decision.command_rad
            commands.append(pose_rad)
    speed_radps = np.abs(np.diff(commands, axis=0)).max() / (contract.command_period_ns / NS_PER_S)
    print("states:", ", ".join(dict.fromkeys(states)))
    print(f"fastest command {speed_radps:.2f} rad/s, allowed {contract.max_velocity_radps.max():.2f} rad/s")
    print(
        f"{supervisor.counters.clipped_ticks} of {len(states)} commands were bounded, "
        f"{supervisor.counters.violations} broke a limit"
    )


if __name__ == "__main__":
    main()
