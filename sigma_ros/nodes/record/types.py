# SPDX-License-Identifier: Apache-2.0
"""Message types by their names, for a recorder of everything: their Python classes and full definitions."""

import functools
import importlib
import os
from pathlib import Path
from typing import Any

from rosbags.typesys import get_types_from_msg
from rosbags.typesys.store import Typestore

from sigma_ros.bags.incident import own_definitions
from sigma_ros.bags.messages import ROS_TYPES


@functools.cache
def message_class(name: str) -> Any:
    """The Python class of `sensor_msgs/msg/Image`; None where its package is not installed."""
    package, _, kind = name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind, None)
    except ImportError:
        return None


@functools.cache
def definition(name: str) -> str | None:
    """What a bag must say of a type that is none of ROS 2's common ones: its definition, with those inside it.

    None: it is a common one.

    Raises:
        FileNotFoundError: no installed package has it.
    """
    if name in ROS_TYPES.fielddefs:
        return None
    ours = own_definitions().get(name)
    if ours is not None:
        return ours
    store, waiting = Typestore(), [name]
    store.register(dict(ROS_TYPES.fielddefs))
    while waiting:
        found = get_types_from_msg(_file(wanted := waiting.pop()).read_text(encoding="utf-8"), wanted)
        store.register(found)
        waiting += sorted(_inside(found) - set(store.fielddefs))
    return str(store.generate_msgdef(name, ros_version=2)[0])


def can_be_recorded(name: str) -> bool:
    """Whether a type is installed here."""
    try:
        definition(name)
    except FileNotFoundError:
        return False
    return message_class(name) is not None


def _inside(types: Any) -> set[str]:
    """Names of the types that fields have, however deep in arrays."""
    names: set[str] = set()
    pending = [field[1] for _constants, fields in types.values() for field in fields]
    while pending:
        _kind, what = pending.pop()
        if isinstance(what, str) and "/msg/" in what:
            names.add(what)
        elif isinstance(what, tuple) and isinstance(what[0], tuple):
            pending.append(what[0])
    return names


def _file(name: str) -> Path:
    package, _, kind = name.partition("/msg/")
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        file = Path(prefix, "share", package, "msg", f"{kind}.msg")
        if file.is_file():
            return file
    raise FileNotFoundError(f"{name} is in no installed package")
