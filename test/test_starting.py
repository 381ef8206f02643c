# SPDX-License-Identifier: Apache-2.0
"""The executables say what is missing before they import it, and pytest runs where ROS brings plugins of its own."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sigma_ros.starting import IMPORTS, NEEDED, missing

ROOT = Path(__file__).resolve().parent.parent


def required(group: str) -> list[str]:
    """Distributions of a group, in the order of its file."""
    lines = (ROOT / "requirements" / f"{group}.in").read_text(encoding="utf-8").splitlines()
    return [name for line in lines if (name := re.split(r"[\[<>=# ]", line)[0])]


@pytest.mark.parametrize("group", sorted(IMPORTS))
def test_every_requirement_is_known_by_the_name_it_is_imported_by(group: str) -> None:
    names = required(group)
    assert len(names) == len(IMPORTS[group])
    tops = importlib.metadata.packages_distributions()
    for distribution, imported in zip(names, IMPORTS[group], strict=True):
        if distribution in {name.lower() for names in tops.values() for name in names}:
            holders = {name.lower() for name in tops[imported.partition(".")[0]]}
            assert distribution in holders, f"{imported} is not of {distribution}"


def test_the_workspaces_requirements_are_all_groups_that_an_executable_needs() -> None:
    text = (ROOT / "requirements" / "ros-workspace.txt").read_text(encoding="utf-8")
    needed = {"core", "arm", "train", *(group for groups in NEEDED.values() for group in groups)}
    assert set(re.findall(r"^-r (\w+)\.in$", text, re.MULTILINE)) == needed


def test_the_lock_pins_no_package_that_ubuntu_builds_for_numpy_1() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "requirements/lock.txt").read_text().split())
    assert "pandas>=2.2.2" in (ROOT / "requirements/model.in").read_text(encoding="utf-8")
    assert tuple(int(part) for part in pinned["pandas"].split(".")) >= (2, 2, 2)


def test_nothing_is_missing_here() -> None:
    assert missing(("core", "model", "sim")) == ""


@pytest.mark.parametrize(("module", "named"), [("nodes.policy_node", "torch"), ("cli.main", "typer")])
def test_a_missing_package_is_one_sentence_before_any_other_import(module: str, named: str) -> None:
    code = f"import sys; sys.path.append({str(ROOT)!r}); from sigma_ros.starting import start; "
    code += f"sys.exit(start('sigma_ros.{module}'))"
    command = [sys.executable, "-I", "-S", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {module.rpartition('.')[2]} cannot start: {sys.executable} lacks ")
    assert result.stderr.count("\n") == 1
    assert named in result.stderr
    assert "requirements/core.in" in result.stderr


OLD_HOOK = """
import pytest

@pytest.hookimpl(optionalhook=False)
def pytest_pycollect_makemodule(path, parent):
    return None
"""


@pytest.mark.parametrize(
    ("entry", "module"),
    [("launch_testing", "launch_testing.pytest.hooks"), ("launch_ros", "launch_testing_ros_pytest_entrypoint")],
)
def test_pytest_runs_beside_the_plugins_that_a_sourced_ros_brings(tmp_path: Path, entry: str, module: str) -> None:
    """Their hook has an argument `path` that pytest 9 does not know: it ended before the first test."""
    package = tmp_path.joinpath(*module.split("."))
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(OLD_HOOK, encoding="utf-8")
    facts = tmp_path / "launch_testing-3.7.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: launch_testing\nVersion: 3.7.1\n", encoding="utf-8")
    (facts / "entry_points.txt").write_text(f"[pytest11]\n{entry} = {module}\n", encoding="utf-8")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    chosen = ["-q", "--collect-only", "test/test_starting.py"]

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *options, *chosen]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    assert "PluginValidationError" in run("-c", "/dev/null", "--rootdir", str(ROOT)).stderr
    result = run()
    assert result.returncode == 0, result.stderr + result.stdout
