# SPDX-License-Identifier: Apache-2.0
"""Robot, supervisor and policy in any order: whoever is late is waited for by name, and then all goes as usual."""

from functools import partial
from itertools import permutations

import pytest
from live_robot import FaultyRobot, stands
from node_fakes import FakeRuntime, call, fake_model, small_contract, spin_until
from sigma_ros.msg import SupervisorState
from test_live_loop import BUSY_S, Watcher

from sigma_ros.nodes.policy_node import PolicyNode
from sigma_ros.nodes.shared import topics
from sigma_ros.nodes.supervisor_node import SupervisorNode
from sigma_ros.supervisor.reasons import Reason

pytestmark = pytest.mark.ros
CONTRACT = small_contract()


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setattr("sigma_ros.nodes.supervisor_node.load_contract", lambda _name: CONTRACT)
    runtime = FakeRuntime(CONTRACT)
    return {
        "robot": lambda: FaultyRobot(CONTRACT),
        "supervisor": SupervisorNode,
        "policy": lambda: PolicyNode(load=lambda _options, _logger: fake_model(CONTRACT, runtime)),
    }


def missing(there: dict) -> Reason:
    return Reason.HEARTBEAT_MISSING if "robot" in there else Reason.JOINTS_MISSING


@pytest.mark.parametrize("order", [*permutations(("robot", "supervisor", "policy"))], ids=" ".join)
def test_whoever_starts_late_is_waited_for_by_name(executor, make, order: tuple[str, ...]) -> None:
    watcher = Watcher()
    executor.add_node(watcher)
    there: dict = {}
    for name in order:
        there[name] = make[name]()
        executor.add_node(there[name])
        if "policy" in there:
            policy = there["policy"]
            spin_until(executor, lambda policy=policy: policy._diagnostics is not None, what="activation")
        if "policy" in there and "robot" not in there:
            assert "waiting for" in stands(policy, "policy/inference").text
            assert not policy._session.healthy
        if "supervisor" in there and len(there) < len(order):
            reason = missing(there)

            def refused(reason: Reason = reason) -> bool:
                answer = call(executor, watcher, topics.ENGAGE)
                assert not answer.success
                return reason.text() in answer.message

            spin_until(executor, refused, what=f"a refusal for {reason.name}")
            spin_until(executor, lambda: watcher.is_in(SupervisorState.DISENGAGED), what="DISENGAGED")
    wait = partial(spin_until, executor, timeout_s=BUSY_S)
    wait(lambda: call(executor, watcher, topics.ENGAGE).success, what="engage to be granted")
    wait(lambda: watcher.is_in(SupervisorState.RUN) or watcher.is_in(SupervisorState.BASE_ONLY), what="commands")
    assert watcher.state.violations == 0
