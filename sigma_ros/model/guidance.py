# SPDX-License-Identifier: Apache-2.0
"""LeRobot's real-time chunking (arXiv:2506.07339) for a loaded base policy."""

from jaxtyping import Float
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from torch import Tensor

from sigma_ros.model.backbone import Backbone, RealTimeChunking


def allow_guidance(backbone: Backbone) -> None:
    """Gives the policy LeRobot's processor; without a left-over its actions stay the same, bit for bit."""
    policy = backbone.policy
    if policy.config.rtc_config is None:
        policy.config.rtc_config = RTCConfig()
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
