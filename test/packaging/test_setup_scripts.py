# SPDX-License-Identifier: Apache-2.0
"""The set-up finds a Python that works, says what is missing, and leaves an environment that repeats without effect."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def run(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(script), *arguments], capture_output=True, text=True, check=False, env=environment
    )


def tools(folder: Path, *names: str) -> str:
    """A PATH with these system tools alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        found = shutil.which(name, path="/usr/bin:/bin")
        assert found
        (folder / name).symlink_to(found)
    return str(folder)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the set-up is for Linux")
def test_a_shim_that_fails_is_passed_over_for_a_python_that_works(tmp_path: Path) -> None:
    shim = executable(tmp_path / "shims" / "python3.12", "#!/bin/sh\necho 'pyenv: command not found' >&2; exit 127\n")
    fake = executable(tmp_path / "pyenv/versions/3.12.9/bin/python3.12", "#!/bin/sh\ncat >/dev/null; echo $0\n")
    path = f"{shim.parent}:{tools(tmp_path / 'tools', 'bash', 'ls', 'cat', 'dirname')}"
    result = run(SCRIPTS / "find_python.sh", PATH=path, HOME=str(tmp_path), PYENV_ROOT=str(tmp_path / "pyenv"))
    assert result.stdout.strip() == str(fake), result.stderr


def test_the_python_that_is_asked_for_comes_first(tmp_path: Path) -> None:
    asked = executable(tmp_path / "my/python", "#!/bin/sh\ncat >/dev/null; echo $0\n")
    result = run(SCRIPTS / "find_python.sh", PATH="/usr/bin:/bin", HOME=str(tmp_path), PYTHON=str(asked))
    assert result.stdout.strip() == str(asked)


