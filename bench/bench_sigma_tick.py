# SPDX-License-Identifier: Apache-2.0
"""What a tick of Sigma costs beside a tick of its base, split into its stages.

    python bench/bench_sigma_tick.py                             # the small model, float32
    python bench/bench_sigma_tick.py --size full --dtype bfloat16 --repeat 5     # 8 GB; see `free -g`
    python bench/bench_sigma_tick.py --size full --dtype bfloat16 --device cuda

Random weights, two cameras, one new tick. Stages take turns and ratios are medians over the turns, so that a busy
machine slows both sides alike; with --threads 1 the CPU time of the process counts, otherwise the wall clock.
Asked: Sigma / base <= 1.15, reuse of frame tokens >= 8. Exit code 1 when a ratio is missed.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from random_base import random_backbone, sizes_of
from rich.progress import track

from sigma_ros.contract_file import load_contract
from sigma_ros.model.pi05.backbone import clean_task
from sigma_ros.model.pi05.flow import flow_noise
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.step import RecurrentState, advance, initial_state, plan, telepathy_input_of
from sigma_ros.model.tokens import ModelInput
from sigma_ros.values import WINDOW_TICKS

ASKED_TICK = 1.15
ASKED_REUSE = 8.0
LEROBOT = "LeRobot: predict_action_chunk"
TASK = "pink lego brick into the transparent box"


def make_model(size: str, dtype: str, device: str) -> SigmaTelepathyVLA:
    backbone = random_backbone(load_contract("so101"), sizes_of(size), dtype).to(device)
    return SigmaTelepathyVLA(backbone, SigmaConfig.for_backbone(backbone))


def sight(model: SigmaTelepathyVLA, tick: int) -> ModelInput:
    generator = torch.Generator().manual_seed(tick)
    px, cameras = model.backbone.image_size_px, model.config.cameras
    return ModelInput(
        tick=tick,
        images=torch.randint(0, 256, (cameras, px, px, 3), dtype=torch.uint8, generator=generator),
        seen=torch.ones(cameras, dtype=torch.bool),
        state=torch.zeros(model.config.dof),
    )


def filled(model: SigmaTelepathyVLA) -> RecurrentState:
    """A state whose window is full; every tick holds the same pictures, which costs no time to encode."""
    state = initial_state(model, epoch=0, task=clean_task(TASK))
    encoded = model.encode(sight(model, 0))
    ticks = tuple(range(WINDOW_TICKS))
    return replace(state, ring=state.ring.slide(ticks, {tick: replace(encoded, tick=tick) for tick in ticks}))


def window_of(tick: int) -> tuple[int, ...]:
    return tuple(range(tick - WINDOW_TICKS + 1, tick + 1))


def stages(model: SigmaTelepathyVLA, state: RecurrentState) -> dict[str, Callable[[], object]]:
    """Functions to time; each does the whole of what its name says, from the same state."""
    backbone, config = model.backbone, model.config
    tick = state.ring.ticks[-1] + 1
    newest = sight(model, tick)
    noise = flow_noise(seed=0, epoch=0, tick=tick, horizon=backbone.horizon, max_dof=backbone.max_dof)
    noise = noise.to(backbone.device)
    ready = advance(model, state, window_of(tick), lambda _: newest)
    telepathy_input, previous, patches = telepathy_input_of(model, ready), ready.recurrence, ready.ring.patches[None]
    seen = torch.ones(1, config.cameras, dtype=torch.bool, device=backbone.device)
    tokens, mask = backbone.tokenize(TASK, torch.zeros(1, config.dof).numpy())
    prefix = backbone.prefix(patches, seen, tokens, mask)
    base = torch.zeros(1, config.horizon, config.dof, device=backbone.device)
    images = {
        key: newest.images[None, camera].permute(0, 3, 1, 2).float().to(backbone.device) / 255.0
        for camera, key in enumerate(backbone.camera_keys)
    }
    lerobot = {**images, "observation.language.tokens": tokens, "observation.language.attention_mask": mask}

    def base_tick() -> object:
        encoded = model.encode(newest)
        text = backbone.tokenize(TASK, torch.zeros(1, config.dof).numpy())
        return backbone.base_chunk(encoded.patches[None], seen, *text, noise)

    return {
        LEROBOT: lambda: backbone.policy.predict_action_chunk(lerobot, noise=noise),
        "base tick": base_tick,
        "Sigma tick": lambda: plan(
            model, advance(model, state, window_of(tick), lambda _: newest), noise=noise, commit=True
        ),
        "vision (1 tick, both cameras)": lambda: model.encode(newest),
        "prefix": lambda: backbone.prefix(patches, seen, tokens, mask),
        "flow steps": lambda: backbone.flow(prefix, noise),
        "telepathy and residual": lambda: model.correct(
            model.believe(telepathy_input, previous), telepathy_input.states[:, -1], base
        ),
        "of it: language model": lambda: model.reader(*reader_inputs(model), read=config.readouts),
    }


def windows(model: SigmaTelepathyVLA, state: RecurrentState) -> dict[str, Callable[[], object]]:
    """The next window from the ring buffer, and the same one without it."""
    tick = state.ring.ticks[-1] + 1
    recording = {t: sight(model, t) for t in window_of(tick)}
    empty = initial_state(model, epoch=0, task=state.task)
    return {
        "window from the ring": lambda: advance(model, state, window_of(tick), recording.__getitem__),
        "window encoded anew": lambda: advance(model, empty, window_of(tick), recording.__getitem__),
    }


def reader_inputs(model: SigmaTelepathyVLA) -> tuple[torch.Tensor, torch.Tensor]:
    config, backbone = model.config, model.backbone
    length = config.resampler_queries + config.text_tokens + config.state_tokens + config.readouts
    embeds = torch.zeros(1, length, config.width, dtype=backbone.dtype, device=backbone.device)
    return embeds, torch.ones(1, length, dtype=torch.bool, device=backbone.device)


@torch.no_grad()
def measure(functions: dict[str, Callable[[], object]], repeat: int, device: str, what: str) -> dict[str, list[float]]:
    """Milliseconds of each function, taking turns; the first turn warms up and is thrown away."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    clock = time.process_time_ns if torch.get_num_threads() == 1 and device == "cpu" else time.perf_counter_ns
    for turn in track(range(repeat + 1 if repeat else 0), description=what):
        for name, function in functions.items():
            if device != "cpu":
                torch.cuda.synchronize()
            started = clock()
            function()
            if device != "cpu":
                torch.cuda.synchronize()
            if turn:
                taken[name].append((clock() - started) / 1e6)
    return taken


