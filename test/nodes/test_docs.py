# SPDX-License-Identifier: Apache-2.0
"""`docs/ros_interface.md` says what the code does: parameters, topics, services, and their quality of service."""

from pathlib import Path

import pytest

from sigma_ros.nodes.shared import topics
from sigma_ros.nodes.shared.node_options import (
    CameraOptions,
    DriverOptions,
    IncidentOptions,
    PanelOptions,
    PolicyOptions,
    RecordOptions,
    ReplayOptions,
    RunOptions,
    SimOptions,
    StageOptions,
    SupervisorOptions,
)
from sigma_ros.nodes.shared.parameters import markdown_table, problems, specs

pytestmark = pytest.mark.ros
DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "ros_interface.md").read_text(encoding="utf-8")
OPTIONS = (
    PolicyOptions,
    SupervisorOptions,
    RunOptions,
    StageOptions,
    ReplayOptions,
    SimOptions,
    CameraOptions,
    DriverOptions,
    RecordOptions,
    IncidentOptions,
    PanelOptions,
)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: o.__name__)
def test_the_parameter_table_is_the_codes(options):
    assert markdown_table(options) in DOCUMENT, f"put this into docs/ros_interface.md:\n{markdown_table(options)}"


TOPICS = [name for name, value in vars(topics).items() if name[0].isupper() and isinstance(value, str)]


@pytest.mark.parametrize("name", [name for name in TOPICS if not name.endswith("_NODE")])
def test_every_topic_and_service_is_documented(name):
    assert f"`/{getattr(topics, name)}`" in DOCUMENT


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: o.__name__)
def test_every_parameter_has_a_description_a_valid_default_and_a_unit_where_it_ends_in_one(options):
    for spec in specs(options):
        assert spec.description
        if spec.name.endswith(("_s", "_rad", "_ticks")):
            assert spec.unit, spec.name
    if options not in (ReplayOptions, CameraOptions, DriverOptions, RecordOptions, IncidentOptions):
        assert problems(options()) == []
