# SPDX-License-Identifier: Apache-2.0
"""Host work of a policy tick, from two raw 640x480 camera messages and a joint message to the model's input tensors.

Reference: LeRobot's own preparation of the same pictures, `prepare_observation_for_inference` and
`PI05Policy._preprocess_images`. Asked: under 1 ms p50 and at least 4 times faster.
Run: python bench/bench_host_tick.py
"""

import argparse
from types import SimpleNamespace

import numpy as np
import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from lerobot.policies.utils import prepare_observation_for_inference
from shared.side_by_side import interleaved, table

from sigma_ros.contract_file import load_contract
from sigma_ros.model.pi05.backbone import Backbone
from sigma_ros.streams.frame_clock import FrameClock
from sigma_ros.streams.images import ImageMessage
from sigma_ros.values import Window

CONTRACT = load_contract("so101")
SIZE = 224
TICKS = 50


def messages(tick: int) -> dict[str, ImageMessage]:
    random = np.random.default_rng(tick % 4)
    return {
        camera.name: ImageMessage(
            encoding="rgb8",
            height=480,
            width=640,
            step=1920,
            data=random.integers(0, 256, (480, 640, 3), dtype=np.uint8).tobytes(),
            is_compressed=False,
        )
        for camera in CONTRACT.cameras
    }


TICK_MESSAGES = [messages(tick) for tick in range(4)]
POSE = np.zeros(CONTRACT.dof)


BACKBONE = SimpleNamespace(
    device=torch.device("cpu"), policy=SimpleNamespace(config=SimpleNamespace(image_resolution=(SIZE, SIZE)))
)


def bytes_for_the_model() -> torch.Tensor:
    """The frame clock as the node runs it, up to the bytes that go to the model's device."""
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    for tick in range(TICKS):
        images = next_images(clock, tick)
    return images


def floats_for_the_model() -> torch.Tensor:
    """The same, and the backbone's conversion on the CPU; with a GPU that is the GPU's work."""
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    for tick in range(TICKS):
        pixels = Backbone._pixels(BACKBONE, next_images(clock, tick))
    return pixels


def next_images(clock: FrameClock, tick: int) -> torch.Tensor:
    stamp_ns = 10**18 + CONTRACT.tick_offset_ns(tick)
    for name, message in TICK_MESSAGES[tick % 4].items():
        clock.push_image(name, stamp_ns, message)
    clock.push_joints(stamp_ns, CONTRACT.joint_names, POSE)
    assert clock.ready(stamp_ns)
    window = clock.next_tick()
    assert isinstance(window, Window)
    return torch.from_numpy(np.stack(list(window.newest.images.values())))


STUB = SimpleNamespace(
    parameters=lambda: iter([torch.zeros(1)]),
    config=SimpleNamespace(
        image_features={camera.dataset_key: None for camera in CONTRACT.cameras}, image_resolution=(SIZE, SIZE)
    ),
)


# What a LeRobot camera hands over: an array that may be written to.
CAMERA_ARRAYS = [
    {
        name: np.frombuffer(bytearray(message.data), dtype=np.uint8).reshape(480, 640, 3)
        for name, message in tick.items()
    }
    for tick in TICK_MESSAGES
]


def lerobots() -> torch.Tensor:
    for tick in range(TICKS):
        arrays = CAMERA_ARRAYS[tick % 4]
        observation: dict[str, np.ndarray] = {camera.dataset_key: arrays[camera.name] for camera in CONTRACT.cameras}
        observation["observation.state"] = POSE.astype(np.float32)
        batch = prepare_observation_for_inference(observation, torch.device("cpu"), CONTRACT.tasks[0])
        pixels, _ = PI05Policy._preprocess_images(STUB, batch)
    return torch.cat(pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=15)
    options = parser.parse_args()
    difference = (floats_for_the_model() - lerobots()).abs().max().item() / 2.0
    print(f"largest difference of the two results: {difference * 255:.2f} / 255\n")
    ways = {
        "LeRobot, to floats": lerobots,
        "sigma, to floats": floats_for_the_model,
        "sigma, to the bytes a GPU is given": bytes_for_the_model,
    }
    for threads in (1, 2):
        torch.set_num_threads(threads)
        print(f"### {threads} torch thread(s)\n")
        print(
            table(
                interleaved(ways, repetitions=options.repetitions),
                unit="tick",
                per=TICKS,
                reference="LeRobot, to floats",
            )
        )
        print()


if __name__ == "__main__":
    main()