def ratio(above: list[float], below: list[float]) -> float:
    """Median over the turns of the quotient of the same turn."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def show(taken: dict[str, list[float]], merged: dict[str, list[float]], ratios: dict[str, float]) -> str:
    lines = ["| stage | p50 [ms] | least [ms] | merged adapters, p50 [ms] |", "| --- | --- | --- | --- |"]
    for name, times in taken.items():
        other = f"{statistics.median(merged[name]):.2f}" if name in merged else ""
        lines.append(f"| {name} | {statistics.median(times):.2f} | {min(times):.2f} | {other} |")
    return "\n".join([*lines, "", *(f"- {name}: {value:.3f}" for name, value in ratios.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="mini", help="mini, wide-N or full")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--threads", type=int, help="torch threads; default torch's own")
    parser.add_argument("--reuse-repeat", type=int, default=3, help="turns of encoding whole windows anew; 0: none")
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = make_model(args.size, args.dtype, args.device)
    state = filled(model)
    taken = measure(stages(model, state), args.repeat, args.device, f"{args.size}, adapters apart")
    reuse = measure(windows(model, state), args.reuse_repeat, args.device, f"{args.size}, frame tokens")
    paid = model.merge_for_serving()
    serving = {"Sigma tick", "base tick", "telepathy and residual", "of it: language model"}
    functions = {name: f for name, f in stages(model, state).items() if name in serving}
    merged = measure(functions, args.repeat, args.device, f"{args.size}, adapters merged")
    ratios = {
        "Sigma / base": ratio(taken["Sigma tick"], taken["base tick"]),
        "Sigma / base, merged": ratio(merged["Sigma tick"], merged["base tick"]),
        "Sigma / LeRobot's predict_action_chunk": ratio(taken["Sigma tick"], taken[LEROBOT]),
        "language model, adapters apart / merged": statistics.median(taken["of it: language model"])
        / statistics.median(merged["of it: language model"]),
        "merged projections [GB]": paid / 1e9,
    }
    if args.reuse_repeat:
        ratios["frame-token reuse"] = ratio(reuse["window encoded anew"], reuse["window from the ring"])
        taken |= reuse
    print(f"size {args.size}, {args.dtype} on {args.device}, {torch.get_num_threads()} threads, {args.repeat} turns\n")
    print(show(taken, merged, ratios))
    args.out.mkdir(parents=True, exist_ok=True)
    record = {
        "size": args.size,
        "dtype": args.dtype,
        "device": args.device,
        "ratios": ratios,
        "ms": taken,
        "merged": merged,
    }
    (args.out / f"sigma_tick_{args.size}.json").write_text(json.dumps(record, indent=2) + "\n")
    missed = ratios["Sigma / base, merged"] > ASKED_TICK or ratios.get("frame-token reuse", ASKED_REUSE) < ASKED_REUSE
    sys.exit(int(missed))


if __name__ == "__main__":
    main()
