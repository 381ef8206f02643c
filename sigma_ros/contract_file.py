# SPDX-License-Identifier: Apache-2.0
"""Reads a contract from YAML, listing every problem at once."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigma_ros.border import one_line
from sigma_ros.contract import (
    ACTION_TYPES,
    COMMAND_TYPES,
    IMAGE_TYPES,
    MAX_SKEW_NS,
    OWN_UNIT,
    POLICY_UNITS,
    Camera,
    Contract,
    ControllerAction,
    Delays,
    Joint,
    Part,
    unit_map,
)
from sigma_ros.contract_text import (
    MAX_ENTRIES,
    Entries,
    absolute_topic,
    chosen_namespace,
    contract_document,
    said,
    shipped_config_dir,
)
from sigma_ros.errors import ContractError
from sigma_ros.kinematics import KeepOut, Kinematics, read_keep_out, read_kinematics

_ENTRIES = {
    "name",
    "fps",
    "settle_ms",
    "tasks",
    "joints",
    "cameras",
    "state",
    "action",
    "command",
    "kinematics",
    "keep_out",
    "delays",
}
_MOST_TOLD = 300
"""Characters of one problem in a message: a name may be as long as the file."""

_DELAYS, _LONGEST_DELAY_MS = ("camera", "inference", "actuator"), 5000.0
_DERIVATIVES = {"max_velocity_radps", "max_acceleration_radps2", "max_jerk_radps3"}


def load_contract(path: str | Path) -> Contract:
    """Reads a contract file, or one that ships with the package by its name (`so101`).

    Topics that do not begin with `/` lie in the namespace that stands behind the path (`so101@arm1`), if any; all
    topics of the contract that comes back begin with `/`.

    Raises:
        ContractError: the file is missing or not YAML, or a field is missing, unknown or senseless;
            every problem is listed at once.
    """
    file, document = contract_document(path)
    reader = _Reader(document, chosen_namespace(path) or "")
    contract = reader.contract()
    if contract is None or reader.problems:
        problems = [one_line(problem, _MOST_TOLD) for problem in reader.problems[:MAX_ENTRIES]]
        raise ContractError(
            f"the contract has {len(reader.problems)} problem(s)",
            where=file,
            got=" | ".join([*problems, *_more(len(reader.problems) - MAX_ENTRIES)]),
            remedy=f"compare with {shipped_config_dir() / 'so101.yaml'}; check with: sigma contract check {file}",
        )
    return contract


def _more(count: int) -> list[str]:
    return [f"and {count} more"] if count > 0 else []


def _with_new_names(camera: object) -> object:
    """A camera's entry with `model_key`, as it was called before it became two, under its new name."""
    if not isinstance(camera, dict) or "model_key" not in camera or "dataset_key" in camera:
        return camera
    warnings.warn(
        f"camera {camera.get('name')}: model_key is called dataset_key now, the camera's key in LeRobot data sets; "
        "add policy_key where the policy has another name for it",
        FutureWarning,
        stacklevel=2,
    )
    return {"dataset_key" if key == "model_key" else key: value for key, value in camera.items()}


