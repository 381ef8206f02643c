# SPDX-License-Identifier: Apache-2.0
"""Supervisor, policy, incident recorder and the action `run_policy`, as the launch files start them.

Each launch file calls this with values; none includes another one. Included, its inner arguments would be arguments
of the outer launch too: `simulated:=true` would then loosen a real arm's supervisor.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.actions import LogInfo, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events.process import ProcessExited
from launch.launch_context import LaunchContext
from launch.launch_description_entity import LaunchDescriptionEntity
from launch_ros.actions import Node

from sigma_ros.contract_text import command_topics
from sigma_ros.errors import UsageError
from sigma_ros.nodes.launch.arguments import COMMON, Arguments, Given, ends_all, full_name, is_true, sigma_node
from sigma_ros.nodes.shared.parameter_files import fitting, preset_file

POLICY_ARGUMENTS: Arguments = {
    **COMMON,
    "checkpoint": ("mini", "Sigma checkpoint folder, pi0.5 folder or Hub id, or mini (the small shipped model)"),
    "device": ("auto", "where the model runs: auto, cpu, cuda, cuda:0"),
    "allow_untrained": ("false", "accept a checkpoint with random weights"),
    "task": ("", "what to do, in words; empty: the contract's first task"),
    "params_file": (
        "",
        "YAML file with further parameters of the nodes, or a shipped one: cautious, beside_people, research, slow",
    ),
    "autostart": ("true", "configure and activate the policy; false: a lifecycle manager does"),
    "policy": ("true", "start the policy too; false on the robot's computer, where another machine has the GPU"),
    "supervisor": ("true", "start the supervisor too; without it nothing commands the robot"),
    "dry_run": ("false", "send commands to sigma/dry_run instead of the robot"),
    "incidents": ("incidents", "folder for bags of the half minute before each stop; none: none are kept"),
}
"""All that can be said of the three; a launch file offers those that its user may change."""

POLICY, SUPERVISOR = "sigma_policy", "sigma_supervisor"
PRESETS = {POLICY: "policy", SUPERVISOR: "supervisor"}
SIMULATED = {"start_ramp": True, "authority_ages": False}
REHEARSAL = {"check_tracking": False, "bound_lead": False}
NO_INCIDENTS = "none"  # `ros2 launch` takes no empty value
DRY_RUN_TOPIC = "sigma/dry_run"
WRONG_USAGE = 2
RESPAWN_DELAY_S = 2.0
RESPAWN_MAX_RETRIES = 5


def policy_and_supervisor(
    context: LaunchContext,
    offered: Given,
    *,
    simulated: bool = False,
    lockstep: bool = False,
    rehearsal: bool = False,
) -> list[LaunchDescriptionEntity]:
    """The supervisor, and then the policy; nothing moves until the supervisor is engaged.

    Args:
        context: The launch.
        offered: Arguments by name, of `POLICY_ARGUMENTS`; those that are not there have their defaults.
        simulated: The supervisor has the settings of `sigma sim`.
        lockstep: Both advance with a replay instead of the clock.
        rehearsal: The supervisor does not ask whether the arm follows; only together with `dry_run`.

    Raises:
        UsageError: no such contract or parameter file, one that fits no node, or nothing to start.
    """
    given = {name: default or "" for name, (default, _) in POLICY_ARGUMENTS.items()} | dict(offered)
    targets = command_topics(given["contract"])  # a wrong contract stops here, before any process starts
    starts = {POLICY: is_true(given["policy"]), SUPERVISOR: is_true(given["supervisor"])}
    if not any(starts.values()):
        raise UsageError("there is nothing to start", got="policy:=false supervisor:=false", remedy="leave one out")
    files = parameter_files(context, given, [name for name, start in starts.items() if start])
    policy = policy_node(given, files[POLICY], lockstep=lockstep) if starts[POLICY] else None
    if policy is not None and not starts[SUPERVISOR]:
        return [LogInfo(msg="no supervisor: the policy only proposes"), policy]
    more: dict[str, object] = dict(SIMULATED) if simulated else {}
    more |= REHEARSAL if rehearsal and is_true(given["dry_run"]) else {}
    supervisor = supervisor_node(given, files[SUPERVISOR], targets, {**more, "lockstep": lockstep})
    runner = None if lockstep else run_policy_node(given)
    kept = given["incidents"] not in ("", NO_INCIDENTS) and not lockstep
    started = [] if policy is None else [OnProcessStart(target_action=supervisor, on_start=policy)]
    ended = OnProcessExit(target_action=supervisor, on_exit=ends_all("the supervisor"))
    # What it engaged has nobody to end it once it is gone.
    lost = [] if runner is None else [OnProcessExit(target_action=runner, on_exit=ends_all("run_policy"))]
    handlers = [RegisterEventHandler(handler) for handler in (*started, *lost, ended)]
    beside = [incident_recorder(given) if kept else None, runner]
    return [*filter(None, beside), *handlers, supervisor]


def supervisor_node(given: Given, files: list[Path], targets: Sequence[str], more: Mapping[str, object]) -> Node:
    """The only publisher of commands. It is not started again: its end ends everything."""
    settings = {"contract": given["contract"], **more}
    dry = [DRY_RUN_TOPIC] if len(targets) == 1 else [f"{DRY_RUN_TOPIC}_{i}" for i in range(len(targets))]
    remappings = list(zip(targets, dry, strict=True)) if is_true(given["dry_run"]) else []
    return sigma_node("supervisor_node", SUPERVISOR, given, settings, files=files, remappings=remappings)


def policy_node(given: Given, files: list[Path], *, lockstep: bool) -> Node:
    """Is started again after a crash, while the supervisor holds the arm; not after a refusal."""
    texts = {name: given[name] for name in ("contract", "checkpoint", "device", "task")}
    switches = {name: is_true(given[name]) for name in ("allow_untrained", "autostart")}
    return sigma_node(
        "policy_node",
        POLICY,
        given,
        {**texts, **switches, "lockstep": lockstep},
        files=files,
        respawn=True,
        respawn_delay=RESPAWN_DELAY_S,
        respawn_max_retries=RESPAWN_MAX_RETRIES,
        on_exit=shutdown_if_refused,
    )


def incident_recorder(given: Given) -> Node:
    """Keeps the last half minute and writes it on a stop; its end or failure changes nothing for the others."""
    settings = {"contract": given["contract"], "folder": given["incidents"]}
    return sigma_node("incident_recorder", "sigma_incidents", given, settings)


def run_policy_node(given: Given) -> Node:
    """Serves the action `run_policy`; a process of its own, for it engages where a goal says so."""
    return sigma_node("run_policy_node", "sigma_run", given, {})


def shutdown_if_refused(event: ProcessExited, context: LaunchContext) -> LaunchDescriptionEntity | None:
    """Starting again cannot help where the policy says that its arguments are wrong."""
    return ends_all("the policy")(event, context) if event.returncode == WRONG_USAGE else None


def parameter_files(context: LaunchContext, given: Given, nodes: list[str]) -> Mapping[str, list[Path]]:
    """The files that each node gets by `params_file`: a preset's for this node, or the user's where it fits.

    Raises:
        UsageError: there is no such file (launch_ros would only warn), or nothing in it fits a node.
    """
    name = given["params_file"]
    none: dict[str, list[Path]] = {node: [] for node in PRESETS}
    if not name:
        return none
    shipped = {node: preset_file(name, kind) for node, kind in PRESETS.items() if node in nodes}
    preset = {node: [file] for node, file in shipped.items() if file}
    if preset:
        return none | preset
    file = Path(name).expanduser()
    if not file.is_file():
        raise UsageError(
            "no such parameter file", where=name, expected="a YAML file, or cautious, beside_people, research or slow"
        )
    by_name = {full_name(context, given, node): node for node in nodes}
    return none | {by_name[full]: [file] for full in fitting(file, list(by_name))}
