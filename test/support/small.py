# SPDX-License-Identifier: Apache-2.0
"""The shipped contracts with small pictures, so that drawing, coding and decoding them costs little."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.contract_text import shipped_config_dir

WIDTH, HEIGHT = 32, 24

_loaded = cache(load_contract)


def small_contract(name: str = "so101", *, size_px: tuple[int, int] = (WIDTH, HEIGHT), **changes: Any) -> Contract:
    """A shipped contract, changed; `size_px`: width and height of its pictures."""
    contract = _loaded(name)
    width_px, height_px = size_px
    cameras = tuple(replace(camera, width_px=width_px, height_px=height_px) for camera in contract.cameras)
    return replace(contract, cameras=cameras, **changes)


def small_file(
    folder: Path, name: str = "so101", *, size_px: tuple[int, int] = (WIDTH, HEIGHT), **changes: object
) -> Path:
    """One of the SO-101's contracts likewise, as a file; `changes` are other entries of it."""
    whole, own = (
        yaml.safe_load((shipped_config_dir() / f"{each}.yaml").read_text("utf-8")) for each in ("so101", name)
    )
    cameras = [{**camera, "width_px": size_px[0], "height_px": size_px[1]} for camera in whole["cameras"]]
    file = folder / "small.yaml"
    beside = own if "extends" in own else {"extends": name}
    file.write_text(yaml.safe_dump(beside | {"cameras": cameras, **changes}), encoding="utf-8")
    return file
