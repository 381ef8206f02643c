# SPDX-License-Identifier: Apache-2.0
"""Turning the knobs while it runs: in force within a tick, refused with reasons, never wrongly accepted."""

import json
import math
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from live_robot import LiveRobot, policy_of
from node_fakes import FakeRuntime, call, fake_model, small_contract, spin_until
from rclpy.parameter import Parameter, parameter_dict_from_yaml_file
from std_msgs.msg import String

from sigma_ros.contract_text import shipped_config_dir
from sigma_ros.nodes.policy.options import PolicyOptions
from sigma_ros.nodes.policy_node import PolicyNode
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.parameters import problems, specs
from sigma_ros.nodes.supervisor.options import SupervisorOptions
from sigma_ros.nodes.supervisor_node import SupervisorNode
from sigma_ros.policy.loop import rescaled
from sigma_ros.risk import scale_of
from sigma_ros.values import AdapterSettings

pytestmark = pytest.mark.ros
SETS = 10_000
POOL: list[Any] = [
    0.0,
    0.3,
    0.5,
    1.0,
    1.0000001,
    -1e-12,
    math.nan,
    math.inf,
    -math.inf,
    1e308,
    5e-324,
    -1,
    0,
    1,
    8,
    50,
    51,
    2**40,
]
POOL += [True, False, "", "latest", "crossfade", "rtc", "a task", "\x00", [0.5], [1, 2], ["a"], b"\x01", None]
PRESETS = ("cautious", "research", "slow")
LIVE_PRESETS = ("cautious", "research")


@pytest.fixture
def rig(executor):
    return policy_of(executor, LiveRobot)


def turn(node, **values: object):
    return node.set_parameters_atomically([Parameter(name.replace("__", "."), value=v) for name, v in values.items()])


def test_a_new_scale_reaches_the_supervisor_within_a_tick(rig, executor):
    """The chunk in execution comes again with its new scale; nobody waits for the next inference."""
    robot, policy, runtime = rig
    runtime.gate.clear()
    seen, calls = len(robot.chunks), len(runtime.calls)
    assert turn(policy, adapter__max_scale=0.25).successful
    spin_until(executor, lambda: len(robot.chunks) > seen, what="the chunk again")
    message = robot.chunks[-1][1]
    assert message.max_scale == 0.25
    assert message.scale <= 0.25
    assert list(message.base_positions) == list(robot.chunks[-2][1].base_positions)
    assert len(runtime.calls) == calls
    runtime.gate.set()
    spin_until(executor, lambda: len(robot.chunks) > seen + 2, what="further chunks")
    ids = [chunk.chunk_id for _, chunk in robot.chunks]
    assert ids == sorted(set(ids))
    assert all(chunk.max_scale == 0.25 for _, chunk in robot.chunks[seen:])


def test_the_effective_values_are_in_the_published_state(rig, executor):
    robot, policy, _ = rig
    told: list[dict] = []
    robot.create_subscription(String, topics.POLICY_INFO, lambda m: told.append(json.loads(m.data)), qos.LATCHED)
    assert turn(policy, adapter__risk_temperature=2.0, stitching="rtc", replan_ticks=4).successful
    spin_until(executor, lambda: told and told[-1]["stitching"] == "rtc", what="the policy's facts")
    assert told[-1]["adapter"] == {"min_scale": 0.0, "max_scale": 1.0, "risk_temperature": 2.0}
    assert told[-1]["replan_ticks"] == 4


def test_the_residual_is_renewed_at_every_tick_when_asked(rig, executor):
    robot, policy, runtime = rig
    assert turn(policy, residual_every_tick=True).successful
    spin_until(executor, lambda: len(runtime.refreshed) >= 5, what="refreshed residuals")
    seen = len(robot.chunks)
    spin_until(executor, lambda: len(robot.chunks) >= seen + 5, what="chunks of them")
    ticks = [chunk.tick for _, chunk in robot.chunks[seen:]]
    assert ticks == sorted(ticks)
    assert min(b - a for a, b in pairwise(ticks)) < 8


def test_ten_thousand_random_sets_while_it_runs_do_no_harm(rig, executor):
    robot, policy, _ = rig
    rng = random.Random(7)
    known = [spec.name for spec in specs(PolicyOptions)]
    bound, accepted = policy._bound, 0
    for i in range(SETS):
        names = rng.sample([*known, "no.such", "use_sim_time"][: len(known) + 1], rng.choice((1, 1, 2)))
        before = bound.value
        result = attempt(policy, [(name, rng.choice(POOL)) for name in names])
        accepted += bool(result and result.successful)
        assert problems(bound.value) == []
        if result is None or not result.successful:
            assert bound.value == before
            assert result is None or result.reason
        if i % 50 == 0:
            executor.spin_once(timeout_sec=0.0)
    assert accepted > 100
    assert turn(policy, replan_ticks=8, residual_every_tick=False, adapter__max_scale=1.0).successful
    seen = len(robot.chunks)
    spin_until(executor, lambda: len(robot.chunks) > seen + 1, what="chunks after the storm")


