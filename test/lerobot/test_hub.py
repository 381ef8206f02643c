# SPDX-License-Identifier: Apache-2.0
"""To the Hub and back, against a stand-in of its HTTP interface: what was pushed is what others load."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from bags import small_contract, write_recording
from hub import Hub, serving
from tiny_base import save_tiny
from tiny_sigma import stir, tiny_config

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import UsageError
from sigma_ros.lerobot.configuration_sigma import SigmaPolicyConfig
from sigma_ros.lerobot.processor_sigma import write_lerobot_files
from sigma_ros.model.checkpoint.folder import identify, save_checkpoint
from sigma_ros.model.checkpoint.manifest import HEADS_FILE, Training
from sigma_ros.model.pi05.loading import load_base
from sigma_ros.model.pi05.mini import limit_normalisation
from sigma_ros.model.pi05.places import MANIFEST_FILE, check_pushable
from sigma_ros.model.sigma import SigmaTelepathyVLA

LOAD = """
import sys
from sigma_ros.lerobot.modeling_sigma import SigmaPolicy
for revision in sys.argv[2:]:
    print(SigmaPolicy.from_pretrained(sys.argv[1], revision=revision).runtime.info.hash)
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving() as there:
        yield there


@pytest.fixture(scope="module")
def checkpoints(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    """Two Sigmas on a base of the Hub, with their hashes. The base's repository holds another training's files too."""
    folder = tmp_path_factory.mktemp("checkpoints")
    base = save_tiny(folder / "base")
    commit = hub.put_folder("models/me/base", base)
    hub.put("models/me/base", {"steps/000100/model.safetensors": b"large", "optimizer_state.safetensors": b"large"})
    loaded = load_base(str(base), device="cpu", dtype="float32")
    made = []
    for number in range(2):
        model = SigmaTelepathyVLA(loaded.backbone, tiny_config(loaded.backbone, dof=6), seed=number)
        stir(model)
        digest = save_checkpoint(
            model,
            folder / f"sigma_{number}",
            base=replace(identify(model, loaded.info), source="me/base", revision=commit),
            training=Training(trained=True, steps=number + 1),
            normalisation=limit_normalisation(load_contract("so101")),
        )
        write_lerobot_files(folder / f"sigma_{number}", SigmaPolicyConfig(device="cpu"))
        made.append((folder / f"sigma_{number}", digest))
    return made


def child(hub: Hub, home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **hub.environment(home), **variables}
    command = [sys.executable, *words]
    return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False)


def push(hub: Hub, home: Path, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = "-m", "sigma_ros.cli.main", "model", "push", str(folder), "me/sigma"
    return child(hub, home, *command, **variables)


@pytest.mark.slow
def test_what_is_pushed_is_loaded_at_its_revision_and_nothing_else_is_fetched(
    hub: Hub, checkpoints: list[tuple[Path, str]], tmp_path: Path
) -> None:
    done = push(hub, tmp_path, checkpoints[0][0])
    assert done.returncode == 0, done.stderr
    ((first, files),) = hub.commits["models/me/sigma"]
    assert first in done.stdout
    assert files == {path.name: path.read_bytes() for path in checkpoints[0][0].iterdir()}
    assert b"\nbase_model: me/base\n" in files["README.md"]
    second = hub.put_folder("models/me/sigma", checkpoints[1][0])
    hub.asked.clear()
    loaded = child(hub, tmp_path, "-c", LOAD, "me/sigma", first, "main")
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.split() == [digest for _, digest in checkpoints]
    assert first != second
    downloads = [line.split("/resolve/", 1)[1] for line in hub.asked if line.startswith("GET") and "/resolve/" in line]
    assert not [line for line in downloads if "steps/" in line or "optimizer" in line]
    assert downloads.index(f"{first}/{MANIFEST_FILE}") < downloads.index(f"{first}/{HEADS_FILE}")


def test_a_push_without_rights_is_one_sentence_with_the_way_to_log_in(
    hub: Hub, checkpoints: list[tuple[Path, str]], tmp_path: Path
) -> None:
    done = push(hub, tmp_path, checkpoints[0][0], HF_TOKEN="hf_another")
    assert done.returncode == 1
    assert "cannot be pushed to the Hub" in done.stderr
    assert "hf auth login" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_data_set_is_pushed_with_a_card_that_says_what_it_is(hub: Hub, tmp_path: Path) -> None:
    whole = yaml.safe_load((Path(__file__).parents[2] / "config" / "so101.yaml").read_text(encoding="utf-8"))
    cameras = [{**camera, "width_px": 32, "height_px": 24} for camera in whole["cameras"]]
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump({"extends": "so101", "cameras": cameras}), encoding="utf-8")
    write_recording(tmp_path / "bag", small_contract(), ticks=20, task="pick the brick")
    command = [
        "-m",
        "sigma_ros.cli.main",
        "dataset",
        "--bags",
        "bag",
        "--out",
        "made",
        "--png",
        "--contract",
        str(file),
    ]
    done = child(hub, tmp_path, *command, "--push_to_hub", "me/pick", "--private")
    assert done.returncode == 0, done.stderr
    _, files = hub.commits["datasets/me/pick"][-1]
    written = {path.relative_to(tmp_path / "made").as_posix() for path in (tmp_path / "made").rglob("*.*")}
    assert written >= files.keys() >= {"meta/info.json", "README.md"}
    assert files["README.md"] == (tmp_path / "made" / "README.md").read_bytes(), "one card, here and there"
    for said in ("episodes: 1 (", "shoulder_pan (range m100 100)", "tasks: pick the brick", "path=me/pick"):
        assert said in files["README.md"].decode()
    assert list(hub.tags["datasets/me/pick"]) == ["v3.0"], "LeRobot looks for its format's version"


@pytest.mark.parametrize(
    ("repo", "base", "words"),
    [
        ("sigma", "mini", "cannot be a repository's name"),
        ("me/sigma/part", "mini", "cannot be a repository's name"),
        ("me/sigma", "{here}", "its base is on this disk alone"),
    ],
)
def test_what_others_could_not_load_is_refused_before_it_is_trained(
    repo: str, base: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        check_pushable(repo, base=base.format(here=tmp_path))
    check_pushable("me/sigma", base="lerobot/pi05_base")
