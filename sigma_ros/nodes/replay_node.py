# SPDX-License-Identifier: Apache-2.0
"""`sigma_replay`: drives the policy node and the supervisor node from a recording, scores them, writes the report.

    python -m sigma_ros.nodes.replay_node --bag recording --out report     # policy and supervisor run in lockstep

Exit codes: 0 complete, 3 complete with losses, 1 failed, 2 wrong usage, 130 interrupted (report marked incomplete).
"""

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from sigma_ros.bags.losses import WITH_LOSSES, refuse_losses
from sigma_ros.bags.reader import Bag, Stamps, open_bag
from sigma_ros.bags.topics import check_topics, recorded_task
from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import UsageError
from sigma_ros.evaluation.log import PolicyFacts, ReplayLog, RunFacts
from sigma_ros.evaluation.recorder import ReplayRecorder
from sigma_ros.evaluation.replay import bag_facts, nothing_inferred
from sigma_ros.evaluation.report.write import refuse_existing, write_report
from sigma_ros.evaluation.scoring.score import score
from sigma_ros.evaluation.scoring.scores import conditions
from sigma_ros.evaluation.scoring.verdict import verdict_of
from sigma_ros.nodes.replay.loop import NodeReplay, Setting, told
from sigma_ros.nodes.replay.peers import InterruptedReplayError, PolicyPeer, SupervisorPeer, Waiter
from sigma_ros.nodes.shared import topics
from sigma_ros.nodes.shared.node_options import ReplayNodeOptions
from sigma_ros.nodes.shared.parameters import BoundParameters
from sigma_ros.nodes.shared.process import command_line, guarded, ros_context
from sigma_ros.policy.schedule import Schedule
from sigma_ros.stopping import INTERRUPTED, end_on_signal
from sigma_ros.values import AdapterSettings

COMPLETE = 0


def main(args: Sequence[str] | None = None) -> int:
    """Runs a replay; returns the exit code."""
    return guarded(lambda: _main(args))


def _main(args: Sequence[str] | None) -> int:
    arguments = sys.argv if args is None else [sys.argv[0], *args]
    overrides = command_line(ReplayNodeOptions, arguments, __doc__)
    with end_on_signal() as stop, ros_context(arguments):
        node = Node(topics.REPLAY_NODE, parameter_overrides=overrides)
        try:
            options = BoundParameters(node, ReplayNodeOptions(), state=lambda: "replaying").value
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            waiter = Waiter(executor, stop, timeout_s=options.answer_timeout_s)
            return _replay(node, options, waiter, command=shlex.join(arguments))
        except InterruptedReplayError:
            node.get_logger().info("interrupted before the first tick: there is no report")
            return INTERRUPTED
        finally:
            node.destroy_node()


def _replay(node: Node, options: ReplayNodeOptions, waiter: Waiter, *, command: str) -> int:
    out = Path(options.out)
    refuse_existing(out, force=options.force)
    contract = load_contract(options.contract)
    stamps = cast("Stamps", options.stamps)
    with open_bag(options.bag, strict=options.strict, recover=options.recover, stamps=stamps) as bag:
        check_topics(bag, contract)
        log, facts = replay_bag(node, options, waiter, contract, bag)
    scores = score(log)
    paths = write_report(
        [log],
        scores,
        out,
        conditions=conditions(command, checkpoint=facts["checkpoint"], contract=contract),
        force=options.force,
    )
    verdict = verdict_of([log], scores)
    for line in (*verdict.warnings, *_losses(log)):
        node.get_logger().warning(line)
    for line in filter(None, (verdict.headline, verdict.supervised, f"report: {paths.page}")):
        node.get_logger().info(line)
    if not log.complete:
        return INTERRUPTED
    return WITH_LOSSES if log.losses else COMPLETE


def replay_bag(
    node: Node, options: ReplayNodeOptions, waiter: Waiter, contract: Contract, bag: Bag
) -> tuple[ReplayLog, Mapping[str, Any]]:
    """Replays an open bag; returns the log and what the policy node told about itself.

    Raises:
        SigmaError: a node does not answer, or one of them and the recording do not fit together.
    """
    node.get_logger().info(f"waiting for the policy {topics.full_name(node, topics.POLICY_NODE)}")
    policy = PolicyPeer(node, load_contract(topics.contract_name(node, options.contract)), waiter)
    facts = policy.connect(timeout_s=options.start_timeout_s)
    check_same_robot(facts, contract)
    supervisor = SupervisorPeer(node, waiter) if options.supervised else None
    if supervisor is not None:
        supervisor.begin(timeout_s=options.start_timeout_s)
    task = options.task or recorded_task(bag, contract)
    policy.begin(task)
    schedule = Schedule(facts["replan_ticks"], facts["memory_stride"])
    run = RunFacts(
        mode="nodes",
        task=task,
        settings=AdapterSettings(**facts["adapter"]),
        replan_ticks=schedule.replan_ticks,
        memory_stride=schedule.memory_stride,
        seed=facts["seed"],
        supervised=options.supervised,
    )
    recorder = ReplayRecorder(contract, _policy_facts(facts), run)
    setting = Setting(
        contract=contract, schedule=schedule, image_size_px=facts["image_size_px"], task=options.task or None
    )
    replay = NodeReplay(bag, setting, recorder, policy, supervisor)
    started_ns = time.perf_counter_ns()
    complete = _run(node, replay, bag)
    wall_ns = time.perf_counter_ns() - started_ns
    log = recorder.finish(bag_facts(bag, replay.ticks), complete=complete, wall_ns=wall_ns)
    refuse_losses(log.name, log.losses, strict=options.strict)
    return log.certified(policy.certificate), facts


def _losses(log: ReplayLog) -> list[str]:
    """One line per kind of loss, ticks that could not be used with the reasons for them."""
    lines = [f"lost: {count} x {reason}" for reason, count in log.losses.items()]
    return lines + [f"unusable ticks: {count} x {reason}" for reason, count in log.ticks.reasons.items()]


def _run(node: Node, replay: NodeReplay, bag: Bag) -> bool:
    """Runs and tells how far it is; False when the user stopped it."""
    info = bag.info
    with told(info, node.get_logger()) as tell:
        try:
            replay.run(lambda tick: tell(tick.item.stamp_ns))
        except InterruptedReplayError:
            return False
    if not replay.drive.inferences:
        raise nothing_inferred(info.path, replay.drive.reasons)
    return True


def check_same_robot(facts: Mapping[str, Any], contract: Contract) -> None:
    """Refuses a policy node whose joints are not the contract's."""
    if tuple(facts["joint_names"]) != contract.joint_names:
        raise UsageError(
            "the policy node was started with another contract",
            where=topics.POLICY_NODE,
            expected=f"{contract.name}: {', '.join(contract.joint_names)}",
            got=f"{facts['contract']}: {', '.join(facts['joint_names'])}",
            remedy="give the same contract to all nodes",
        )


def _policy_facts(facts: Mapping[str, Any]) -> PolicyFacts:
    return PolicyFacts(
        checkpoint_hash=facts["checkpoint_hash"],
        trained=facts["trained"],
        sigma_trained=facts["sigma_trained"],
        base_id=facts["base_id"],
        action_scale=np.array(facts["action_scale"]),
        action_offset=np.array(facts["action_offset"]),
        details=facts["details"],
    )


if __name__ == "__main__":
    sys.exit(main())
