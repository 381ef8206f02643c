# SPDX-License-Identifier: Apache-2.0
"""LeRobot's asynchronous server and client around Sigma: the chunk that arrives is the policy's own."""

import pickle
import shutil
import sys
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from lerobot.async_inference.configs import PolicyServerConfig, RobotClientConfig
from lerobot.async_inference.helpers import TimedObservation
from lerobot.transport import services_pb2, services_pb2_grpc
from waving_arm import CAMERAS, JOINTS, WavingArmConfig, observation

from sigma_ros.lerobot.configuration_sigma import SigmaPolicyConfig
from sigma_ros.lerobot.modeling_sigma import SigmaPolicy
from sigma_ros.lerobot.processor_sigma import write_lerobot_files

sys.path.append(str(Path(__file__).resolve().parents[2] / "plugins" / "lerobot_policy_sigma"))
TASK, STEPS, START_S = "pick the brick", 10, 1000.0


@dataclass(frozen=True)
class Connected:
    server: Any
    client: Any


@pytest.fixture
def connected(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Connected, Path]]:
    monkeypatch.chdir(tmp_path)  # LeRobot's loggers write where they are imported
    from lerobot.async_inference.robot_client import RobotClient  # noqa: PLC0415
    from lerobot_policy_sigma.async_server import SigmaPolicyServer  # noqa: PLC0415

    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "sigma"))
    write_lerobot_files(folder, SigmaPolicyConfig(device="cpu"))
    ours = SigmaPolicyServer(PolicyServerConfig(inference_latency=0.0, obs_queue_timeout=60.0))
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    services_pb2_grpc.add_AsyncInferenceServicer_to_server(ours, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    client = RobotClient(
        RobotClientConfig(
            policy_type="sigma",
            pretrained_name_or_path=str(folder),
            robot=WavingArmConfig(log=str(tmp_path / "sent.json")),
            actions_per_chunk=STEPS,
            server_address=f"127.0.0.1:{port}",
        )
    )
    assert client.start()
    yield Connected(ours, client), folder
    client.stop()
    server.stop(None).wait()


def send(client: Any, number: int) -> None:
    """The arm's observation of this number, a contract's period after the one before."""
    seen = {**observation(number), "task": TASK}
    timed = {"timestamp": START_S + number / 30, "timestep": number, "must_go": number == 0}  # as the client has it
    assert client.send_observation(TimedObservation(observation=seen, **timed))


def chunk(client: Any) -> tuple[list[int], np.ndarray]:
    """What the server answers: the actions' numbers and values."""
    answer = client.stub.GetActions(services_pb2.Empty())
    actions = pickle.loads(answer.data)
    return [a.get_timestep() for a in actions], np.stack([a.get_action().numpy() for a in actions])


def batch(number: int) -> dict[str, Any]:
    seen = observation(number)
    pictures = {f"observation.images.{c}": torch.from_numpy(seen[c]).permute(2, 0, 1)[None] for c in CAMERAS}
    return {**pictures, "observation.state": torch.tensor([[seen[name] for name in JOINTS]]), "task": [TASK]}


@pytest.mark.parametrize("lost", [(), (5, 6, 18)])
def test_every_observation_counts_and_the_newest_is_planned_on(
    connected: tuple[Connected, Path], lost: tuple[int, ...]
) -> None:
    """As a client does that sends each tick while the server plans on few; some get lost."""
    parts, folder = connected
    policy, planned = SigmaPolicy.from_pretrained(folder), (0, 7, 23)
    for number in range(24):
        if number in lost:
            policy.pass_ticks(1)
            continue
        send(parts.client, number)
        if number not in planned:
            policy.notice(batch(number))
            continue
        numbers, got = chunk(parts.client)
        expected = policy.predict_action_chunk(batch(number))[0, :STEPS]
        assert numbers == list(range(number, number + STEPS))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    memoryless = SigmaPolicy.from_pretrained(folder)
    assert np.abs(got - memoryless.predict_action_chunk(batch(23))[0, :STEPS].numpy()).max() > 1e-3


def test_a_new_client_begins_anew(connected: tuple[Connected, Path]) -> None:
    parts, _ = connected
    for number in range(3):
        send(parts.client, number)
    first_numbers, _ = chunk(parts.client)
    assert parts.client.start()
    send(parts.client, 0)
    _, again = chunk(parts.client)
    assert parts.client.start()
    send(parts.client, 0)
    _, once_more = chunk(parts.client)
    assert first_numbers[0] == 2
    np.testing.assert_array_equal(again, once_more)
