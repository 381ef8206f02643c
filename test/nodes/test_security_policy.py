# SPDX-License-Identifier: Apache-2.0
"""Only the supervisor may write commands: in the policy's text everywhere, in force where SROS2 is installed."""

import importlib.util
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from sigma_ros.contract_file import load_contract
from sigma_ros.nodes.security_policy import VERSION, enclaves, policy_xml
from sigma_ros.nodes.shared import topics

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = load_contract("so101")
QUALIFIERS = {"topics": {"publish", "subscribe"}, "services": {"reply", "request"}, "actions": {"call", "execute"}}
HAS_SROS2 = importlib.util.find_spec("sros2") is not None and shutil.which("ros2") is not None


def children(element: ET.Element, tag: str) -> list[ET.Element]:
    """The children, all of one kind, at least one: a sequence of the schema."""
    assert len(element)
    assert {child.tag for child in element} == {tag}
    return list(element)


def test_the_policy_keeps_the_rules_of_the_sros2_schema() -> None:
    root = ET.fromstring(policy_xml(CONTRACT))
    assert (root.tag, root.attrib) == ("policy", {"version": VERSION})
    for enclave in children(children(root, "enclaves")[0], "enclave"):
        assert set(enclave.attrib) == {"path"}
        for profile in children(children(enclave, "profiles")[0], "profile"):
            assert set(profile.attrib) == {"ns", "node"}
            for rules in profile:
                assert set(rules.attrib) <= QUALIFIERS[rules.tag]
                assert set(rules.attrib.values()) == {"ALLOW"}
                names = [rule.text or "" for rule in children(rules, rules.tag.removesuffix("s"))]
                assert all(name and not name.startswith("/") and " " not in name for name in names)
                assert len(names) == len(set(names))


def test_only_the_supervisor_may_write_commands() -> None:
    writers = [enclave.path for enclave in enclaves(CONTRACT) if CONTRACT.command_topic in enclave.publishes]
    assert writers == ["/sigma/supervisor"]


def test_the_policy_may_call_nobody_and_hear_no_commands() -> None:
    [policy] = [enclave for enclave in enclaves(CONTRACT) if enclave.path == "/sigma/policy"]
    assert policy.calls == ()
    assert CONTRACT.command_topic not in policy.hears
    assert topics.E_STOP not in policy.publishes


def test_only_the_operator_and_nobody_else_may_engage() -> None:
    assert [enclave.path for enclave in enclaves(CONTRACT) if topics.ENGAGE in enclave.calls] == ["/sigma/operator"]


def test_the_shipped_policy_is_the_generated_one() -> None:
    shipped = (ROOT / "config" / "security" / "so101.policy.xml").read_text(encoding="utf-8")
    assert shipped == policy_xml(CONTRACT), "python -m sigma_ros.nodes.security_policy so101"


def test_without_sros2_the_keystore_script_says_what_is_missing(tmp_path: Path) -> None:
    if HAS_SROS2:
        pytest.skip("sros2 is installed here")
    script = ["bash", str(ROOT / "scripts" / "make_keystore.sh"), str(tmp_path / "keys")]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "sros2" in done.stderr
    assert not (tmp_path / "keys").exists()


@pytest.mark.skipif(not HAS_SROS2, reason="enforcement needs ros2 security (sros2) of a ROS installation")
def test_under_enforcement_the_policys_enclave_cannot_write_commands(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    subprocess.run(["bash", str(ROOT / "scripts" / "make_keystore.sh"), str(keys)], check=True)
    environment = os.environ | {
        "ROS_SECURITY_ENABLE": "true",
        "ROS_SECURITY_STRATEGY": "Enforce",
        "ROS_SECURITY_KEYSTORE": str(keys),
    }
    code = (
        "import rclpy; from std_msgs.msg import Float64MultiArray as M; "
        "rclpy.init(args=['x', '--ros-args', '--enclave',"
        f"'/sigma/policy']); rclpy.create_node('sigma_policy').create_publisher(M, {CONTRACT.command_topic!r}, 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
