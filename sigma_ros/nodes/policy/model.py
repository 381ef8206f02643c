# SPDX-License-Identifier: Apache-2.0
"""Loads what the policy node needs, and says what was loaded."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.policy.job import Runtime
from sigma_ros.policy.remote import RemoteRuntime

if TYPE_CHECKING:  # the inference process imports this module, and no rclpy
    from rclpy.impl.rcutils_logger import RcutilsLogger

    from sigma_ros.model.runtime import SigmaRuntime
    from sigma_ros.nodes.policy.options import PolicyOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyModel:
    """Contract and model. `facts` are what `/sigma/policy_info` tells, JSON values only."""

    contract: Contract
    runtime: Runtime
    image_size_px: int
    memory_stride: int
    facts: Mapping[str, object]

    def close(self) -> None:
        """Ends the model's process, if it has one."""
        if isinstance(self.runtime, RemoteRuntime):
            self.runtime.close()


def load_policy(options: "PolicyOptions", logger: "RcutilsLogger") -> PolicyModel:
    """Loads contract and checkpoint, into a process of its own where `inference` says so.

    Raises:
        SigmaError: one of them cannot be used; everything that is wrong with it is named.
    """
    contract = load_contract(options.contract)
    if options.task and options.task not in contract.tasks:
        logger.warning(f"the task {options.task!r} is not one of the contract's: {', '.join(contract.tasks)}")
    logger.info(f"loading checkpoint {options.checkpoint}")
    load = partial(
        load_runtime,
        contract,
        options.checkpoint,
        spare_core=not options.lockstep,  # a replay has the same bits as one without ROS, and nobody waits for it
        device=options.device,
        dtype=options.dtype,
        seed=options.seed,
        allow_untrained=options.allow_untrained,
        base=options.base or None,
        revision=options.revision or None,
        tokenizer=options.tokenizer or None,
        engine=options.engine,
    )
    runtime: Runtime
    if options.has_own_process:
        runtime = RemoteRuntime(load)
        facts, where = runtime.about, f"process {runtime.pid}"
    else:
        (runtime, facts), where = load(), "inside"
    logger.info(f"{facts['summary']}, inference: {where}")
    return PolicyModel(
        contract=contract,
        runtime=runtime,
        image_size_px=runtime.image_size_px,
        memory_stride=facts["memory_stride"],
        facts={**facts, "inference": "process" if options.has_own_process else "inside"},
    )


def load_runtime(
    contract: Contract, checkpoint: str, *, spare_core: bool, **options: Any
) -> "tuple[SigmaRuntime, dict[str, Any]]":
    """Loads a checkpoint in this process; gives it, and what the node tells of it."""
    from sigma_ros.model.runtime import SigmaRuntime  # noqa: PLC0415 - torch: seconds, only where a model is loaded

    if spare_core:
        leave_a_core()
    runtime = SigmaRuntime.load(checkpoint, contract=contract, **options)
    return runtime, _facts(runtime, contract, checkpoint)


def leave_a_core() -> None:
    """Keeps one core of several out of torch's pool, unless OMP_NUM_THREADS says how many threads it has.

    The threads of a pool wait for each other in a busy loop: where each core has one, a callback, DDS or the supervisor
    on one of them stalls all the others (two cores, two cameras: 2.3 chunks a second instead of 3.7).
    """
    import torch  # noqa: PLC0415 - as late as the model itself

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), len(os.sched_getaffinity(0)) - 1)))


def _facts(runtime: "SigmaRuntime", contract: Contract, checkpoint: str) -> dict[str, Any]:
    from sigma_ros.evaluation.replay import policy_facts  # noqa: PLC0415 - as late as the model itself

    facts = policy_facts(runtime)
    return {
        "contract": contract.name,
        "joint_names": list(contract.joint_names),
        "checkpoint": checkpoint,
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
