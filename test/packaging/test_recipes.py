# SPDX-License-Identifier: Apache-2.0
"""Recipes that nobody could run here say so, parse, name files that exist, and want the versions of requirements/."""

import json
import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
INSTRUCTIONS = {"FROM", "SHELL", "RUN", "WORKDIR", "COPY", "CMD"}
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PIXI = (ROOT / "pixi.toml").read_text(encoding="utf-8")
DEVCONTAINER = ROOT / ".devcontainer" / "devcontainer.json"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, continued lines joined."""
    lines = [line for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def wanted(group: str) -> dict[str, Requirement]:
    text = (ROOT / "requirements" / f"{group}.in").read_text(encoding="utf-8")
    found = [Requirement(line.split("#")[0]) for line in text.splitlines() if line.split("#")[0].strip()]
    return {requirement.name: requirement for requirement in found}


@pytest.mark.parametrize("text", [DOCKERFILE, PIXI, DEVCONTAINER.read_text(encoding="utf-8")])
def test_a_recipe_that_was_not_run_says_so_first(text: str) -> None:
    assert re.match(r"(#|//) untested here: no container runtime", text)


def test_the_dockerfile_copies_what_the_build_reads() -> None:
    kinds, arguments = zip(*instructions(), strict=True)
    assert kinds[0] == "FROM"
    assert set(kinds) <= INSTRUCTIONS
    copied = {name for kind, text in instructions() if kind == "COPY" for name in text.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    read = set(re.findall(r"\b(msg|scripts|training|config|launch)\b", cmake)) | {
        "sigma_ros",
        "CMakeLists.txt",
        "package.xml",
    }
    assert read <= copied
    named = re.findall(r"src/sigma_ros/(requirements/[\w.-]+)", " ".join(arguments))
    assert named
    assert all((ROOT / name).is_file() for name in named)


def test_the_dockerfile_takes_one_distribution_that_the_wheels_are_of() -> None:
    distributions = set(re.findall(r"ros:(\w+)-|/opt/ros/(\w+)", DOCKERFILE))
    assert {one or other for one, other in distributions} == {"kilted"}
    assert any(name.startswith("ros-kilted-") for name in wanted("ros"))


def test_the_devcontainer_builds_that_dockerfile() -> None:
    text = "\n".join(line for line in DEVCONTAINER.read_text(encoding="utf-8").splitlines() if line[:2] != "//")
    build = json.loads(text)["build"]
    assert (DEVCONTAINER.parent / build["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (DEVCONTAINER.parent / build["context"]).resolve() == ROOT


def test_pixi_wants_the_versions_of_the_requirements() -> None:
    recipe = tomllib.loads(PIXI)
    versions = recipe["dependencies"]
    assert Requirement(f"numpy{versions['numpy']}").specifier == wanted("core")["numpy"].specifier
    assert Requirement(f"cmake{versions['cmake']}").specifier == wanted("dev")["cmake"].specifier
    oldest = re.search(r'python_requires=">=([\d.]+)', (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert oldest is not None
    assert versions["python"] == f"{oldest[1]}.*"
    files = re.findall(r"requirements/[\w.-]+", recipe["tasks"]["packages"])
    assert files
    assert all((ROOT / name).is_file() for name in files)


def test_the_table_of_what_pins_whom_names_all_that_lerobot_bounds() -> None:
    """Law: every package of ours that LeRobot bounds above stands in the table, so that nobody loosens it alone."""
    table = (ROOT / "requirements" / "README.md").read_text(encoding="utf-8").partition("## What pins whom")[2]
    bounds = [Requirement(text) for text in requires("lerobot") or []]
    ours = wanted("core") | wanted("model")
    bounded = {bound.name for bound in bounds if "<" in str(bound.specifier) and bound.name in ours}
    assert {"numpy", "torch", "pandas"} <= bounded
    assert [name for name in sorted(bounded) if f"`{name}`" not in table] == []