def packages_of(tmp_path: Path, user: int, present: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs scripts/system_packages.sh with a pretended user, package list and apt."""
    path = tools(tmp_path / "tools", "bash", "cat", "grep", "mktemp", "tail")
    query = f'#!/bin/bash\n[[ " {present} " == *" ${{@: -1}} "* ]] && echo "install ok installed"\n'
    executable(tmp_path / "tools/dpkg-query", query)
    executable(tmp_path / "tools/id", f"#!/bin/bash\necho {user}\n")
    executable(tmp_path / "tools/apt-get", f'#!/bin/bash\necho "$*" >>{tmp_path}/apt.log\n')
    return run(SCRIPTS / "system_packages.sh", PATH=path, **environment)


EVERYTHING = "g++ make ament-cmake libegl1 libgl1-mesa-dri libosmesa6"


def test_without_root_the_missing_packages_are_listed_with_the_command(tmp_path: Path) -> None:
    result = packages_of(tmp_path, 1000, "g++ make libegl1")
    assert result.returncode == 1
    assert "missing  ament-cmake libegl1" not in result.stderr
    assert "sudo apt-get install ament-cmake libgl1-mesa-dri libosmesa6" in result.stderr
    assert not (tmp_path / "apt.log").exists()


def test_without_root_a_missing_gl_library_is_a_note_and_no_failure(tmp_path: Path) -> None:
    result = packages_of(tmp_path, 1000, "g++ make ament-cmake libegl1 libgl1-mesa-dri")
    assert result.returncode == 0
    assert "note: without libosmesa6 the simulator may be unable to draw" in result.stderr


def test_as_root_only_what_is_missing_is_installed(tmp_path: Path) -> None:
    result = packages_of(tmp_path, 0, EVERYTHING.replace("ament-cmake ", ""))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "apt.log").read_text().splitlines()[-1].endswith("--no-install-recommends ament-cmake")


def test_with_everything_there_nothing_is_installed_or_said(tmp_path: Path) -> None:
    result = packages_of(tmp_path, 0, EVERYTHING)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not (tmp_path / "apt.log").exists()


def test_a_ros_installation_brings_its_own_ament(tmp_path: Path) -> None:
    result = packages_of(tmp_path, 1000, "g++ make libegl1 libgl1-mesa-dri libosmesa6", ROS_DISTRO="jazzy")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.fixture
def prefix() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPTS / "ros_prefix.py"))


def test_include_folders_of_the_wheels_builder_become_those_of_this_python(prefix: dict[str, Any]) -> None:
    python = "/opt/python/cp312-cp312/include/python3.12"
    numpy = "/opt/python/cp312-cp312/lib/python3.12/site-packages/numpy/_core/include"
    text = f'set(X "${{P}}/include;{python};{numpy}")'
    changed = prefix["relocated"](text)
    assert "/opt/python" not in changed
    folders = changed.split('"')[1].split(";")[1:]
    assert (Path(folders[0]) / "Python.h").is_file()
    assert (Path(folders[1]) / "numpy" / "ndarrayobject.h").is_file()
    assert prefix["relocated"](changed) == changed


def test_a_file_shared_by_hard_link_keeps_its_other_name_unchanged(tmp_path: Path, prefix: dict[str, Any]) -> None:
    cached, installed = tmp_path / "cache.cmake", tmp_path / "installed.cmake"
    cached.write_text("old")
    os.link(cached, installed)
    prefix["write_if_changed"](installed, "new")
    assert (cached.read_text(), installed.read_text()) == ("old", "new")
    before = installed.stat().st_mtime_ns
    prefix["write_if_changed"](installed, "new")
    assert installed.stat().st_mtime_ns == before


def environment_of(shell: str, folder: Path) -> dict[str, str]:
    command = f". {ROOT}/env.sh && . {ROOT}/env.sh && env -0"
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    result = subprocess.run([shell, "-c", command], capture_output=True, text=True, check=True, cwd=folder, env=clean)
    return dict(entry.split("=", 1) for entry in result.stdout.split("\0") if "=" in entry)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_environment_script_works_from_any_folder_and_twice(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    found = environment_of(shell, tmp_path)
    assert found["VIRTUAL_ENV"] == str(ROOT / ".venv")
    assert found["PYTHONPATH"].split(":")[0] == str(ROOT)
    assert found["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert 1 <= int(found["ROS_DOMAIN_ID"]) <= 101
    for name in ("PATH", "LD_LIBRARY_PATH", "AMENT_PREFIX_PATH", "PYTHONPATH"):
        entries = found[name].split(":")
        assert len(entries) == len(set(entries)), name
    assert not [name for name in found if name.startswith("_sigma")]


def test_a_domain_that_is_set_before_is_kept(tmp_path: Path) -> None:
    command = f". {ROOT}/env.sh && echo $ROS_DOMAIN_ID"
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "ROS_DOMAIN_ID": "5"}
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, env=clean)
    assert result.stdout.strip() == "5"


def write_wheel(index: Path, name: str, version: str, *needs: str) -> None:
    """A package without a module on an index of one folder for each name, as pip and uv read them."""
    folder, info = index / name, f"{name}-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {n}" for n in needs)]
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    page = "".join(f'<a href="{file.name}">{file.name}</a>' for file in sorted(folder.glob("*.whl")))
    (folder / "index.html").write_text(page, encoding="utf-8")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Two indexes under one address, `usual` and `cpu`, of which each has every name; and what was asked of them."""
    for index, mark in (("usual", ""), ("cpu", "+cpu")):
        for name in ("torch", "torchvision"):
            write_wheel(tmp_path / index, name, f"1.0{mark}", *(["driver"] if index == "usual" else []), "helper")
        for name in ("helper", "driver"):
            write_wheel(tmp_path / index, name, "1.0", *(["torchvision"] if name == "helper" else []))
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


UV = shutil.which("uv", path=os.pathsep.join([str(ROOT / ".venv" / "bin"), os.environ["PATH"]]))


@pytest.mark.skipif(UV is None, reason="uv is not installed")
def test_torch_alone_comes_from_the_index_that_is_named_until_another_is(
    tmp_path: Path, served: tuple[str, list[str]]
) -> None:
    """So `make demo` behind `make setup TORCH_INDEX=...` does not bring the wheels of a GPU after all."""
    here, (address, asked) = tmp_path / "here", served
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(here / ".venv")], check=True)
    executable(here / ".venv/bin/uv", f'#!/bin/sh\ncase "$*" in *" -e ."*) exit 0;; esac\nexec {UV} "$@"\n')
    (here / "requirements").mkdir()
    for group in ("core", "model", "arm", "sim", "train", "fleet", "rerun", "onnx", "test", "dev", "ros"):
        (here / "requirements" / f"{group}.in").write_text("torch\nhelper\n", encoding="utf-8")
    (here / "requirements" / "lock.txt").write_text("torch==1.0\ntorchvision==1.0\nhelper==1.0\n", encoding="utf-8")
    steps = executable(here / "steps.sh", f"set -euo pipefail\n. {SCRIPTS}/setup_steps.sh; install_packages")
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(here), "UV_DEFAULT_INDEX": f"{address}/usual"}
    clean |= {"UV_CACHE_DIR": str(here / "cache"), "NO_PROXY": "127.0.0.1"}

    def installed(**named: str) -> set[str]:
        asked.clear()
        done = subprocess.run(
            ["bash", str(steps)], cwd=here, env=clean | named, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        of_torch = {path.split("/")[2] for path in asked if path.startswith("/cpu/")}
        assert of_torch <= {"torch", "torchvision"}, "no other name is asked of the index of torch"
        found = (here / ".venv").rglob("*.dist-info")
        return {folder.name.removesuffix(".dist-info") for folder in found}

    everything = {"torch-1.0", "torchvision-1.0", "helper-1.0", "driver-1.0"}
    of_cpus = {"torch-1.0+cpu", "torchvision-1.0+cpu", "helper-1.0"}
    named = {"TORCH_INDEX": f"{address}/cpu"}
    assert installed(**named) == of_cpus, "no driver of a GPU"
    assert installed() == of_cpus
    assert installed(TORCH_INDEX="") == everything
    assert installed() == everything
    assert installed(**named) == of_cpus | {"driver-1.0"}, "what lies there already stays"


def test_every_requirement_is_pinned_exactly_once() -> None:
    locked = (ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8").splitlines()
    names = [line.split("==")[0] for line in locked]
    assert all("==" in line for line in locked)
    assert len(set(names)) == len(names)
    wanted = named(*(file.stem for file in (ROOT / "requirements").glob("*.in")))
    assert wanted <= set(names), f"run make lock: {sorted(wanted - set(names))}"


def normal(name: str) -> str:
    """A distribution's name as package indexes compare them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def third_party(folder: str) -> set[str]:
    """Distributions that a folder's files import, ROS and our own left out."""
    owners = packages_distributions()
    folders = ("sigma_ros", "training", "test", "bench")
    ours = {*folders, *(file.stem for place in folders for file in (ROOT / place).rglob("*.py"))}
    ours |= {plugin.name for plugin in (ROOT / "plugins").iterdir()}
    found: set[str] = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            tops = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - ours
            found |= {"/".join(sorted(map(normal, owners[top]))) for top in tops if top in owners}
    return {
        name
        for name in found
        if not name.startswith(("ros-", "launch", "rcl")) and not name.endswith(("-msgs", "-srvs", "-interfaces"))
    }


def named(*groups: str) -> set[str]:
    lines = [
        line.split("#")[0].strip()
        for group in groups
        for line in (ROOT / "requirements" / f"{group}.in").read_text(encoding="utf-8").splitlines()
    ]
    return {normal(re.split(r"[\[<>=!; ]", line)[0]) for line in lines if line}


@pytest.mark.parametrize(
    ("folder", "groups"),
    [
        ("sigma_ros", ("core", "model", "sim", "fleet", "rerun", "onnx", "arm")),
        ("training", ("core", "model", "train", "sim")),  # the small model learns from the simulator
        ("test", ("core", "model", "sim", "fleet", "rerun", "onnx", "arm", "train", "test")),
        ("bench", ("core", "model", "sim", "train", "test")),
    ],
)
def test_what_is_imported_is_required(folder: str, groups: tuple[str, ...]) -> None:
    required = named(*groups)
    assert [owners for owners in third_party(folder) if not required & set(owners.split("/"))] == []


def test_every_extra_that_a_message_or_a_page_names_is_one_and_the_set_up_installs_all() -> None:
    """`make setup` brought no driver of the arm, and a remedy named an extra that pip passes over with a warning."""
    extras = set(re.findall(r'"(\w+)": requirements\(', (ROOT / "setup.py").read_text(encoding="utf-8")))
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "sigma_ros").rglob("*.py")]
    named = re.findall(r"sigma[_-]ros\[(\w+)\]", " ".join(file.read_text(encoding="utf-8") for file in files))
    assert {"arm", "sim"} <= set(named) <= extras
    steps = (SCRIPTS / "setup_steps.sh").read_text(encoding="utf-8")
    installed = re.search(r"groups=\(([^)]*)\)", steps)
    assert installed is not None
    assert extras - {"ros"} <= set(installed[1].split())


def older_python() -> str | None:
    found = [shutil.which(f"python3.{minor}", path="/usr/bin:/usr/local/bin") for minor in (10, 11, 9)]
    return next((path for path in found if path is not None), None)


@pytest.mark.skipif(older_python() is None or shutil.which("cmake") is None, reason="needs cmake and an older Python")
def test_an_older_distribution_is_told_of_when_it_builds(tmp_path: Path) -> None:
    """With Humble's Python the build succeeded, and every node failed with a SyntaxError."""
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path), f"-DPython3_EXECUTABLE={older_python()}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "sigma_ros needs Python 3.12 or newer" in " ".join(result.stderr.split())
