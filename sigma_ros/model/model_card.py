# SPDX-License-Identifier: Apache-2.0
"""The README.md that is written with a Sigma checkpoint."""

from collections.abc import Mapping

from torch import Tensor

from sigma_ros.model.manifest import Manifest

_TEMPLATE = """---
license: gemma
library_name: sigma_ros
base_model: {base}
tags: [robotics, vision-language-action, lora, pi05, sigma]
---
# Sigma checkpoint{untrained}

Adapters and telepathy heads for the frozen base `{base}` (revision {revision}, fingerprint
`{fingerprint}`). The base's weights are not in this folder and are never changed.

| | |
| --- | --- |
| trained | {trained} |
| optimiser steps, seed | {steps}, {seed} |
| data hash | {data} |
| heads | {heads} tensors, {head_numbers:,} numbers |
| adapters | {adapters} tensors, {adapter_numbers:,} numbers, rank {rank} |
| usual residual (r_ref, normalised actions) | {r_ref:.6g} |
| usual norm of the factors (tau_ref) | {tau_ref:.6g} |
{scores}
## Use

```python
from sigma_ros.model.sigma import SigmaTelepathyVLA

model = SigmaTelepathyVLA.from_base(
    base_policy="{base}", lora_dir=".", telepathy_heads_path="sigma_telepathy_heads.safetensors"
)
outputs = model({{"vis_obs": images, "robot_state": states, "texts": texts}})
blend = model.adapter(min_scale=0.0, max_scale=1.0, risk_temperature=1.0)
actions = blend(
    base_action_vector=outputs["base_action_vector"],
    telepathy_residual=outputs["telepathy_residual_vector"],
    telepathy_factors=outputs["telepathy_factors"],
    alignment=outputs["alignment"],
)
```

States and actions are in the base's normalised space. Training command: `{command}`.
"""


def model_card(manifest: Manifest, heads: Mapping[str, Tensor], adapters: Mapping[str, Tensor]) -> str:
    """The card's text; an untrained checkpoint says so in its title."""
    training, base = manifest.training, manifest.base
    rows = "".join(f"| {name} | {value:.6g} |\n" for name, value in sorted(manifest.scores.items()))
    return _TEMPLATE.format(
        base=base.source,
        revision=base.revision or "none",
        fingerprint=base.fingerprint[:16],
        untrained="" if training.trained else " (untrained: the residual is zero)",
        trained="yes" if training.trained else "no",
        steps=training.steps,
        seed=training.seed,
        data=training.data_hash or "none",
        heads=len(heads),
        head_numbers=sum(tensor.numel() for tensor in heads.values()),
        adapters=len(adapters),
        adapter_numbers=sum(tensor.numel() for tensor in adapters.values()),
        rank=min((tensor.shape[0] for name, tensor in adapters.items() if "lora_A" in name), default=0),
        r_ref=manifest.references.r_ref,
        tau_ref=manifest.references.tau_ref,
        scores=rows,
        command=training.command or "none",
    )
