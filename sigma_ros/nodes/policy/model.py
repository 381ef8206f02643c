# SPDX-License-Identifier: Apache-2.0
"""Loads what the policy node needs, and says what was loaded."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rclpy.impl.rcutils_logger import RcutilsLogger

from sigma_ros.contract import Contract, whole_state
from sigma_ros.contract_file import load_contract
from sigma_ros.nodes.shared.node_options import PolicyOptions
from sigma_ros.policy.job import Runtime

if TYPE_CHECKING:
    from sigma_ros.model.runtime import SigmaRuntime


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyModel:
    """Contract and model. `facts` are what `/sigma/policy_info` tells, JSON values only."""

    contract: Contract
    runtime: Runtime
    image_size_px: int
    memory_stride: int
    facts: Mapping[str, object]


def load_policy(options: PolicyOptions, logger: RcutilsLogger) -> PolicyModel:
    """Loads contract and checkpoint.

    Raises:
        SigmaError: one of them cannot be used; everything that is wrong with it is named.
    """
    contract = whole_state(load_contract(options.contract))
    if options.task and options.task not in contract.tasks:
        logger.warning(f"the task {options.task!r} is not one of the contract's: {', '.join(contract.tasks)}")
    logger.info(f"loading checkpoint {options.checkpoint}")
    from sigma_ros.model.runtime import SigmaRuntime  # noqa: PLC0415 - torch: seconds, only when a model is loaded

    if not options.lockstep:  # a replay has the same bits as one without ROS, and nobody waits for it
        leave_a_core()

    runtime = SigmaRuntime.load(
        options.checkpoint,
        contract=contract,
        device=options.device,
        dtype=options.dtype,
        seed=options.seed,
        allow_untrained=options.allow_untrained,
        base=options.base or None,
        revision=options.revision or None,
        tokenizer=options.tokenizer or None,
    )
    logger.info(runtime.info.summary())
    return PolicyModel(
        contract=contract,
        runtime=runtime,
        image_size_px=runtime.image_size_px,
        memory_stride=runtime.memory_stride,
        facts=_facts(runtime, contract, options),
    )


def leave_a_core() -> None:
    """Keeps one core of several out of torch's pool, unless OMP_NUM_THREADS says how many threads it has.

    The threads of a pool wait for each other in a busy loop: where each core has one, a callback, DDS or the supervisor
    on one of them stalls all the others (two cores, two cameras: 2.3 chunks a second instead of 3.7, docs/runtime.md).
    """
    import torch  # noqa: PLC0415 - as late as the model itself

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), len(os.sched_getaffinity(0)) - 1)))


def _facts(runtime: "SigmaRuntime", contract: Contract, options: PolicyOptions) -> dict[str, object]:
    from sigma_ros.evaluation.replay import policy_facts  # noqa: PLC0415 - as late as the model itself

    facts = policy_facts(runtime)
    return {
        "contract": contract.name,
        "joint_names": list(contract.joint_names),
        "checkpoint": options.checkpoint,
        "checkpoint_hash": facts.checkpoint_hash,
        "trained": facts.trained,
        "sigma_trained": facts.sigma_trained,
        "base_id": facts.base_id,
        "action_scale": [float(value) for value in facts.action_scale],
        "action_offset": [float(value) for value in facts.action_offset],
        "details": dict(facts.details),
        "horizon": runtime.horizon,
        "memory_stride": runtime.memory_stride,
        "image_size_px": runtime.image_size_px,
        "summary": runtime.info.summary(),
    }
