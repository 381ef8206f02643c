# SPDX-License-Identifier: Apache-2.0
"""One list holds all that is touched of LeRobot; a LeRobot that lacks some of it is one sentence with both versions."""

import ast
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigma_ros import __version__
from sigma_ros.errors import MachineError
from sigma_ros.model.pi05.lerobot_symbols import ELSEWHERE, MODEL, PLUGIN, WRITTEN_FOR, Symbols, check

ROOT = Path(__file__).resolve().parents[2]
PLACES = {"model": MODEL, "lerobot": PLUGIN}
"""Parts of sigma_ros -> their list; everything else is ELSEWHERE."""


def list_of(file: Path) -> Symbols:
    parts = file.relative_to(ROOT).parts
    return PLACES.get(parts[1], ELSEWHERE) if parts[0] == "sigma_ros" else ELSEWHERE


def imports() -> Iterator[tuple[Path, str, str]]:
    for file in [file for name in ("sigma_ros", "training", "plugins") for file in (ROOT / name).rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not [a.name for a in node.names if a.name.split(".")[0] == "lerobot"], f"{file}: import names"
            elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "lerobot":
                yield from ((file, str(node.module), alias.name) for alias in node.names)


def test_every_import_from_lerobot_is_on_the_list() -> None:
    unlisted = [f"{file}: {m}.{name}" for file, m, name in imports() if name not in list_of(file).get(m, ())]
    assert not unlisted, "add them to sigma_ros/model/pi05/lerobot_symbols.py"


def test_nothing_on_the_list_is_unused() -> None:
    used = {(id(list_of(file)), module, name) for file, module, name in imports()}
    sources = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "sigma_ros" / "model").rglob("*.py"))
    for symbols in (MODEL, PLUGIN, ELSEWHERE):
        for module, names in symbols.items():
            for name in names:
                attribute = name.rsplit(".", 1)[-1]
                assert (id(symbols), module, name) in used or sources.count(attribute) > 1, f"{module}.{name}"


def test_the_installed_lerobot_has_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # its asynchronous server writes logs where it is imported
    for symbols in (MODEL, PLUGIN, ELSEWHERE):
        check({m: names for m, names in symbols.items() if m != "lerobot.robots.so_follower"})
    assert importlib.metadata.version("lerobot") == WRITTEN_FOR
    pins = (ROOT / "requirements" / "model.in").read_text(encoding="utf-8")
    assert f"=={WRITTEN_FOR}" in next(line for line in pins.splitlines() if line.startswith("lerobot"))


@pytest.mark.parametrize(
    ("symbols", "missing"),
    [
        ({"lerobot.configs": ("FeatureType", "Gone")}, "lerobot.configs.Gone"),
        ({"lerobot.policies.pi05.modeling_pi05": ("PI05Pytorch.gone",)}, "modeling_pi05.PI05Pytorch.gone"),
        ({"lerobot.gone": ("One", "Two")}, "lerobot.gone.One, lerobot.gone.Two"),
    ],
)
def test_what_is_missing_is_named_with_both_versions(symbols: Symbols, missing: str) -> None:
    with pytest.raises(MachineError) as refused:
        check(symbols)
    said = str(refused.value)
    assert missing in said
    assert f"lerobot {importlib.metadata.version('lerobot')}" in said
    assert f"sigma_ros {__version__}" in said


def test_the_model_cannot_be_imported_beside_another_lerobot() -> None:
    code = "import lerobot.configs as c; del c.NormalizationMode; import sigma_ros.model.runtime"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("sigma_ros.errors.MachineError: the installed LeRobot lacks")
    assert "lerobot.configs.NormalizationMode" in last
