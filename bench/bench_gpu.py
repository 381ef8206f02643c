# SPDX-License-Identifier: Apache-2.0
"""Every GPU row of docs/performance.md in one command: ticks, graphs, streams in one batch.

    python bench/bench_gpu.py                                # the full model, bf16, three cameras
    python bench/bench_gpu.py --size mini --device cpu       # the same code on a CPU, plain engine alone

Random weights: speed does not depend on them. LeRobot's eager `predict_action_chunk` is in float32, as it is shipped.
Asked on an H200: base tick < 43 ms, Sigma / base <= 1.05, LeRobot / base by graph >= 1.8, 16 streams / one >= 4.
LoRA training is measured by `bench/bench_training.py`. This has not been run on a GPU yet.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from bench_sigma_tick import LEROBOT, filled, make_model, measure, stages
from jaxtyping import Float
from torch import Tensor

from sigma_ros.model.pi05.engine import GraphEngine
from sigma_ros.model.sigma import SigmaTelepathyVLA

STREAMS = 16
TICKS = (LEROBOT, "base tick", "Sigma tick")


def batched(model: SigmaTelepathyVLA, streams: int) -> Callable[[], Float[Tensor, "streams horizon max_dof"]]:
    """Base chunks of several observation streams in one batch."""
    backbone, config = model.backbone, model.config
    patches = torch.zeros(streams, config.cameras, backbone.patch_grid**2, backbone.width, device=backbone.device)
    seen = torch.ones(streams, config.cameras, dtype=torch.bool, device=backbone.device)
    prompt = model.prompts(["put the brick into the box"] * streams, torch.zeros(streams, config.dof))
    noise = torch.zeros(streams, backbone.horizon, backbone.max_dof, device=backbone.device)
    return lambda: backbone.base_chunk(patches, seen, *prompt, noise)


def rows(size: str, device: str, repeat: int) -> dict[str, float]:
    """Median milliseconds by row."""
    found = {}
    for engine, dtype in (("plain", "float32"), ("plain", "bfloat16"), ("cuda_graph", "bfloat16")):
        if engine == "cuda_graph" and device == "cpu":
            continue
        model = make_model(size, dtype, device)
        model.backbone.engine = GraphEngine() if engine == "cuda_graph" else None
        ways = {name: way for name, way in stages(model, filled(model)).items() if name in TICKS}
        ways |= {f"chunks of {count} streams": batched(model, count) for count in (1, STREAMS)}
        taken = measure(ways, repeat, device, f"{engine}, {dtype}")
        found |= {f"{name}, {engine}, {dtype}": statistics.median(ms) for name, ms in taken.items()}
        del model
    return found


def ratios(ms: dict[str, float], best: str) -> dict[str, float]:
    """What is asked for; `best` names engine and type."""
    base, streams = ms[f"base tick, {best}"], f"chunks of {STREAMS} streams, {best}"
    return {
        "Sigma / base": ms[f"Sigma tick, {best}"] / base,
        "LeRobot eager float32 / base": ms[f"{LEROBOT}, plain, float32"] / base,
        f"chunks a second, {STREAMS} streams / one": STREAMS * ms[f"chunks of 1 streams, {best}"] / ms[streams],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="full", help="mini, wide-N or full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeat", type=int, default=20)
    given = parser.parse_args()
    ms = rows(given.size, given.device, given.repeat)
    best = "plain, bfloat16" if given.device == "cpu" else "cuda_graph, bfloat16"
    print(f"{given.size} on {given.device}\n\n| row | p50 [ms] |\n| --- | ---: |")
    print("\n".join(f"| {name} | {value:.2f} |" for name, value in ms.items()))
    print("\n" + "\n".join(f"- {name}: {value:.2f}" for name, value in ratios(ms, best).items()))


if __name__ == "__main__":
    main()
