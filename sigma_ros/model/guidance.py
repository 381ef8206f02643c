# SPDX-License-Identifier: Apache-2.0
"""LeRobot's real-time chunking (arXiv:2506.07339) for a loaded base policy."""

import logging
from dataclasses import replace

from jaxtyping import Float
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from torch import Tensor

from sigma_ros.model.backbone import Backbone, RealTimeChunking

_LOG = logging.getLogger(__name__)


def allow_guidance(backbone: Backbone) -> None:
    """Gives the policy LeRobot's processor; without a left-over its actions stay the same, bit for bit.

    A checkpoint whose own config switches guidance off is overruled, as lerobot-rollout does, and that is said.
    """
    policy = backbone.policy
    found = policy.config.rtc_config
    if found is None or not found.enabled:
        if found is not None:
            _LOG.warning("the checkpoint's rtc_config has enabled: false; guided stitching was asked for and is on")
        policy.config.rtc_config = RTCConfig() if found is None else replace(found, enabled=True)
        policy.init_rtc_processor()


def guidance(left_over: Float[Tensor, "steps dof"], *, delay_steps: int) -> RealTimeChunking:
    """The arguments that lead a chunk on from normalised steps of the previous one.

    The first `delay_steps` are kept, the weight then falls to 0 over LeRobot's execution horizon behind them.
    """
    horizon = min(len(left_over), delay_steps + RTCConfig().execution_horizon)
    return {
        "prev_chunk_left_over": left_over[None],
        "inference_delay": delay_steps,
        "execution_horizon": horizon,
    }
