# SPDX-License-Identifier: Apache-2.0
"""LeRobot's asynchronous policy server, which also serves Sigma: `python -m lerobot_policy_sigma.async_server`.

Options and protocol are `lerobot.async_inference.policy_server`'s. Its list of policies is closed, and it throws
observations away that it does not plan on; Sigma's window and memory take all of them, each at the tick of its stamp.
"""

import logging
from collections import deque
from typing import Any

from lerobot.async_inference import policy_server
from lerobot.async_inference.constants import SUPPORTED_POLICIES
from lerobot.async_inference.helpers import TimedObservation, raw_observation_to_observation
from lerobot.async_inference.policy_server import PolicyServer

from sigma_ros.lerobot.modeling_sigma import SigmaPolicy

if SigmaPolicy.name not in SUPPORTED_POLICIES:
    SUPPORTED_POLICIES.append(SigmaPolicy.name)

_WAITING = 64
"""Observations kept until the next plan; older ones become ticks without an observation."""


class SigmaPolicyServer(PolicyServer):
    """One client at a time, as LeRobot's; its policy begins anew with each client."""

    def SendPolicyInstructions(self, request: Any, context: Any) -> Any:  # noqa: N802  gRPC's name
        """Loads the policy, and forgets the observations of the client before."""
        self._received: deque[TimedObservation] = deque(maxlen=_WAITING)
        self._first_s: float | None = None
        self._tick = -1
        return super().SendPolicyInstructions(request, context)

    def _enqueue_observation(self, obs: TimedObservation) -> bool:
        self._received.append(obs)
        return bool(super()._enqueue_observation(obs))

    def _predict_action_chunk(self, observation_t: TimedObservation) -> Any:
        if not isinstance(self.policy, SigmaPolicy):
            return super()._predict_action_chunk(observation_t)
        while self._received and self._received[0].get_timestamp() < observation_t.get_timestamp():
            earlier = self._received.popleft()
            if self._tick_of(earlier) > self._tick:
                self._pass_to(earlier)
                raw = raw_observation_to_observation(
                    earlier.get_observation(), self.lerobot_features, self.policy_image_features
                )
                self.policy.notice(self.preprocessor(raw))
        if self._received and self._received[0] is observation_t:
            self._received.popleft()
        self._pass_to(observation_t)
        return super()._predict_action_chunk(observation_t)

    def _tick_of(self, observation: TimedObservation) -> int:
        stamp_s = observation.get_timestamp()
        self._first_s = stamp_s if self._first_s is None else self._first_s
        return round((stamp_s - self._first_s) * self.policy.runtime.contract.fps)

    def _pass_to(self, observation: TimedObservation) -> None:
        """Ticks without an observation are masked in the window; two of one tick count as two."""
        missed = max(0, self._tick_of(observation) - self._tick - 1)
        self.policy.pass_ticks(missed)
        self._tick += missed + 1


def main() -> None:
    """LeRobot's own command with this server."""
    logging.warning("LeRobot's protocol unpickles what clients send: serve only networks that you trust")
    policy_server.PolicyServer = SigmaPolicyServer
    policy_server.serve()


if __name__ == "__main__":
    main()