def test_ten_thousand_random_sets_never_loosen_the_supervisor(executor):
    node = SupervisorNode()
    executor.add_node(node)
    rng = random.Random(8)
    known = [spec.name for spec in specs(SupervisorOptions)]
    core = node.drive._core
    for _ in range(SETS):
        before = core.limits
        attempt(node, [(name, rng.choice(POOL)) for name in rng.sample(known, rng.choice((1, 1, 2)))])
        after = core.limits
        for name in ("velocity_scale", "acceleration_scale", "jerk_scale"):
            assert getattr(after, name) <= getattr(before, name)
        assert after.position_margin_rad >= before.position_margin_rad
        assert 0.0 <= core._machine.loop.user_ceiling <= 1.0
    assert node.drive.state == "DISENGAGED"


def attempt(node, pairs):
    """A set as a client may send it; rclpy itself refuses to make some parameters, and undeclared names."""
    try:
        return node.set_parameters_atomically([Parameter(name, value=value) for name, value in pairs])
    except (TypeError, ValueError, UnicodeError):
        return None
    except Exception as error:
        if type(error).__name__ in ("ParameterNotDeclaredException", "InvalidParameterTypeException"):
            return None
        raise


def preset_of(preset: str, node: str):
    """What `ros2 param load NODE FILE` sends: on Jazzy every section of the file, later only those that fit."""
    file = str(shipped_config_dir() / f"{preset}_{node.removeprefix('/sigma_')}.yaml")
    found = parameter_dict_from_yaml_file(file, use_wildcard=True, target_nodes=[node])
    assert list(yaml.safe_load(Path(file).read_text(encoding="utf-8"))) == ["/**"]
    return found


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_names_only_parameters_that_are_and_values_that_may_be(preset: str):
    for node, options in (("/sigma_policy", PolicyOptions), ("/sigma_supervisor", SupervisorOptions)):
        found = preset_of(preset, node)
        by_name = {spec.name: spec for spec in specs(options)}
        assert found
        values = {by_name[name].field_name: Parameter.from_parameter_msg(value).value for name, value in found.items()}
        assert problems(options(**values)) == []


@pytest.mark.parametrize("preset", LIVE_PRESETS)
def test_a_preset_loads_while_the_nodes_run(preset: str, executor):
    contract = small_contract()
    runtime = FakeRuntime(contract)
    nodes = {
        "/sigma_policy": PolicyNode(load=lambda _options, _logger: fake_model(contract, runtime)),
        "/sigma_supervisor": SupervisorNode(),
    }
    for name, node in nodes.items():
        executor.add_node(node)
        found = preset_of(preset, name)
        result = node.set_parameters_atomically([Parameter.from_parameter_msg(value) for value in found.values()])
        assert result.successful, result.reason
    if preset == "cautious":
        assert nodes["/sigma_policy"]._bound.value.settings.max_scale == 0.5
        assert nodes["/sigma_supervisor"].drive._core.limits.velocity_scale == 0.5


def test_rescaling_changes_scale_and_settings_alone(rig):
    _, policy, _ = rig
    chunk = policy._session.thread.loop.executed
    settings = AdapterSettings(max_scale=0.4, risk_temperature=3.0)
    other = rescaled(chunk, settings)
    assert other.scale == scale_of(chunk.risk, settings)
    assert replace(other, scale=chunk.scale, settings=chunk.settings) == chunk
    assert rescaled(chunk, chunk.settings) is chunk


@pytest.fixture
def remembering(executor, tmp_path):
    """As `rig`, with a place for the memory."""
    place = {"state_folder": str(tmp_path), "state_file": "memory.safetensors"}
    robot, policy, runtime = policy_of(executor, LiveRobot, **place)
    return robot, policy, runtime, tmp_path / "memory.safetensors"


def test_no_parameter_that_can_be_set_at_run_time_is_a_path(rig, executor):
    robot, policy, _ = rig
    assert not call(executor, robot, topics.SAVE_STATE).success, "no file named at start"
    for name in ("state_file", "state_folder"):
        assert not turn(policy, **{name: "/tmp/anything"}).successful
    for options in (PolicyOptions, SupervisorOptions):
        live = [spec for spec in specs(options) if not spec.read_only and spec.kind is str and not spec.choices]
        assert [spec.name for spec in live] in ([], ["task"])


def test_the_memory_is_saved_and_restored_into_a_new_epoch(remembering, executor):
    robot, policy, runtime, file = remembering
    answer = call(executor, robot, topics.RESTORE_STATE)
    assert not answer.success
    assert "cannot be read" in answer.message
    commits = sum(commit for _, _, commit in runtime.calls) + len(runtime.remembered)
    assert call(executor, robot, topics.SAVE_STATE).success
    assert int(file.read_text().split(" ", 1)[0]) >= commits >= 1
    file.write_text(f"40 {policy._session.clock.task}")
    epoch = policy._session.clock.epoch
    assert call(executor, robot, topics.RESTORE_STATE).success
    spin_until(executor, lambda: robot.chunks[-1][1].epoch > epoch, what="the new epoch's first chunk")
    assert robot.chunks[-1][1].residual_positions[0] == pytest.approx(0.41), "forty commits, and this tick's"


def test_a_memory_of_another_task_is_refused(remembering, executor):
    robot, _, _, file = remembering
    file.write_text("3 fold the towel")
    answer = call(executor, robot, topics.RESTORE_STATE)
    assert not answer.success
    assert "another task" in answer.message