class _Reader(Entries):
    """What each entry of a contract means, and which of them fit together."""

    def __init__(self, document: object, namespace: str) -> None:
        super().__init__()
        self._namespace = namespace
        self._root = document if isinstance(document, dict) else {}
        if not isinstance(document, dict):
            self.problems.append("the file is not a mapping")

    def contract(self) -> Contract | None:
        root = self._root
        self.unknown(root, "", _ENTRIES)
        joints = tuple(
            joint
            for i, entry in enumerate(self.list_of(root, "joints"))
            if (joint := self._joint(entry, f"joints[{i}]"))
        )
        cameras = tuple(
            camera
            for i, entry in enumerate([] if root.get("cameras") == [] else self.list_of(root, "cameras"))
            if (camera := self._camera(entry, f"cameras[{i}]"))
        )
        state = self.mapping(root, "state", {"topic", "max_age_ms", "max_skew_ms", "rate_hz", "parts"})
        command = self.mapping(root, "command", {"topic", "type", "rate_hz", "parts"})
        action = self.mapping(root, "action", {"source", "topic"})
        fps = self.number(root, "fps", "", low=1.0, high=240.0)
        settle_ms = self.number(root, "settle_ms", "", low=0.0, high=1000.0)
        state_rate_hz = self._rate(state, "state.")
        rate_hz = self.number(command, "rate_hz", "command.", low=1.0, high=1000.0)
        max_age_ms = self.number(state, "max_age_ms", "state.", low=1.0, high=10_000.0)
        skew_ms = self.number({"max_skew_ms": MAX_SKEW_NS / 1e6} | state, "max_skew_ms", "state.", low=0.0, high=1e3)
        fields: dict[str, Any] = {
            "name": self.text(root, "name", ""),
            "joint_state_topic": self._topic(state, "state."),
            "command_topic": self._topic(command, "command."),
            "command_type": self.choice(command, "type", "command.", COMMAND_TYPES),
            "action_source": self.choice(action, "source", "action.", ("command", "next_state")),
            "leader_topic": self._topic(action, "action.") if "topic" in action else None,
            "state_parts": self._parts(state, "state", joints),
            "command_parts": self._parts(command, "command", joints),
            "tasks": self.texts(self.list_of(root, "tasks"), "tasks"),
        }
        self._check_names(joints, cameras)
        states = {fields["joint_state_topic"], *(part.topic for part in fields["state_parts"])}
        if states & {fields["command_topic"], *(part.topic for part in fields["command_parts"])}:
            self.problems.append("command.topic and state.topic are the same: commands would be taken for measurements")
        delays = self._delays()
        kinematics, keep_out = self._geometry()
        if self.problems:
            return None
        return Contract(
            joints=joints,
            cameras=cameras,
            fps=fps,
            settle_ns=round(settle_ms * 1e6),
            command_period_ns=round(1e9 / rate_hz),
            joint_state_max_age_ns=round(max_age_ms * 1e6),
            joint_state_rate_hz=state_rate_hz,
            kinematics=kinematics,
            keep_out=keep_out,
            max_skew_ns=round(skew_ms * 1e6),
            delays=delays,
            **fields,
        )

    def _geometry(self) -> tuple[Kinematics | None, tuple[KeepOut, ...]]:
        """Where links and what they must keep out of are."""
        named = tuple(str(entry["name"]) for entry in self._entries("joints") if "name" in entry)
        kinematics = read_kinematics(self._root.get("kinematics"), named, self.problems)
        keep_out = read_keep_out(self._root.get("keep_out"), self.problems)
        if keep_out and (kinematics is None or not kinematics.capsules):
            self.problems.append("keep_out needs the arm's kinematics with capsules, as in config/so101.yaml")
        return kinematics, keep_out

    def _check_names(self, joints: tuple[Joint, ...], cameras: tuple[Camera, ...]) -> None:
        self.repeats([j.name for j in joints] + [a for j in joints for a in j.aliases], "joint name or alias")
        self.repeats([c.name for c in cameras], "camera name")
        self.repeats([c.topic for c in cameras], "camera topic")
        self.repeats([c.dataset_key for c in cameras], "camera dataset_key")
        self.repeats([c.policy_key for c in cameras if c.policy_key is not None], "camera policy_key")

    def _parts(self, mapping: Mapping[str, object], key: str, joints: tuple[Joint, ...]) -> tuple[Part, ...]:
        """The `parts` of `state` or `command`: they share the joints out, each joint once."""
        if "parts" not in mapping:
            return ()
        parts = [self._part(entry, f"{key}.parts[{i}]", key) for i, entry in enumerate(self.list_of(mapping, "parts"))]
        found = tuple(part for part in parts if part is not None)
        told = sorted(name for part in found for name in part.joints)
        if len(found) == len(parts) and told != sorted(joint.name for joint in joints):
            self.problems.append(f"{key}.parts must have each joint once, got {', '.join(told)}")
        self.repeats([part.topic for part in found], f"{key}.parts topic")
        return found

    def _part(self, entry: object, where: str, key: str) -> Part | None:
        keys = {"topic", "joints", "prefix"} | ({"type", "action", "action_type"} if key == "command" else set())
        if not self.is_mapping(entry, where, keys):
            return None
        assert isinstance(entry, dict)
        kind: Any = self.choice(entry, "type", where + ".", COMMAND_TYPES) if key == "command" else None
        part = Part(
            topic=self._topic(entry, where + "."),
            joints=self.texts(entry.get("joints"), where + ".joints"),
            prefix=self.text(entry, "prefix", where + ".") if "prefix" in entry else "",
            message_type=kind,
            action=self._action(entry, where + "."),
        )
        strange = [name for name in part.joints if not name.startswith(part.prefix)]
        if strange:
            self.problems.append(f"{where}: {', '.join(strange)} does not begin with the prefix {part.prefix}")
        if part.action is not None and "Gripper" in part.action.type and len(part.joints) != 1:
            self.problems.append(f"{where}.action_type is of a gripper, which has one joint, got {len(part.joints)}")
        return part

    def _action(self, entry: Mapping[str, object], where: str) -> ControllerAction | None:
        if not {"action", "action_type"} & entry.keys():
            return None
        kind: Any = self.choice(entry, "action_type", where, ACTION_TYPES)
        return ControllerAction(name=absolute_topic(self.text(entry, "action", where), self._namespace), type=kind)

    def _delays(self) -> Delays:
        if "delays" not in self._root:
            return Delays()
        told = self.mapping(self._root, "delays", {f"{name}_ms" for name in _DELAYS})
        given = [name for name in _DELAYS if f"{name}_ms" in told]
        ms = {name: self.number(told, f"{name}_ms", "delays.", low=0.0, high=_LONGEST_DELAY_MS) for name in given}
        return Delays(**{f"{name}_ns": round(value * 1e6) for name, value in ms.items()})

    def _joint(self, entry: object, where: str) -> Joint | None:
        keys = {"name", "aliases", "lower_rad", "upper_rad", "policy_unit"} | _DERIVATIVES
        if not self.is_mapping(entry, where, keys):
            return None
        assert isinstance(entry, dict)
        name = self.text(entry, "name", where + ".")
        lower = self.number(entry, "lower_rad", where + ".", low=-1e3, high=1e3)
        upper = self.number(entry, "upper_rad", where + ".", low=-1e3, high=1e3)
        limits = {key: self.number(entry, key, where + ".", low=1e-6, high=1e6) for key in sorted(_DERIVATIVES)}
        if not lower < upper:
            self.problems.append(f"{where}: lower_rad {lower} must be below upper_rad {upper}")
            return None
        unit = self._unit(entry.get("policy_unit"), where, lower, upper)
        if unit is None:
            return None
        return Joint(
            name=name,
            aliases=self.texts(entry.get("aliases", []), where + ".aliases"),
            lower_rad=lower,
            upper_rad=upper,
            policy_scale=unit[0],
            policy_offset=unit[1],
            policy_unit=OWN_UNIT if isinstance(entry.get("policy_unit"), dict) else str(entry["policy_unit"]),
            **limits,
        )

    def _unit(self, unit: object, where: str, lower: float, upper: float) -> tuple[float, float] | None:
        if isinstance(unit, dict):
            if not self.is_mapping(unit, f"{where}.policy_unit", {"scale", "offset"}):
                return None
            scale = self.number(unit, "scale", f"{where}.policy_unit.", low=-1e6, high=1e6)
            offset = self.number(unit, "offset", f"{where}.policy_unit.", low=-1e6, high=1e6)
            if scale == 0.0:
                self.problems.append(f"{where}.policy_unit.scale must not be 0")
                return None
            return scale, offset
        if unit not in POLICY_UNITS:
            self.problems.append(
                f"{where}.policy_unit is {said(unit)}, expected one of {', '.join(POLICY_UNITS)}, or scale and offset"
            )
            return None
        return unit_map(str(unit), lower, upper)

    def _camera(self, entry: object, where: str) -> Camera | None:
        keys = {"name", "topic", "type", "width_px", "height_px", "dataset_key", "policy_key", "max_age_ms", "rate_hz"}
        entry = _with_new_names(entry)
        if not self.is_mapping(entry, where, keys):
            return None
        assert isinstance(entry, dict)
        camera_type: Any = self.choice(entry, "type", where + ".", IMAGE_TYPES)
        return Camera(
            name=self.text(entry, "name", where + "."),
            topic=self._topic(entry, where + "."),
            message_type=camera_type,
            width_px=round(self.number(entry, "width_px", where + ".", low=16, high=8192)),
            height_px=round(self.number(entry, "height_px", where + ".", low=16, high=8192)),
            dataset_key=self.text(entry, "dataset_key", where + "."),
            policy_key=self.text(entry, "policy_key", where + ".") if "policy_key" in entry else None,
            max_age_ns=round(self.number(entry, "max_age_ms", where + ".", low=1.0, high=10_000.0) * 1e6),
            rate_hz=self._rate(entry, where + "."),
        )

    def _rate(self, mapping: Mapping[str, object], where: str) -> float | None:
        return self.number(mapping, "rate_hz", where, low=1.0, high=1000.0) if "rate_hz" in mapping else None

    def _entries(self, key: str) -> list[dict[str, object]]:
        """The mappings of a list, whether or not they are right."""
        value = self._root.get(key)
        return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []

    def _topic(self, mapping: Mapping[str, object], where: str) -> str:
        return absolute_topic(self.text(mapping, "topic", where), self._namespace)
