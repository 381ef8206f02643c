# SPDX-License-Identifier: Apache-2.0
"""Records what replay needs until Ctrl-C: `ros2 launch sigma_ros record.launch.py out:=BAG task:="..."`.

With `episodes:=true` a bag each from `/sigma_record/start` to `/sigma_record/save` or `/sigma_record/discard`; keys are
for `sigma record --live --keys`, since a launch's nodes have no terminal.
"""

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit

from sigma_ros.nodes.launch.arguments import COMMON, declared, ends_all, is_true, number, sigma_node, values

ARGUMENTS = {
    "out": (None, "the bag's folder, which must not exist; with episodes the bags'"),
    **COMMON,
    "task": ("", "what is being done, in words; empty: the contract's first task"),
    "episodes": ("false", "a bag each from the service start to save or discard, instead of one at once"),
    "everything": ("false", "record every topic, instead of the contract's"),
    "seconds": ("0.0", "length in seconds; 0: until it is stopped"),
}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*declared(ARGUMENTS), OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = values(context, ARGUMENTS)
    settings: dict[str, object] = {name: given[name] for name in ("out", "contract", "task")}
    settings |= {name: is_true(given[name]) for name in ("episodes", "everything")}
    settings["seconds"] = number(given, "seconds", float)
    recorder = sigma_node("record_node", "sigma_record", given, settings)
    ended = OnProcessExit(target_action=recorder, on_exit=ends_all("the recording"))
    return [RegisterEventHandler(ended), recorder]
