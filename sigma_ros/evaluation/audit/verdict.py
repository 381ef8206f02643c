# SPDX-License-Identifier: Apache-2.0
"""Which channels a policy uses: a verdict each, with intervals and two controls.

A channel is used where its own content brings the actions nearer to the recorded ones than exchanged content does
(`compare`: sign-flip permutation over episodes, Holm over the policy's exchanges). It is ignored where exchanging it
moves the actions by less than `IGNORED` of what exchanging everything does, with the interval's upper end. The rest is
unclear: the actions move, not to any use. Controls: the hash of what the model was given must change, and everything
exchanged at once must be noticed; else `ignores` is not said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.evaluation.audit.channels import Channel, Exchange, Observed, Policy, Proposals
from sigma_ros.evaluation.scoring.statistics import Comparison, compare, holm, interval

Verdict = Literal["sees", "reads", "remembers", "ignores", "unclear", "not tested"]

USES: Mapping[Channel, Verdict] = {"pictures": "sees", "text": "reads", "memory": "remembers"}

SIGNIFICANT = 0.05
IGNORED = 0.05
"""Of the movement of the actions when everything is exchanged."""

_CONFIDENCE, _RESAMPLES = 0.95, 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelVerdict:
    """One policy, one exchange.

    `error` compares the mean squared errors (recorded content first), `p` is its p after Holm. `moved` is how far the
    actions moved as a share of what exchanging everything does (root mean square), with its interval. `tokens` are the
    hashes of what the model was given, as recorded and exchanged. `channel` None: everything, the control.
    """

    policy: Policy
    channel: Channel | None
    exchange: str
    verdict: Verdict
    error: Comparison
    p: float
    moved: tuple[float, float, float]
    tokens: tuple[str, str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """All verdicts; `episodes` and `windows` are what they rest on."""

    verdicts: tuple[ChannelVerdict, ...]
    episodes: int
    windows: int

    def document(self) -> dict[str, object]:
        """For a JSON file."""
        return {"schema": 1, **asdict(self)}


def judge(observed: Observed, policies: Sequence[Policy], *, seed: int = 0) -> Audit:
    """The verdicts of some policies."""
    verdicts: list[ChannelVerdict] = []
    for policy in policies:
        verdicts += _judged(observed, policy, seed)
    return Audit(
        verdicts=tuple(verdicts),
        episodes=len(observed.recorded),
        windows=sum(len(heard.target) for heard in observed.recorded),
    )


def _judged(observed: Observed, policy: Policy, seed: int) -> list[ChannelVerdict]:
    recorded = observed.recorded
    own = [heard.actions[policy] for heard in recorded]
    partner = [_as_long(own[(n + 1) % len(own)], len(actions)) for n, actions in enumerate(own)]
    errors = [_error(actions, heard.target) for actions, heard in zip(own, recorded, strict=True)]
    episodes = np.repeat(np.arange(len(own)), [len(actions) for actions in own])

    def compared(actions: Sequence[ndarray]) -> Comparison:
        theirs = [_error(one, heard.target) for one, heard in zip(actions, recorded, strict=True)]
        return compare(np.concatenate(errors), np.concatenate(theirs), episodes, seed=seed)

    shown = {number: [h.actions[policy] for h in heard] for number, (_, heard) in enumerate(observed.exchanged)}
    comparisons = {number: compared(actions) for number, actions in shown.items()}
    corrected = holm({number: comparison.p_value for number, comparison in comparisons.items()})
    control = compared(partner)
    noticed = control.p_value < SIGNIFICANT and control.difference > 0.0
    everything: dict[str, Any] = {"channel": None, "exchange": "everything", "tokens": None}
    verdict: Verdict = "sees" if noticed else "unclear"
    moved = _moved(partner, own, partner, seed)
    verdicts = [
        ChannelVerdict(policy=policy, verdict=verdict, error=control, p=control.p_value, moved=moved, **everything)
    ]
    for number, (exchange, heard) in enumerate(observed.exchanged):
        moved = _moved(shown[number], own, partner, seed)
        tokens = _tokens(exchange, recorded, heard)
        comparison, p = comparisons[number], corrected[number]
        verdict = _verdict(exchange, comparison, p, moved, reached=tokens[0] != tokens[1], noticed=noticed)
        verdicts.append(
            ChannelVerdict(
                policy=policy,
                channel=exchange.channel,
                exchange=exchange.name,
                verdict=verdict,
                error=comparison,
                p=p,
                moved=moved,
                tokens=tokens,
            )
        )
    return verdicts


def _verdict(
    exchange: Exchange,
    error: Comparison,
    p: float,
    moved: tuple[float, float, float],
    *,
    reached: bool,
    noticed: bool,
) -> Verdict:
    assert exchange.channel is not None
    if not reached:  # a policy without a memory has nothing to exchange; pictures and texts must differ
        return "ignores" if exchange.channel == "memory" else "not tested"
    if p < SIGNIFICANT and error.difference > 0.0:
        return USES[exchange.channel]
    return "ignores" if moved[2] == 0.0 or (noticed and moved[2] < IGNORED) else "unclear"


def _tokens(exchange: Exchange, recorded: Sequence[Proposals], heard: Sequence[Proposals]) -> tuple[str, str]:
    assert exchange.channel is not None
    ours, theirs = ("".join(one.tokens[exchange.channel][:4] for one in many) for many in (recorded, heard))
    return ours, theirs


def _moved(
    actions: Sequence[ndarray], own: Sequence[ndarray], partner: Sequence[ndarray], seed: int
) -> tuple[float, float, float]:
    """Root of the squared movement as a share of that towards the partner's actions, with its interval."""
    moves = np.array([float(np.square(one - ours).sum()) for one, ours in zip(actions, own, strict=True)])
    most = np.array([float(np.square(other - ours).sum()) for other, ours in zip(partner, own, strict=True)])
    low, high = interval(moves, most, seed=seed, confidence=_CONFIDENCE, resamples=_RESAMPLES)
    return tuple(float(np.sqrt(max(0.0, value))) for value in (moves.sum() / most.sum(), low, high))  # type: ignore[return-value]


def _error(
    actions: Float64[ndarray, "windows steps dof"], target: Float64[ndarray, "windows steps dof"]
) -> Float64[ndarray, " windows"]:
    return np.asarray(np.square(actions - target).mean(axis=(1, 2)))


def _as_long(actions: ndarray, windows: int) -> ndarray:
    """The last window again behind the end."""
    return actions[np.minimum(np.arange(windows), len(actions) - 1)]
