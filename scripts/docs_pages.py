# SPDX-License-Identifier: Apache-2.0
"""Hook of MkDocs: pages made of the code (parameters of the nodes, API), and links out of docs/ as plain paths."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from sigma_ros.nodes.shared.node_options import parameters_page

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sigma_ros", "training")
OUTWARD = re.compile(r"\[([^\]]*)\]\(\.\./([^)#]+)[^)]*\)")


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


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages made of the code."""
    pages = api_pages()
    for path, text in {"parameters.md": parameters_page(), **pages}.items():
        files.append(File.generated(config, path, content=text))
    config.nav = [*config.nav, {"Parameters": "parameters.md"}, {"API": [{path[4:-3]: path} for path in pages]}]
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """`[text](../DESIGN.md)` leads out of the site: it becomes `text (DESIGN.md)`."""
    return OUTWARD.sub(r"\1 (`\2`)", markdown)
