# SPDX-License-Identifier: Apache-2.0
"""Hook of MkDocs: pages made from the code, so that nothing is written twice, and links out of docs/ as plain paths."""

import re
from pathlib import Path
from typing import Any

from sigma_ros.evaluation.report.terms import TERMS
from sigma_ros.model.checkpoint.explain import explain_model
from sigma_ros.nodes.shared.node_options import NODES
from sigma_ros.nodes.shared.parameters import markdown_table
from sigma_ros.supervisor.reasons import Reason

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sigma_ros", "training")
OUTWARD = re.compile(r"\[([^\]]*)\]\(\.\./([^)#]+)[^)]*\)")


def parameters_page() -> str:
    """Every node's parameters."""
    tables = "\n\n".join(f"## `{name}`\n\n{markdown_table(options)}" for name, options in NODES.items())
    return f"# Parameters\n\nOf every node, as its `--help` lists them; **live**: while it runs.\n\n{tables}\n"


def reasons_page() -> str:
    """Every reason of the supervisor."""
    rows = "\n".join(f"| `{reason.name}` | {reason.sentence} | {reason.remedy} |" for reason in Reason)
    return f"# Reasons of the supervisor\n\n| name | what happened | what to do |\n| --- | --- | --- |\n{rows}\n"


def glossary_page() -> str:
    """Every word that a report explains."""
    rows = "\n".join(f"| {word} | {meaning} |" for word, meaning in TERMS.items())
    return f"# Glossary\n\nThe words of the reports.\n\n| word | meaning |\n| --- | --- |\n{rows}\n"


def code_pages() -> dict[str, tuple[str, str]]:
    """Page -> title and Markdown, of what only the code knows."""
    return {
        "reasons.md": ("Reasons", reasons_page()),
        "parameters.md": ("Parameters", parameters_page()),
        "model.md": ("The model", explain_model("both")),
        "glossary.md": ("Glossary", glossary_page()),
    }


def api_pages() -> dict[str, str]:
    """Page -> Markdown: one page per folder of modules, one entry per module that shows anything."""
    pages = {}
    for package in PACKAGES:
        for folder in sorted({file.parent for file in (ROOT / package).rglob("*.py")}):
            name = ".".join(folder.relative_to(ROOT).parts)
            modules = sorted(f"{name}.{file.stem}" for file in folder.glob("*.py") if not file.stem.startswith("_"))
            entries = "\n\n".join(f"::: {module}" for module in modules)
            if modules:
                pages[f"api/{name}.md"] = f"# `{name}`\n\n{entries}\n"
    return pages


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages made from the code."""
    from mkdocs.structure.files import File  # noqa: PLC0415  # the tests read the pages without MkDocs

    tables, api = code_pages(), api_pages()
    for path, text in ({path: text for path, (_, text) in tables.items()} | api).items():
        files.append(File.generated(config, path, content=text))
    made = {"From the code": [{title: path} for path, (title, _) in tables.items()]}
    config.nav = [*config.nav, made, {"API": [{path[4:-3]: path} for path in api]}]
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """`[text](../DESIGN.md)` leads out of the site: it becomes `text (DESIGN.md)`."""
    return OUTWARD.sub(r"\1 (`\2`)", markdown)
