# SPDX-License-Identifier: Apache-2.0
"""Load a Sigma model and call it as the model card does: factors, residuals, and the adapter that blends them.

    python examples/card_model.py

It uses the small model that ships with the package, on grey pictures and a resting arm. For real weights replace the
three paths by `lerobot/pi05_base` and the folder of a trained Sigma.
"""

from pathlib import Path

import torch

import sigma_ros
from sigma_ros.model.sigma import SigmaTelepathyVLA

ASSETS = Path(sigma_ros.__file__).parent / "assets"
WINDOW_TICKS, JOINTS, IMAGE_PX = 16, 6, 112


def main() -> None:
    """One window of 16 frames, with one camera, through the model and the adapter."""
    sigma = SigmaTelepathyVLA.from_base(
        ASSETS / "mini",
        lora_dir=ASSETS / "mini_sigma",
        telepathy_heads_path=ASSETS / "mini_sigma" / "sigma_telepathy_heads.safetensors",
        device="cpu",
    ).eval()
    batch = {
        "vis_obs": torch.full((1, WINDOW_TICKS, 3, IMAGE_PX, IMAGE_PX), 0.5),  # one camera, in [0, 1]
        "robot_state": torch.zeros(1, WINDOW_TICKS, JOINTS),  # normalised to [-1, 1]: 0 is mid range
        "texts": ["pink lego brick into the transparent box"],
    }
    with torch.no_grad():
        out = sigma(batch)
        adapter = sigma.adapter(min_scale=0.0, max_scale=1.0, risk_temperature=1.0)
        actions = adapter(
            base_action_vector=out["base_action_vector"],
            telepathy_residual=out["telepathy_residual_vector"],
            telepathy_factors=out["telepathy_factors"],
        )
    torch.set_printoptions(precision=3, sci_mode=False)
    print("base      ", out["base_action_vector"])
    print("residual  ", out["telepathy_residual_vector"])
    print("blended   ", actions)
    print("factors   ", list(out["telepathy_factors"].shape), "norm", f"{out['telepathy_factors'].norm():.2f}")


if __name__ == "__main__":
    main()
