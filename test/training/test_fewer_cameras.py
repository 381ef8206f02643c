# SPDX-License-Identifier: Apache-2.0
"""A policy with more cameras than the robot: training sees what the robot's own runtime will see."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator

from sigma_ros.camera_names import policy_keys, seated
from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import ContractError
from sigma_ros.model.normalise import PolicyUnits, Scaling
from sigma_ros.model.pi05.mini import IMAGE_PX, TINY, build_mini
from sigma_ros.model.tokens import CameraMapping, ModelInputBuilder
from sigma_ros.values import Frame
from training.cache import CacheSettings, cache_key
from training.options import TrainOptions
from training.run import Run
from training.toy.locate import augmented

from bags import small_contract  # type: ignore[import-not-found]  # isort: skip


def with_cameras(contract: Contract, keys: list[str]) -> Contract:
    return replace(contract, cameras=tuple(camera for camera in contract.cameras if camera.name in keys))


@pytest.fixture(params=[["side"], []], ids=["one of two", "none"])
def fewer(request, base, recordings, shards_of, tmp_path) -> Run:
    """A run on shards and a contract with some of the base's cameras."""
    contract = with_cameras(small_contract(), request.param)
    shards_of(tmp_path / "data", recordings, contract)
    whole = yaml.safe_load((Path(__file__).parents[2] / "config" / "so101.yaml").read_text(encoding="utf-8"))
    file = tmp_path / "fewer.yaml"
    cameras = [camera for camera in whole["cameras"] if camera["name"] in request.param]
    file.write_text(yaml.safe_dump({"extends": "so101", "cameras": cameras}), encoding="utf-8")
    return Run(
        TrainOptions(
            base_model_id=str(base),
            dataset_dir=str(tmp_path / "data"),
            output_dir=str(tmp_path / "run"),
            contract=str(file),
            batch_size=2,
            gradient_accumulation_steps=1,
            max_steps=2,
            eval_every=0,
        ),
        Accelerator(cpu=True),
    )


def test_training_reads_the_cameras_that_the_robots_runtime_will_read(fewer):
    contract = load_contract(fewer.options.contract)
    backbone = fewer.model.backbone
    units = PolicyUnits(contract=contract, normalisation=fewer.normalisation)
    inputs = ModelInputBuilder.fitting(backbone, units)
    episode = fewer.data.episodes[0]
    frames, row = episode.frames(20, 21)[0], 20
    frame = Frame(
        epoch=0,
        tick=row,
        stamp_ns=0,
        images={camera.name: frames[i] for i, camera in enumerate(contract.cameras)},
        positions_rad=contract.to_rad(episode.states[row].astype(np.float64)),
        image_age_ns={camera.name: 0 for camera in contract.cameras},
        joint_age_ns=0,
    )
    encoded = fewer.model.encode(inputs.model_input(frame))
    window = fewer.assembler.window(0, row)
    assert torch.equal(window["seen"][-1], encoded.seen)
    torch.testing.assert_close(window["pooled"][-1], encoded.pooled, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(window["states"][-1], encoded.state, atol=1e-5)


def test_it_learns_with_the_cameras_that_there_are(fewer):
    assert np.isfinite(fewer.advance()["loss"])
    assert np.isfinite(fewer.advance()["loss"])


def test_other_cameras_or_statistics_have_another_cache(fewer):
    def key(cameras, statistics=fewer.normalisation):
        mapping = replace(fewer.mapping, cameras=cameras)
        settings = CacheSettings(seed=0, phase_step=16)
        return cache_key(fewer.data, fewer.model, statistics, settings, mapping=mapping, base_fingerprint="base")

    seated_otherwise = (*fewer.mapping.cameras[1:], "up")
    scaled_otherwise = replace(fewer.normalisation, state=Scaling.quantiles(np.full(6, -2.0), np.full(6, 3.0)))
    keys = {key(fewer.mapping.cameras), key(seated_otherwise), key(fewer.mapping.cameras, scaled_otherwise)}
    assert len(keys) == 3


def test_the_small_model_of_a_robot_without_cameras_has_one_that_nobody_sees():
    contract = load_contract("cr5_joints")
    assert contract.cameras == ()
    backbone = build_mini(contract, 0, sizes=TINY)
    mapping = CameraMapping.of(contract, seated(policy_keys(contract), backbone.camera_keys, where="contract"))
    assert mapping.cameras == (None,)
    images = mapping.images(np.zeros((3, 0, IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8))
    assert images.shape == (3, 1, IMAGE_PX, IMAGE_PX, 3)
    assert not mapping.mask(3, backbone.device).any()
    assert not mapping.patches(images, backbone).any()
    none = images[:, :0]
    assert augmented(none, strength=1.0, seed=0, step=0) is none


def test_a_camera_that_the_base_does_not_have_is_refused_by_name(base, data, tmp_path):
    whole = yaml.safe_load((Path(__file__).parents[2] / "config" / "so101.yaml").read_text(encoding="utf-8"))
    whole["cameras"][1]["dataset_key"] = "observation.images.wrist"
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump({"extends": "so101", "cameras": whole["cameras"]}), encoding="utf-8")
    options = TrainOptions(
        base_model_id=str(base), dataset_dir=str(data.folder), output_dir=str(tmp_path / "run"), contract=str(file)
    )
    with pytest.raises(ContractError, match=r"side -> observation\.images\.wrist.*--rename side=side"):
        Run(options, Accelerator(cpu=True))
