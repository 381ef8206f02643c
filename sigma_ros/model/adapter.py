# SPDX-License-Identifier: Apache-2.0
"""The risk-aware blend of the model card: `base + scale * residual`, and why the scale is what it is.

The formula is `sigma_ros.risk`, which the supervisor uses too; here it judges each sample of a batch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from sigma_ros.model.telepathy import FACTOR_RMS
from sigma_ros.risk import assess, scale_of
from sigma_ros.values import AdapterSettings, Risk

R_REF = 0.1
"""Residual size an untrained Sigma is measured against, in normalised actions (5 % of their range)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterReport:
    """Per sample: three ratios, the three risk terms they give, the scale. Same meaning as `values.Risk`."""

    residual_ratio: Float[Tensor, " batch"]
    factor_ratio: Float[Tensor, " batch"]
    alignment: Float[Tensor, " batch"]
    residual_term: Float[Tensor, " batch"]
    factor_term: Float[Tensor, " batch"]
    alignment_term: Float[Tensor, " batch"]
    scale: Float[Tensor, " batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """Reference values: statistics of training, kept in the checkpoint; defined values before training.

    `r_ref` is the rms of the residual over the trajectory steps, `tau_ref` the norm of all factors.
    """

    r_ref: float
    tau_ref: float

    def __post_init__(self) -> None:
        for name in ("r_ref", "tau_ref"):
            value = getattr(self, name)
            if not math.isfinite(value) or value <= 0.0:
                raise ValueError(f"{name} must be finite and above 0, got {value}")


def reference_tau(factor_size: int) -> float:
    """||tau|| an untrained Sigma is measured against."""
    return FACTOR_RMS * math.sqrt(factor_size)


def ratios(
    usual: References,
    residual: Float[Tensor, "batch *steps dof"],
    factors: Float[Tensor, "batch factor_count factor_width"],
    alignment: Float[Tensor, " batch"] | None = None,
) -> tuple[Float64[Tensor, " batch"], Float64[Tensor, " batch"], Float64[Tensor, " batch"]]:
    """Residual ratio, factor ratio and alignment (1 if None) against what is usual; stays on the device."""
    size = residual.to(torch.float64).flatten(1).square().mean(dim=1).sqrt()
    cosine = torch.ones_like(size) if alignment is None else alignment.to(torch.float64)
    return size / usual.r_ref, factors.to(torch.float64).flatten(1).norm(dim=1) / usual.tau_ref, cosine


class SigmaTelepathyAdapter(nn.Module):
    """Blends base and residual by risk; no trained parameters.

    Args:
        min_scale: Scale at infinite but finite-valued risk, in [0, max_scale].
        max_scale: Scale at no risk, in [min_scale, 1].
        risk_temperature: Risk at which the scale has fallen to 37 % of its span; above 0.
        r_ref: Reference rms of a residual: a statistic of training (`SigmaTelepathyVLA.adapter` fills it in).
        tau_ref: Reference ||tau||, likewise; None takes that of an untrained model.
    """

    def __init__(
        self,
        min_scale: float = 0.0,
        max_scale: float = 1.0,
        risk_temperature: float = 1.0,
        *,
        r_ref: float = R_REF,
        tau_ref: float | None = None,
    ) -> None:
        super().__init__()
        self.settings = AdapterSettings(min_scale=min_scale, max_scale=max_scale, risk_temperature=risk_temperature)
        self.r_ref = r_ref
        self.tau_ref = tau_ref

    def forward(
        self,
        *,
        base_action_vector: Float[Tensor, "batch *steps dof"],
        telepathy_residual: Float[Tensor, "batch *steps dof"],
        telepathy_factors: Float[Tensor, "batch factor_count factor_width"],
        alignment: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch *steps dof"]:
        """The blended actions, in the base's number type. Scale 0 gives the base, bit for bit."""
        report = self.assess(
            telepathy_residual=telepathy_residual, telepathy_factors=telepathy_factors, alignment=alignment
        )
        finite = torch.isfinite(base_action_vector).flatten(1).all(dim=1)
        scale = torch.where(finite, report.scale, 0.0).reshape(-1, *[1] * (base_action_vector.ndim - 1))
        blended = base_action_vector.to(torch.float64) + scale * telepathy_residual.to(torch.float64)
        return torch.where(scale == 0.0, base_action_vector, blended.to(base_action_vector.dtype))

    def ratios(
        self,
        telepathy_residual: Float[Tensor, "batch *steps dof"],
        telepathy_factors: Float[Tensor, "batch factor_count factor_width"],
        alignment: Float[Tensor, " batch"] | None = None,
    ) -> tuple[Float64[Tensor, " batch"], Float64[Tensor, " batch"], Float64[Tensor, " batch"]]:
        """Residual ratio, factor ratio and alignment (1 if None): what `risk.assess` judges."""
        tau_ref = reference_tau(telepathy_factors[0].numel()) if self.tau_ref is None else self.tau_ref
        usual = References(r_ref=self.r_ref, tau_ref=tau_ref)
        return ratios(usual, telepathy_residual, telepathy_factors, alignment)

    @torch.no_grad()
    def assess(
        self,
        *,
        telepathy_residual: Float[Tensor, "batch *steps dof"],
        telepathy_factors: Float[Tensor, "batch factor_count factor_width"],
        alignment: Float[Tensor, " batch"] | None = None,
    ) -> AdapterReport:
        """The terms behind the scale, in float64; no gradient goes through them.

        `alignment` is the model's output of that name. The card's call has no such argument: without
        it the alignment is taken as 1 and only residual and factors are judged.
        """
        residual_ratio, factor_ratio, cosine = self.ratios(telepathy_residual, telepathy_factors, alignment)
        samples = zip(residual_ratio.tolist(), factor_ratio.tolist(), cosine.tolist(), strict=True)
        risks = [assess(residual_ratio=r, factor_ratio=f, alignment=a) for r, f, a in samples]

        def values(of: Callable[[Risk], float]) -> Tensor:
            return residual_ratio.new_tensor([of(risk) for risk in risks])

        return AdapterReport(
            residual_ratio=residual_ratio,
            factor_ratio=factor_ratio,
            alignment=cosine,
            residual_term=values(lambda risk: risk.residual_term),
            factor_term=values(lambda risk: risk.factor_term),
            alignment_term=values(lambda risk: risk.alignment_term),
            scale=values(lambda risk: scale_of(risk, self.settings)),
        )
