# SPDX-License-Identifier: Apache-2.0
"""Mutation testing of the supervisor's core with cosmic-ray: are the tests able to notice a wrong operator?

    python -m tools.mutants --each 20 --out out/mutants      a sample of 20 mutants per module
    python -m tools.mutants --each 0                         all of them (a night)

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
_PYTEST = f"{sys.executable} -m pytest -x -q -p no:cacheprovider"
_CAMPAIGN = f"{sys.executable} tools/campaign.py --ticks 4600 --quiet --out out/campaign > /dev/null"
_TRIVIAL = ("Shift", "Bit", "Pow", "FloorDiv", "_Mod", "Mod_", "UnaryOperator", "Decorator", "ExceptionReplacer")
"""Operators whose mutants of floating-point code die at once: they would only flatter the score."""

MODULES = {
    "stop_plan": "test_stop_plan",
    "motion_guard": "test_motion_guard",
    "limits": "test_limits test_supervisor",
    "ceiling": "test_ceiling",
    "chunk_check": "test_chunk_check",
    "chunks": "test_chunks",
    "start_gate": "test_start_gate test_supervisor",
    "joint_watch": "test_joint_watch",
    "evidence": "test_supervisor",
    "chunk_stream": "test_supervisor",
    "command_loop": "test_supervisor",
    "situation": "test_supervisor",
    "supervisor": "test_supervisor",
}
"""The core's modules and the tests that are tried first."""


def sample(session: Path, count: int, seed: int) -> int:
    """Leaves `count` mutants of a session to be tried (0: all); the number that is left."""
    with use_db(session, WorkDB.Mode.open) as database:
        items = sorted(
            database.work_items, key=lambda item: (item.mutations[0].start_pos, item.mutations[0].operator_name)
        )
        worth = [item for item in items if not any(word in item.mutations[0].operator_name for word in _TRIVIAL)]
        chosen = worth if not count or count >= len(worth) else random.Random(seed).sample(worth, count)
        kept = {item.job_id for item in chosen}
        skipped = WorkResult(worker_outcome=WorkerOutcome.SKIPPED)
        for item in items:
            if item.job_id not in kept:
                database.set_result(item.job_id, skipped)
        return len(kept)


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
    files = " ".join(f"test/control/{name}.py" for name in tests.split())
    config, session = copy / f"{module}.toml", copy / f"{module}.sqlite"
    config.write_text(
        f"""[cosmic-ray]
module-path = "sigma_ros/control/{module}.py"
timeout = 300.0
excluded-modules = []
test-command = "sh -c '{_PYTEST} {files} && {_CAMPAIGN}'"
[cosmic-ray.distributor]
name = "local"
""",
        encoding="utf-8",
    )
    environment = os.environ | {"PYTHONPATH": f"{copy}:{os.environ.get('PYTHONPATH', '')}"}
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
    parser.add_argument("--each", type=int, default=20, help="mutants per module; 0: all (default 20)")
    parser.add_argument("--only", default="", help="modules, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/mutants"))
    options = parser.parse_args(arguments)
    wanted = options.only.split(",") if options.only else list(MODULES)
    rows = []
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("sigma_ros", "test", "config", "tools", "pyproject.toml"):
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / part)
        for module in tqdm(wanted, unit="module"):
            rows.append(mutate(copy, module, MODULES[module], each=options.each, seed=options.seed))
            (options.out / "mutants.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            (options.out / "mutants.md").write_text(table(rows), encoding="utf-8")
    sys.stdout.write(table(rows))
    tried, killed = sum(row["tried"] for row in rows), sum(row["killed"] for row in rows)
    return 0 if killed >= ASKED * tried else 1


if __name__ == "__main__":
    sys.exit(main())
