# SPDX-License-Identifier: Apache-2.0
"""Write the contract of your own robot: the one file that says what its joints, limits, cameras and topics are.

    python examples/write_contract.py my_robot.yaml
    sigma contract check my_robot.yaml

The robot here is an SO-101 with one camera on the wrist and a slower wrist. A contract that extends a shipped one says
only what differs; a list such as `joints` or `cameras` replaces the other list whole.
"""

import sys
from pathlib import Path

import yaml

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.contract_text import shipped_config_dir

WRIST_ROLL_RADPS = 1.0


def write(path: Path) -> Contract:
    """Writes the file and reads it back as everything else will; what is wrong is one error that says what to do."""
    camera = {
        "name": "wrist",
        "topic": "/wrist_camera/image_raw/compressed",
        "type": "sensor_msgs/msg/CompressedImage",
        "width_px": 640,
        "height_px": 480,
        "dataset_key": "observation.images.side",  # the key of this camera in data sets
        "max_age_ms": 200,
    }
    facts = {"extends": "so101", "name": "my_robot", "cameras": [camera], "joints": joints()}
    path.write_text(yaml.safe_dump(facts, sort_keys=False), encoding="utf-8")
    return load_contract(path)


def joints() -> list[dict[str, object]]:
    """The SO-101's joints as its file has them, with the wrist's roll held to a lower speed."""
    shipped = yaml.safe_load((shipped_config_dir() / "so101.yaml").read_text(encoding="utf-8"))["joints"]
    slower = {"wrist_roll": {"max_velocity_radps": WRIST_ROLL_RADPS}}
    return [joint | slower.get(joint["name"], {}) for joint in shipped]


if __name__ == "__main__":
    file = Path(sys.argv[1] if len(sys.argv) > 1 else "my_robot.yaml")
    contract = write(file)
    print(f"{file}: {contract.name}, {contract.dof} joints, cameras {[camera.name for camera in contract.cameras]}")
