# SPDX-License-Identifier: Apache-2.0
"""Imports flow one way; rclpy stays in nodes/, torch out of the supervisor's process; files are found and shared.

Lists of exceptions only shrink: an entry that is no longer needed is an error that says so.
"""

import ast
import functools
import graphlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sigma_ros"

# part -> parts it may import besides itself. A part is a module or a folder directly below sigma_ros/.
FOUNDATION = {"errors", "stopping", "values", "risk"}
FACTS = FOUNDATION | {
    "border",
    "camera_names",
    "contract",
    "contract_file",
    "contract_text",
    "conventions",
    "kinematics",
    "addresses",
}
MAY_IMPORT = {
    "errors": set(),
    "stopping": set(),
    "values": set(),
    "risk": {"contract", "values"},
    "kinematics": {"border", "errors"},
    "contract": {"errors", "kinematics", "values"},
    "border": {"errors"},
    "addresses": {"border", "errors"},
    "contract_file": {"border", "contract", "contract_text", "errors", "kinematics"},
    "contract_text": {"border", "errors"},
    "starting": {"stopping"},
    "camera_names": {"contract", "errors"},
    "conventions": {"contract", "model"},
    "calibration": FACTS,
    "streams": FACTS,
    "supervisor": FACTS | {"streams"},
    "model": FACTS,
    "bags": FACTS | {"streams"},
    "inspection": FACTS | {"calibration", "streams", "bags"},
    "policy": FACTS | {"model"},
    "evaluation": FACTS | {"streams", "supervisor", "model", "bags", "policy"},
    "sim": FACTS | {"streams", "supervisor", "bags", "evaluation", "policy"},
    "lerobot": FACTS | {"starting", "streams", "model", "policy", "sim"},
    "nodes": FACTS
    | {"calibration", "streams", "supervisor", "model", "bags", "policy", "evaluation", "sim", "msg"}
    | {"action", "srv"},
    "cli": FACTS
    | {
        "calibration",
        "starting",
        "streams",
        "supervisor",
        "model",
        "bags",
        "policy",
        "inspection",
        "evaluation",
        "sim",
        "nodes",
    },
}
WITHOUT_TORCH = FACTS | {"calibration", "streams", "supervisor", "policy"}
TORCH = {"torch", "lerobot", "transformers", "peft", "safetensors"}
ROS = {"rclpy", "launch", "launch_ros"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def sources() -> list[Path]:
    names = ("training", "test", "bench", "launch", "scripts", "safety", "examples", "plugins")
    folders = [PACKAGE, *(ROOT / name for name in names)]
    return sorted([ROOT / "setup.py", *(file for folder in folders for file in folder.rglob("*.py"))])


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@functools.cache
def imported(file: Path) -> set[str]:
    """Full names of what a file imports, anywhere in it; relative imports are made absolute."""
    return imported_by(ast.walk(tree(file)), file)


def imported_by(nodes: Iterable[ast.AST], file: Path) -> set[str]:
    """Full names of what the imports among these nodes of a file bring in."""
    names: set[str] = set()
    package = (*file.relative_to(ROOT).parts[:-1],)
    for node in nodes:
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
    return [
        n.module
        for n in tree(file).body
        if isinstance(n, ast.ImportFrom) and n.module and n.module.startswith("sigma_ros")
    ]


def test_the_package_itself_imports_the_model_cards_names_alone_and_those_on_demand() -> None:
    assert own_parts(PACKAGE / "__init__.py") <= {"model"}
    assert not top_level(PACKAGE / "__init__.py")


def test_imports_flow_one_way() -> None:
    parts = {file: part_of(file) for file in modules() if part_of(file) != "__init__"}
    assert set(parts.values()) <= set(MAY_IMPORT), "say in MAY_IMPORT what the new part may import"
    upward = {relative(file): own_parts(file) - MAY_IMPORT[part] - {part} for file, part in parts.items()}
    assert {name: found for name, found in upward.items() if found} == {}, "these stand below what they import"


def tops(file: Path) -> set[str]:
    """First parts of the names that a file imports."""
    return {name.split(".")[0] for name in imported(file)}


def is_of_ros(file: Path) -> bool:
    messages = {name for name in tops(file) if name.endswith("_msgs")} | (own_parts(file) & {"action", "msg", "srv"})
    return bool(tops(file) & ROS | messages)


def test_ros_is_imported_in_nodes_alone() -> None:
    outside = [relative(file) for file in modules() if part_of(file) != "nodes" and is_of_ros(file)]
    assert not outside, "these belong into nodes/"


def test_control_and_facts_import_no_torch() -> None:
    assert not [relative(file) for file in modules() if part_of(file) in WITHOUT_TORCH and tops(file) & TORCH]


@pytest.mark.parametrize("name", ["sigma_ros.supervisor.supervisor", "sigma_ros.nodes.supervisor_node"])
def test_the_supervisors_process_never_loads_torch(name: str) -> None:
    if "nodes" in name:
        pytest.importorskip("rclpy", reason="rclpy is not installed")
        pytest.importorskip("sigma_ros.msg", reason="the messages are not built")
    heavy = sorted(TORCH | {"mujoco", "rosbags", "matplotlib", "plotly", "pandas", "scipy", "cv2"})
    code = f"import sys, {name}; print(*[m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment()
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [], f"{name} loads {result.stdout}"


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


def test_every_python_file_names_its_licence() -> None:
    heads = {relative(file): file.read_text(encoding="utf-8").splitlines()[:2] for file in sources()}
    assert not [name for name, head in heads.items() if "# SPDX-License-Identifier: Apache-2.0" not in head]


def test_every_module_of_the_tests_has_a_name_of_its_own() -> None:
    names = [file.name for file in (ROOT / "test").rglob("*.py") if file.name != "conftest.py"]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


FOR_STRANGERS = [
    "README.md",
    "DESIGN.md",
    "CONTRIBUTING.md",
    "CHANGELOG.rst",
    "SECURITY.md",
    "CODE_OF_CONDUCT.md",
    "CITATION.cff",
    "LICENSE",
    "package.xml",
    "docs/report.md",
    "examples/README.md",
    ".github/dependabot.yml",
    ".github/pull_request_template.md",
    ".github/ISSUE_TEMPLATE/bug.yml",
    ".github/ISSUE_TEMPLATE/robot.yml",
    ".github/ISSUE_TEMPLATE/feature.yml",
]


def test_what_a_stranger_looks_for_is_there() -> None:
    assert not [name for name in FOR_STRANGERS if not (ROOT / name).stat().st_size]


def test_the_changelog_names_the_version_or_what_is_forthcoming() -> None:
    from sigma_ros import __version__  # noqa: PLC0415

    text = (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")
    assert "Forthcoming" in text or __version__ in text


def test_package_xml_and_python_agree_on_the_version() -> None:
    from sigma_ros import __version__  # noqa: PLC0415

    assert f"<version>{__version__}</version>" in (ROOT / "package.xml").read_text(encoding="utf-8")


def test_the_citation_names_the_version_the_paper_and_the_model_card() -> None:
    from sigma_ros import __version__  # noqa: PLC0415

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == __version__
    assert citation["preferred-citation"]["url"].endswith("arxiv.org/abs/2512.00783")
    assert [each["url"] for each in citation["references"]] == ["https://huggingface.co/Veltraxor/Sigma"]


def test_the_workflow_runs_what_anybody_can_run() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert commands == ["bash .ci/run"]


def test_what_a_forge_reads_is_yaml_with_something_in_it() -> None:
    assert all(yaml.safe_load(file.read_text(encoding="utf-8")) for file in (ROOT / ".github").rglob("*.yml"))


def test_no_sources_print_outside_the_command_line() -> None:
    printing = [
        relative(file)
        for file in modules()
        if part_of(file) != "cli"
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not printing


PROSE = [
    *(ROOT / name for name in ("README.md", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.rst")),
    *(ROOT / name for name in ("SECURITY.md", "CODE_OF_CONDUCT.md", "examples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
REGISTERED = {"docs/protocol.md"}
"""A registered protocol: its hash stands in results, so it is not even wrapped anew."""


def long_lines(text: str) -> list[int]:
    """Numbers of the lines over 100 characters, outside tables and code and without the targets of links."""
    found, in_code = [], False
    for number, line in enumerate(text.splitlines(), start=1):
        in_code ^= line.startswith("```")
        if not in_code and not line.startswith("|") and len(re.sub(r"\]\([^)]*\)", "]", line)) > 100:
            found.append(number)
    return found


def test_prose_is_wrapped_at_100_characters() -> None:
    pages = {name: file for file in PROSE if (name := relative(file)) not in REGISTERED}
    long = {name: long_lines(file.read_text(encoding="utf-8")) for name, file in pages.items()}
    assert {name: lines for name, lines in long.items() if lines} == {}, "wrap these lines"


def test_a_long_line_is_seen_unless_it_is_a_table_code_or_a_links_target() -> None:
    long = "word " * 21
    text = "\n".join((long, f"| {long} |", "```", long, "```", f"[here](https://example.org/{'x' * 99})", long))
    assert long_lines(text) == [1, 7]


@pytest.mark.parametrize("file", PROSE, ids=relative)
def test_relative_links_lead_somewhere(file: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", file.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not t.startswith("mailto:") and not (file.parent / t).exists()]
    assert not missing, f"{relative(file)}: {', '.join(missing)}"


NAMES_THINGS = [file for file in PROSE if file.name != "CHANGELOG.rst"]
"""Pages that speak of today's code; a changelog names what was."""

IN_A_FOLDER = re.compile(
    r"(?<![\w./-])(?:[\w-]+/)+(?:[\w.-]+\.(?:py|yaml|json|xml|sh|md|rviz|msg|txt|svg)\b|(?=[`\s),]))"
)
TEST_FILE = re.compile(r"(?<![\w/])test_\w+\.py\b")
DOTTED = re.compile(r"(?<![\w./-])(?:sigma_ros|training|safety)(?:\.\w+)+")
FOLDERS = "bench config docs examples launch msg requirements safety scripts sigma_ros test training"
OURS = tuple(f"{name}/" for name in FOLDERS.split())
SUFFIXES = ("md", "py", "html", "json", "yaml")


def unknown_places(text: str) -> list[str]:
    """Files, folders, tests and dotted names that a text names and the repository lacks.

    Every path with a `.py` file counts, so that none is abbreviated; other paths count below one of our folders. Names
    in capitals stand for something else.
    """
    places = {place for place in IN_A_FOLDER.findall(text) if place.endswith(".py") or place.startswith(OURS)}
    missing = {place for place in places if not _placeholder(place.split("/")) and not (ROOT / place).exists()}
    tests = {file.name for file in (ROOT / "test").rglob("test_*.py")}
    missing |= set(TEST_FILE.findall(text)) - tests
    dotted = {name for name in DOTTED.findall(text) if not name.endswith(SUFFIXES)}
    return sorted(missing | {name for name in dotted if not _placeholder(name.split(".")) and not is_there(name)})


def _placeholder(parts: list[str]) -> bool:
    return any(part.split(".")[0].isupper() and len(part) > 1 for part in parts)


def is_there(dotted: str) -> bool:
    """Whether a dotted name is a module, or a name that stands in one; `sigma_ros.training` is `training`."""
    parts = (
        dotted.removeprefix("sigma_ros.").split(".") if dotted.startswith("sigma_ros.training") else dotted.split(".")
    )
    place = ROOT
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    module = place / "__init__.py"
    if parts and (place / f"{parts[0]}.py").exists():
        module = place / f"{parts.pop(0)}.py"
    text = module.read_text(encoding="utf-8") if module.exists() else ""
    return all(re.search(rf"\b{part}\b", text) for part in parts)


def test_every_path_and_module_that_a_page_names_exists() -> None:
    unknown = {relative(file): unknown_places(file.read_text(encoding="utf-8")) for file in NAMES_THINGS}
    assert {name: places for name, places in unknown.items() if places} == {}


def test_what_a_page_names_wrongly_is_found() -> None:
    there = "`sigma_ros/errors.py`, `config/NAME.yaml`, `sigma_ros.training.train`, `sigma_ros.values.Chunk`"
    assert unknown_places(there) == []
    gone = "streams/images.py config/none.yaml test_none.py sigma_ros.none sigma_ros.values.None_ sigma_ros/none/"
    for name in gone.split():
        assert unknown_places(f"see `{name}`") == [name]


# How the house is built: no circles, folders of a size that one takes in, one meaning a name, a test a module.

LARGEST_FOLDER = 14
LARGER_FOLDERS = {
    "test": 15,
    "test/model": 20,
    "test/nodes": 21,
    "test/supervisor": 20,
    "training": 18,
}
"""Python files beside `__init__.py` of folders that are not yet small enough: these numbers only shrink."""

WITHOUT_A_TEST_OF_THEIR_NAME = {
    f"{folder}/{name}.py"
    for folder, names in {
        "safety": (
            "attacks campaign fault_acts fault_campaign fault_catalogue fault_ends faults "
            "mock_arm mutants rig stand_in_policy storms"
        ),
        "safety/fuzz": "bag_mutations",
        "sigma_ros": "camera_names contract_text errors kinematics values",
        "sigma_ros/bags": (
            "dataset_facts files lerobot lerobot_dataset losses mcap_file mcap_index messages sqlite_file"
        ),
        "sigma_ros/cli/recordings": "contract dataset init inspect transcode",
        "sigma_ros/cli/robot": "monitor",
        "sigma_ros/cli/scores": "evaluate evaluate_run replay replay_run sim",
        "sigma_ros/evaluation": ("drive fleet latency log precompute recorder replay_operator supervised"),
        "sigma_ros/evaluation/report": (
            "bounded chunk_table curves document figures markdown rerun saved summary write"
        ),
        "sigma_ros/evaluation/scoring": "metrics score verdict",
        "sigma_ros/inspection": "bag data_set draft facts places",
        "sigma_ros/lerobot": (
            "configuration_sigma configuration_sim environment episode modeling_sigma processor_sigma"
        ),
        "sigma_ros/model": "lora precompute resampler",
        "sigma_ros/model/checkpoint": "explain manifest",
        "sigma_ros/model/pi05": "folder lerobot_symbols places processors sizes tensors weights",
        "sigma_ros/nodes": "sim_node",
        "sigma_ros/nodes/driver": "arm last_line",
        "sigma_ros/nodes/launch": "arguments policy",
        "sigma_ros/nodes/policy": "session",
        "sigma_ros/nodes/replay": "loop peers",
        "sigma_ros/nodes/shared": ("diagnostics image_messages node_options parameter_files sensor_messages topics"),
        "sigma_ros/nodes/supervisor": "health live lockstep output",
        "sigma_ros/policy": "job",
        "sigma_ros/sim": "arm_shapes expert scene shapes trials",
        "sigma_ros/sim/tasks": "demonstration task world",
        "sigma_ros/streams": "stream",
        "sigma_ros/supervisor": "command_loop state_machine trajectory",
        "training": ("cache check_data data evaluate held_out loop options plain sources streams"),
        "training/trials": "statistics study_page",
        "training/bed": "arms base closed_loop episodes model protocol results trainer units",
    }.items()
    for name in names.split()
}
"""Modules that other tests hold, or none; this list only shrinks."""


def product() -> list[Path]:
    """Modules of the package, of training and of the safety campaigns, without files that only name a folder."""
    found = [*modules(), *sorted((ROOT / "training").rglob("*.py")), *sorted((ROOT / "safety").rglob("*.py"))]
    return [file for file in found if file.name not in ("__init__.py", "__main__.py")]


def dotted(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def outside_type_checking(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """What a module runs when it is imported, as far as imports may stand there."""
    for statement in body:
        if isinstance(statement, ast.If):
            guarded = "TYPE_CHECKING" in ast.unparse(statement.test)
            yield from outside_type_checking(statement.orelse if guarded else statement.body + statement.orelse)
        elif isinstance(statement, ast.Try):
            yield from outside_type_checking(statement.body + statement.orelse)
        else:
            yield statement


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of modules, if there is one."""
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_circle_of_files_import_each_other() -> None:
    files = {dotted(file): file for file in [*sources(), *modules()] if file.parent != ROOT / "launch"}
    graph = {
        name: (imported_by(list(outside_type_checking(tree(file).body)), file) & set(files)) - {name}
        for name, file in files.items()
    }
    assert circle(graph) == []


def test_a_circle_is_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


def test_a_folder_can_be_taken_in_at_a_glance() -> None:
    counts = Counter(relative(file.parent) for file in sources() if file.name != "__init__.py")
    larger = {name: count for name, count in counts.items() if count > LARGEST_FOLDER}
    assert larger.keys() == LARGER_FOLDERS.keys(), "fold modules with one importer, make a folder, or shrink the list"
    assert all(count <= LARGER_FOLDERS[name] for name, count in larger.items()), f"{larger}: these only shrink"


def classes_of_several_modules(files: Iterable[Path]) -> set[str]:
    """Names of classes, private and inner ones too, that more than one of these files defines."""
    names = Counter(
        name
        for file in files
        for name in {each.name for each in ast.walk(tree(file)) if isinstance(each, ast.ClassDef)}
    )
    return {name for name, count in names.items() if count > 1}


def test_a_class_name_has_one_meaning() -> None:
    assert not classes_of_several_modules(product()), "rename one of them"


def test_a_private_class_of_two_modules_is_seen(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text("class _Twice: ...\n")
    assert classes_of_several_modules(tmp_path.glob("*.py")) == {"_Twice"}


def homes_of(file: Path) -> set[str]:
    """Where a module's test may stand: in the folder of `test/` that its own is, or one of those around it."""
    parts = file.relative_to(ROOT).parts
    inside = parts[1:-1] if parts[0] == "sigma_ros" else parts[:-1]
    names = {f"test_{file.stem}.py", f"test_{parts[-2]}_{file.stem}.py"}
    homes = [Path("test", *inside[:depth]) for depth in range(min(1, len(inside)), len(inside) + 1)]
    return {str(home / name) for home in homes for name in names}


def has_test(file: Path) -> bool:
    return any((ROOT / name).is_file() for name in homes_of(file))


def test_a_module_has_a_test_of_its_name() -> None:
    without = {relative(file): sorted(homes_of(file)) for file in product() if not has_test(file)}
    missing = {name: homes for name, homes in without.items() if name not in WITHOUT_A_TEST_OF_THEIR_NAME}
    assert missing == {}, "write one of these tests"
    assert sorted(WITHOUT_A_TEST_OF_THEIR_NAME - without.keys()) == [], "take these out of the list"
