# SPDX-License-Identifier: Apache-2.0
"""The supervisor's parameters are its settings: names, defaults, ranges, units."""

from dataclasses import fields

import pytest

from sigma_ros.nodes.shared.parameters import markdown_table
from sigma_ros.nodes.supervisor.options import SupervisorOptions, supervisor_options
from sigma_ros.supervisor.limits import SupervisorLimits

pytestmark = pytest.mark.ros


def test_the_supervisors_parameters_are_its_settings_each_with_its_own_default() -> None:
    assert SupervisorOptions().limits == SupervisorLimits()
    slower = SupervisorLimits(position_margin_rad=0.1, velocity_scale=0.5)
    assert supervisor_options(slower).limits == slower


def test_the_supervisors_rows_are_those_of_its_limits() -> None:
    table = markdown_table(SupervisorOptions)
    for entry in (entry for entry in fields(SupervisorLimits) if entry.metadata):
        facts = entry.metadata
        row = f"| `{entry.name}` | `{entry.default!r}` | {facts['low']:g} to {facts['high']:g} | {facts['unit']} |"
        assert row in table, entry.name
