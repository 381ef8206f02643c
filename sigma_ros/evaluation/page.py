# SPDX-License-Identifier: Apache-2.0
"""Pages that open from disk: the template's frame (`page.html.jinja`), Plotly inside, nothing asked of the network."""

import base64
import gzip
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import plotly.io
from plotly.offline import get_plotlyjs

from sigma_ros.evaluation.report_figures import Figure


def render(template: str, figures: Mapping[str, Figure], **values: object) -> str:
    """A page from one of the templates beside this module; `figures` are drawn in the elements of their names."""
    page = _templates().get_template(template)
    return page.render(**values, figures={key: _json(figure) for key, figure in figures.items()}, plotly=_plotly())


def _json(figure: Figure) -> str:
    """A figure as JSON that cannot end the script element it stands in."""
    return plotly.io.to_json(figure, validate=False).replace("</", "<\\/")


@cache
def _plotly() -> str:
    """Plotly's library, compressed: a third of its size, and the same bytes each time."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), compresslevel=9, mtime=0)).decode()


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["num"] = _number
    environment.filters["pct"] = _percent
    environment.filters["bounds"] = _bounds
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=1, ensure_ascii=False)
    return environment


def _number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits; a dash where it is undefined."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if 10.0**digits <= abs(value) < 1e7:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.{digits}g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{_hundredths(value)} %"


def _bounds(row: Mapping[str, Any]) -> str:
    """A comparison's interval, as a share of the baseline."""
    low, high = row["relative_low"], row["relative_high"]
    return "–" if low is None or high is None else f"{_hundredths(low)} … {_hundredths(high)} %"


def _hundredths(value: float) -> str:
    return f"{100.0 * value:+.{2 if abs(value) < 0.1 else 1}f}".replace("-", "−")
