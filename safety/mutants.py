# SPDX-License-Identifier: Apache-2.0
"""Mutation testing of the supervisor's core with cosmic-ray: are the tests able to notice a wrong operator?

    python -m safety.mutants --out out/mutants                a fixed sample of 10 mutants per module
    python -m safety.mutants --each 0                         all of them (a night)
    python -m safety.mutants --only path,chunks               some modules; the others' results are kept

Works on a copy of the repository, so the sources stay as they are. Each mutant is tried with the module's own tests
and, if it survives, with a small campaign of every adversary. Writes `mutants.json` (with the diff of each survivor)
and `mutants.md`. Exit codes: 0 at least 90 % killed, 1 fewer, 2 usage.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import WorkerOutcome, WorkResult
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
ASKED = 0.9
_PYTEST = f"{sys.executable} -m pytest -x -q -p no:cacheprovider -p no_shrinking"
_CAMPAIGN = f"{sys.executable} -m safety.campaign --ticks 4800 --quiet --out out/campaign > /dev/null"
_TIMEOUT_S = 180.0
_NO_SHRINKING = """from hypothesis import Phase, settings

settings.register_profile("no_shrinking", phases=(Phase.explicit, Phase.generate))
settings.load_profile("no_shrinking")
"""
"""A mutant is found or not; a small counterexample is worth nothing here, and costs minutes."""

_TRIVIAL = ("Shift", "Bit", "Pow", "FloorDiv", "_Mod", "Mod_", "UnaryOperator", "Decorator", "ExceptionReplacer")
"""Operators whose mutants of floating-point code die at once: they would only flatter the score."""

_SAME = ("_Is_Eq", "_Eq_Is", "_IsNot_NotEq", "_NotEq_IsNot")
"""Operators whose mutants are the same program: `is` and `==` of enumeration members and None."""

MODULES = {
    "supervisor/stop_plan": "test_stop_plan",
    "supervisor/guard": "test_guard test_path test_limits geometry/test_workspace",
    "kinematics": "geometry/test_tool_kinematics",
    "supervisor/geometry/workspace": "geometry/test_workspace test_limits",
    "supervisor/geometry/collision": "geometry/test_collision test_limits",
    "supervisor/limits": "test_limits geometry/test_workspace test_supervisor",
    "supervisor/scale_limiter": "test_scale_limiter test_limits",
    "supervisor/chunks": "test_chunk_check test_chunks test_limits",
    "supervisor/trajectory": "test_start_gate test_chunk_stream test_stitching test_limits test_supervisor",
    "supervisor/inputs": "test_joint_watch test_inputs test_limits test_supervisor",
    "supervisor/identity": "test_identity test_operator_orders",
    "supervisor/command_loop": "test_limits test_first_command test_contact test_supervisor geometry/test_workspace",
    "supervisor/contact": "test_contact test_supervisor",
    "supervisor/path": "test_path test_supervisor",
    "supervisor/state_machine": "test_operator_orders test_supervisor geometry/test_workspace",
    "supervisor/supervisor": "test_operator_orders test_supervisor geometry/test_workspace",
}
"""The core's modules and the tests that are tried first."""


def sample(session: Path, count: int, seed: int) -> int:
    """Leaves `count` mutants of a session to be tried (0: all); the number that is left."""
    with use_db(session, WorkDB.Mode.open) as database:
        items = sorted(
            database.work_items, key=lambda item: (item.mutations[0].start_pos, item.mutations[0].operator_name)
        )
        worth = [item for item in items if _is_worth_trying(item.mutations[0].operator_name)]
        chosen = worth if not count or count >= len(worth) else random.Random(seed).sample(worth, count)
        kept = {item.job_id for item in chosen}
        skipped = WorkResult(worker_outcome=WorkerOutcome.SKIPPED)
        for item in items:
            if item.job_id not in kept:
                database.set_result(item.job_id, skipped)
        return len(kept)


def _is_worth_trying(operator: str) -> bool:
    return not any(word in operator for word in _TRIVIAL) and not operator.endswith(_SAME)


