# SPDX-License-Identifier: Apache-2.0
"""Imports flow one way; rclpy stays in nodes/, torch out of the supervisor's process; every file is ours to share."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sigma_ros"

# part -> parts it may import besides itself. A part is a module or a folder directly below sigma_ros/.
FOUNDATION = {"errors", "values", "risk"}
FACTS = FOUNDATION | {"chain", "contract", "contract_file"}
MAY_IMPORT = {
    "errors": set(),
    "values": set(),
    "risk": {"values"},
    "chain": set(),
    "contract": {"chain", "errors", "values"},
    "contract_file": {"chain", "contract", "errors"},
    "control": FACTS,
    "model": FACTS,
    "evaluation": FACTS | {"control", "model"},
    "sim": FACTS | {"control", "evaluation"},
    "nodes": FACTS | {"control", "model", "evaluation", "sim", "msg"},
    "cli": FACTS | {"control", "model", "evaluation", "sim", "nodes"},
}
WITHOUT_TORCH = FACTS | {"control"}
TORCH = {"torch", "lerobot", "transformers", "peft", "safetensors"}
ROS = {"rclpy", "launch", "launch_ros"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def sources() -> list[Path]:
    folders = [PACKAGE, *(ROOT / name for name in ("training", "test", "bench", "launch", "scripts", "tools"))]
    return sorted([ROOT / "setup.py", *(file for folder in folders for file in folder.rglob("*.py"))])


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: Path) -> set[str]:
    """Full names of what a file imports, anywhere in it; relative imports are made absolute."""
    names: set[str] = set()
    package = (*file.relative_to(ROOT).parts[:-1],)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def own_parts(file: Path) -> set[str]:
    """Parts of sigma_ros that a file imports."""
    return {name.split(".")[1] for name in imported(file) if name.startswith("sigma_ros.")} - {"__version__"}


def relative(file: Path) -> str:
    return str(file.relative_to(ROOT))


def top_level(file: Path) -> list[str]:
    """Parts of the package that are imported as soon as the file is."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return [n.module for n in body if isinstance(n, ast.ImportFrom) and n.module and n.module.startswith("sigma_ros")]


@pytest.mark.parametrize("file", modules(), ids=relative)
def test_imports_flow_one_way(file: Path) -> None:
    part = part_of(file)
    if part == "__init__":
        assert own_parts(file) <= {"model"}, "the model card's two names, and those on demand"
        assert not top_level(file)
        return
    assert part in MAY_IMPORT, f"{relative(file)}: say in MAY_IMPORT what the new part {part} may import"
    forbidden = own_parts(file) - MAY_IMPORT[part] - {part}
    assert not forbidden, f"{relative(file)} imports {', '.join(sorted(forbidden))}; {part} stands below it"


@pytest.mark.parametrize("file", modules(), ids=relative)
def test_ros_is_imported_in_nodes_alone(file: Path) -> None:
    tops = {name.split(".")[0] for name in imported(file)}
    messages = {name for name in tops if name.endswith("_msgs")} | (own_parts(file) & {"msg"})
    if part_of(file) != "nodes":
        assert not (tops & ROS) | messages, f"{relative(file)} belongs into nodes/"


@pytest.mark.parametrize("file", [f for f in modules() if part_of(f) in WITHOUT_TORCH], ids=relative)
def test_control_and_facts_import_no_torch(file: Path) -> None:
    assert not {name.split(".")[0] for name in imported(file)} & TORCH


@pytest.mark.parametrize("name", ["sigma_ros.control.supervisor", "sigma_ros.nodes.supervisor_node"])
def test_the_supervisors_process_never_loads_torch(name: str) -> None:
    if "nodes" in name:
        pytest.importorskip("rclpy", reason="rclpy is not installed")
        pytest.importorskip("sigma_ros.msg", reason="the messages are not built")
    heavy = sorted(TORCH | {"mujoco", "rosbags", "matplotlib", "plotly"})
    code = f"import sys, {name}; print(*[m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment()
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [], f"{name} loads {result.stdout}"


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


@pytest.mark.parametrize("file", sources(), ids=relative)
def test_every_python_file_names_its_licence(file: Path) -> None:
    head = file.read_text(encoding="utf-8").splitlines()[:2]
    assert any(line == "# SPDX-License-Identifier: Apache-2.0" for line in head), (
        f"{relative(file)} lacks the SPDX line"
    )


def test_every_module_of_the_tests_has_a_name_of_its_own() -> None:
    names = [file.name for file in (ROOT / "test").rglob("*.py") if file.name != "conftest.py"]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


@pytest.mark.parametrize(
    "name", ["README.md", "DESIGN.md", "CHANGELOG.rst", "LICENSE", "package.xml", "docs/report.md"]
)
def test_what_a_stranger_looks_for_is_there(name: str) -> None:
    assert (ROOT / name).stat().st_size > 0


def test_the_changelog_names_the_version_or_what_is_forthcoming() -> None:
    from sigma_ros import __version__  # noqa: PLC0415

    text = (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")
    assert "Forthcoming" in text or __version__ in text


def test_package_xml_and_python_agree_on_the_version() -> None:
    from sigma_ros import __version__  # noqa: PLC0415

    assert f"<version>{__version__}</version>" in (ROOT / "package.xml").read_text(encoding="utf-8")


def test_no_sources_print_outside_the_command_line() -> None:
    printing = [
        relative(file)
        for file in modules()
        if part_of(file) != "cli"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not printing
