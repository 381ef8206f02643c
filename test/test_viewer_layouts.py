# SPDX-License-Identifier: Apache-2.0
"""The layouts for Foxglove, PlotJuggler and RViz name topics, fields and services that exist; every panel is placed."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import yaml

from sigma_ros.contract_file import load_contract

ROOT = Path(__file__).resolve().parent.parent
CONTRACT = load_contract("so101")
MESSAGES = {"/sigma/action_chunk": "ActionChunk", "/sigma/supervisor_state": "SupervisorState"}
FOXGLOVE = json.loads((ROOT / "config" / "foxglove_layout.json").read_text())


def fields(message: str) -> set[str]:
    lines = (ROOT / "msg" / f"{message}.msg").read_text().splitlines()
    return {line.split()[1] for line in lines if re.match(r"[a-z_/0-9\[\]]+ [a-z_0-9]+", line, re.IGNORECASE)}


def check(topic: str, field: str) -> None:
    if topic in MESSAGES:
        assert field in fields(MESSAGES[topic]), f"{topic} has no field {field}"
    else:
        assert (topic, field) == (CONTRACT.joint_state_topic, "position")


def test_foxglove_draws_fields_that_exist():
    paths = [path["value"] for panel in FOXGLOVE["configById"].values() for path in panel.get("paths", ())]
    assert len(paths) > 15
    for path in paths:
        found = re.fullmatch(r"([/a-z_]+)\.([a-z_0-9]+)(\[\d\])?", path)
        assert found, path
        check(found[1], found[2])


def test_foxglove_shows_the_contracts_cameras_and_calls_the_supervisors_services():
    panels = FOXGLOVE["configById"]
    images = {panel["imageMode"]["imageTopic"] for panel in panels.values() if "imageMode" in panel}
    assert images == {camera.topic for camera in CONTRACT.cameras}
    services = {panel["serviceName"] for panel in panels.values() if "serviceName" in panel}
    documented = (ROOT / "docs" / "ros_interface.md").read_text()
    assert all(service.rsplit("/", 1)[1] in documented for service in services)
    assert "/sigma_supervisor/engage" in services


def test_every_foxglove_panel_stands_somewhere_once():
    def leaves(node):
        return [node] if isinstance(node, str) else [*leaves(node["first"]), *leaves(node["second"])]

    assert sorted(leaves(FOXGLOVE["layout"])) == sorted(FOXGLOVE["configById"])


def test_plotjuggler_draws_fields_that_exist():
    root = ET.parse(ROOT / "config" / "plotjuggler_layout.xml").getroot()
    names = [curve.attrib["name"] for curve in root.iter("curve")]
    joints = {f"{CONTRACT.joint_state_topic}/{joint}/position" for joint in CONTRACT.joint_names}
    assert joints <= set(names)
    for name in set(names) - joints:
        topic, _, field = name.rpartition("/")
        check(topic, re.sub(r"\[\d\]$", "", field))


def test_rviz_shows_the_contracts_cameras_as_they_are_published():
    displays = yaml.safe_load((ROOT / "config" / "sigma.rviz").read_text())["Visualization Manager"]["Displays"]
    images = [display["Topic"] for display in displays if display["Class"].endswith("/Image")]
    assert {topic["Value"] for topic in images} == {camera.topic for camera in CONTRACT.cameras}
    assert {topic["Reliability Policy"] for topic in images} == {"Best Effort"}, "a reliable one would see nothing"


def test_the_documents_say_how_to_open_each_layout():
    shown = (ROOT / "docs" / "runtime.md").read_text()
    for name in ("foxglove_layout.json", "plotjuggler_layout.xml", "sigma.rviz"):
        assert (ROOT / "config" / name).exists()
        assert name in shown
