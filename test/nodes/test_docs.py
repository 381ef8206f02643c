# SPDX-License-Identifier: Apache-2.0
"""`docs/ros_interface.md` says what the code does: parameters, topics, services, and their quality of service."""

import re
import runpy
from pathlib import Path

import pytest

from sigma_ros.nodes.shared import topics
from sigma_ros.nodes.shared.node_options import (
    NODES,
    CameraOptions,
    DriverOptions,
    IncidentOptions,
    RecordOptions,
    ReplayNodeOptions,
)
from sigma_ros.nodes.shared.parameters import markdown_table, problems, specs

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[2]
PAGE = runpy.run_path(str(ROOT / "scripts" / "docs_pages.py"))["parameters_page"]()
DOCUMENT = (ROOT / "docs" / "ros_interface.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("options", NODES.values(), ids=lambda o: o.__name__)
def test_the_parameter_table_is_on_the_sites_page(options):
    assert markdown_table(options) in PAGE


def test_every_node_is_in_the_documents_table_and_its_parameters_are_on_the_page():
    listed = re.findall(r"^\| `([\w ]+)` \| `/\w+` \|", DOCUMENT, re.MULTILINE)
    assert sorted(listed) == sorted(NODES)
    nodes = {file.stem for file in (ROOT / "sigma_ros" / "nodes").glob("*.py") if "BoundParameters" in file.read_text()}
    assert nodes | {"sigma panel"} == NODES.keys()


def test_the_help_of_a_node_says_default_range_unit_and_whether_it_is_live():
    said = {spec.name: spec.help for spec in specs(NODES["policy_node"])}
    assert said["alarm_below_rad"] == "live: see `alarm_joint` (default: 0.0; allowed: -10 to 10 rad)"
    assert said["autostart"].endswith("(default: True; allowed: true, false)")


TOPICS = [name for name, value in vars(topics).items() if name[0].isupper() and isinstance(value, str)]


@pytest.mark.parametrize("name", [name for name in TOPICS if not name.endswith("_NODE")])
def test_every_topic_and_service_is_documented(name):
    assert f"`/{getattr(topics, name)}`" in DOCUMENT


@pytest.mark.parametrize("options", NODES.values(), ids=lambda o: o.__name__)
def test_every_parameter_has_a_description_a_valid_default_and_a_unit_where_it_ends_in_one(options):
    for spec in specs(options):
        assert spec.description
        if spec.name.endswith(("_s", "_rad", "_ticks")):
            assert spec.unit, spec.name
    if options not in (ReplayNodeOptions, CameraOptions, DriverOptions, RecordOptions, IncidentOptions):
        assert problems(options()) == []
