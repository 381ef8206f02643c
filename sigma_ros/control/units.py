# SPDX-License-Identifier: Apache-2.0
"""A pose in foreign units makes a tick unusable: the same words live, in lockstep and in the graph-free replay."""

from sigma_ros.contract import Contract
from sigma_ros.values import Gap, Window


def units_gap(window: Window, problems: tuple[str, ...], contract: Contract) -> Gap:
    """The tick of a window whose pose cannot be in the units of the training data."""
    reason = (
        f"units: the pose does not look like the training data: {'; '.join(problems)}; check that joint states "
        f"are in radians, and policy_unit and limits in the contract {contract.name}"
    )
    return Gap(epoch=window.epoch, tick=window.tick, stamp_ns=window.stamp_ns, reasons=(reason,))
