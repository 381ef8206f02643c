# SPDX-License-Identifier: Apache-2.0
"""Motion to measure delays in, from a recording or the simulator; and where the delays are written to."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy import ndarray

from sigma_ros.bags.reader import open_bag
from sigma_ros.bags.topics import camera_topics
from sigma_ros.border import whole
from sigma_ros.contract import Contract, Delays
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import BagError, ContractError
from sigma_ros.streams.delays import Motion
from sigma_ros.streams.images import decode_full
from sigma_ros.streams.joints import JointReader
from sigma_ros.streams.stream import JOINTS

if TYPE_CHECKING:
    from sigma_ros.bags.reader import Record

_CHUNKS = "sigma/action_chunk"
_SEED = 4000


def recorded(path: Path, contract: Contract) -> Motion:
    """A recording's motion. A bag of a running graph has chunks too; commands and chunks count from their arrival.

    Raises:
        BagError: it lacks the joint states.
    """
    motion, joints = Motion(), JointReader(contract)
    with open_bag(path) as bag:
        cameras = {place.topic: name for name, place in camera_topics(bag, contract).items()}
        by_name = {camera.name: camera for camera in contract.cameras}
        state, command = bag.topic(contract.joint_state_topic), bag.topic(contract.action_topic)
        chunks = [topic for topic in bag.info.topics if topic.endswith(_CHUNKS)]
        for record in bag.records([state, command, *cameras, *chunks]):
            if record.topic == state:
                motion.joints.append((record.stamp_ns, joints.read(*_joints(record, contract))))
            elif record.topic == command:
                motion.commands.append((record.log_time_ns, joints.read(*_joints(record, contract))))
            elif record.topic in cameras:
                name = cameras[record.topic]
                motion.picture(name, record.stamp_ns, decode_full(record.message, by_name[name]))
            else:
                motion.chunk_delays_ns.append(record.log_time_ns - record.stamp_ns)
    if not motion.joints:
        raise BagError("the recording has no joint states", where=path, expected=contract.joint_state_topic)
    return motion


def _joints(record: "Record", contract: Contract) -> tuple[tuple[str, ...], ndarray]:
    message = record.message
    if isinstance(message, ndarray):
        return contract.joint_names, message
    return message.names, np.asarray(message.positions_rad)


def simulated(setup: str, contract: Contract) -> Motion:
    """A demonstration of the expert in a simulated set-up, its pictures as late as the contract's `delays` say."""
    from sigma_ros.sim.demonstration import demonstrate  # noqa: PLC0415 - mujoco
    from sigma_ros.sim.environment import SimArm  # noqa: PLC0415
    from sigma_ros.sim.setups import setup_named  # noqa: PLC0415

    motion = Motion()
    late = contract.ticks_of(contract.delays.camera_ns)
    with SimArm(setup_named(setup), contract=contract) as arm:
        shown = demonstrate(arm, _SEED)
        for tick in range(shown.ticks):
            stamp_ns = contract.tick_offset_ns(tick)
            motion.joints.append((stamp_ns, shown.positions_rad[tick]))
            motion.commands.append((stamp_ns, shown.commands_rad[tick]))
            for camera in contract.cameras:
                motion.picture(camera.name, stamp_ns, arm.draw(shown.states[max(0, tick - late)], camera.name))
    return motion


def written(file: Path, found: Delays, rates_hz: Mapping[str, float]) -> str:
    """Puts the section `delays` into a contract's file, in place of the one that is there, and `rate_hz` of streams.

    Everything else in the file stays as it is. A stream that another file describes (`extends`) stays without. Gives
    the lines that say what was written.

    Raises:
        ContractError: the file has a section of another form, or would not be a contract any more; it is left alone.
    """
    parts = {name: getattr(found, f"{name}_ns") for name in ("camera", "inference", "actuator")}
    values = ", ".join(f"{name}_ms: {value_ns / 1e6:.1f}" for name, value_ns in parts.items() if value_ns is not None)
    line = f"delays: {{{values}}}"
    text, told = file.read_text(encoding="utf-8"), [line]
    for name, rate_hz in rates_hz.items():
        changed = _with_rate(text, name, rate_hz)
        told.append(f"{name}: rate_hz: {rate_hz:g}" + ("" if changed is not None else " (not in this file: left out)"))
        text = text if changed is None else changed
    text, count = re.subn(r"(?m)^delays:.*$", line, text)
    if count == 0:
        text = f"{text.rstrip()}\n\n{line}\n"
    try:
        with whole(file) as partial:
            partial.write_text(text, encoding="utf-8")
            load_contract(partial)
    except ContractError as error:
        remedy = f"write it in one line, as: {line}"
        raise ContractError("the section delays cannot be written", where=file, got=error.got, remedy=remedy) from error
    return "\n".join(told)


def _with_rate(text: str, stream: str, rate_hz: float) -> str | None:
    """The file's text with the rate of a camera or of the joints (`JOINTS`); None where it does not describe them."""
    root = _entries(yaml.compose(text, Loader=yaml.SafeLoader))
    described: list[Any] = [root.get("state")] if stream == JOINTS else getattr(root.get("cameras"), "value", [])
    for node in described:
        entries = _entries(node)
        if not entries or (stream != JOINTS and getattr(entries.get("name"), "value", None) != stream):
            continue
        if "rate_hz" in entries:
            old = entries["rate_hz"]
            return f"{text[: old.start_mark.index]}{rate_hz:g}{text[old.end_mark.index :]}"
        first = node.value[0][0].start_mark
        between = ", " if node.flow_style else "\n" + " " * first.column
        return f"{text[: first.index]}rate_hz: {rate_hz:g}{between}{text[first.index :]}"
    return None


def _entries(node: yaml.Node | None) -> dict[str, yaml.Node]:
    return {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