def survivors(session: Path) -> tuple[int, list[dict[str, Any]]]:
    """How many were tried, and who survived."""
    tried, found = 0, []
    with use_db(session, WorkDB.Mode.open) as database:
        for item, result in database.completed_work_items:
            if result.worker_outcome is WorkerOutcome.SKIPPED:
                continue
            tried += 1
            if not result.is_killed:
                mutation = item.mutations[0]
                found.append(
                    {
                        "operator": mutation.operator_name,
                        "line": mutation.start_pos[0],
                        "diff": result.diff,
                    }
                )
    return tried, found


def mutate(copy: Path, module: str, tests: str, *, each: int, seed: int) -> dict[str, Any]:
    """Tries a module's mutants in a copy of the repository."""
    files = " ".join(f"test/supervisor/{name}.py" for name in tests.split())
    name = module.replace("/", "_")
    config, session = copy / f"{name}.toml", copy / f"{name}.sqlite"
    config.write_text(
        f"""[cosmic-ray]
module-path = "sigma_ros/{module}.py"
timeout = {_TIMEOUT_S}
excluded-modules = []
test-command = "sh -c '{_PYTEST} {files} && {_CAMPAIGN}'"
[cosmic-ray.distributor]
name = "local"
""",
        encoding="utf-8",
    )
    environment = os.environ | {
        "PYTHONPATH": f"{copy}:{os.environ.get('PYTHONPATH', '')}",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    tool = [sys.executable, "-m", "cosmic_ray.cli"]
    for command in (["init", config.name, session.name], None, ["exec", config.name, session.name]):
        if command is None:
            sample(session, each, seed)
            continue
        subprocess.run([*tool, *command], cwd=copy, env=environment, check=True, capture_output=True)
    tried, alive = survivors(session)
    return {"module": module, "tried": tried, "killed": tried - len(alive), "survivors": alive}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The result as Markdown."""
    lines = ["| module | mutants tried | killed | survived (line: operator) |", "| --- | ---: | ---: | --- |"]
    for row in rows:
        alive = ", ".join(f"{s['line']}: {s['operator'].rpartition('/')[2]}" for s in row["survivors"])
        lines.append(f"| {row['module']} | {row['tried']} | {row['killed']} | {alive} |")
    tried, killed = sum(row["tried"] for row in rows), sum(row["killed"] for row in rows)
    share = killed / tried if tried else 0.0
    return "\n".join([*lines, f"| **all** | **{tried}** | **{killed}** | **{share:.1%} killed** |"]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=10, help="mutants per module; 0: all (default 10)")
    parser.add_argument("--only", default="", help="modules, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/mutants"))
    options = parser.parse_args(arguments)
    short = {name.rpartition("/")[2]: name for name in MODULES}
    if unknown := [name for name in options.only.split(",") if name and name not in short]:
        parser.error(f"no such module: {', '.join(unknown)}; there are {', '.join(short)}")
    wanted = [short[name] for name in options.only.split(",")] if options.only else list(MODULES)
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "mutants.json"
    known = json.loads(results.read_text(encoding="utf-8")) if results.exists() else []
    rows = [row for row in known if row["module"] not in wanted]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        (copy / "no_shrinking.py").write_text(_NO_SHRINKING, encoding="utf-8")
        for part in ("sigma_ros", "test", "config", "safety", "pyproject.toml"):
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / part)
        for module in tqdm(wanted, unit="module"):
            rows.append(mutate(copy, module, MODULES[module], each=options.each, seed=options.seed))
            rows.sort(key=lambda row: list(MODULES).index(row["module"]))
            results.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            (options.out / "mutants.md").write_text(table(rows), encoding="utf-8")
    sys.stdout.write(table(rows))
    tried, killed = sum(row["tried"] for row in rows), sum(row["killed"] for row in rows)
    return 0 if killed >= ASKED * tried else 1


if __name__ == "__main__":
    sys.exit(main())
