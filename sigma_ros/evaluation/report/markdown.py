# SPDX-License-Identifier: Apache-2.0
"""Reports and comparisons as Markdown, short enough for a pull request."""

from collections.abc import Mapping, Sequence
from typing import Any

from sigma_ros.evaluation.scoring.comparison import ARMS

_MEANINGS = {"mse_vec": "next step", "mse_chk": "8 steps", "mse_trj": "16 steps"}


def report_markdown(report: Mapping[str, Any]) -> str:
    """The document of `report.json` as a page of Markdown: verdict first, then errors, then conditions."""
    checkpoint, bag, adapter = report["checkpoint"], report["bag"], report["adapter"]
    supervisor = report["supervisor"]
    watched = (
        f"{supervisor['ticks']} ticks, {supervisor['clipped']} bounded, {supervisor['violations']} violations; "
        f"scale {_number(supervisor['applied_scale_mean'])} of {_number(supervisor['requested_scale_mean'])} asked for"
        if supervisor["enabled"]
        else "off"
    )
    rows = [
        [
            f"{name} ({meaning})",
            *_errors(report["comparison"][name], "baseline", "sigma"),
            *_after(report["commanded"], name),
        ]
        for name, meaning in _MEANINGS.items()
    ]
    sweep = report["sweep"]
    facts = [
        f"{report['samples']} windows of {bag['count']} recording(s), {bag['duration_s']:.1f} s; "
        f"{report['ticks']['invalid']} of {report['ticks']['total']} ticks unusable",
        f"scale {_number(adapter['scale_mean'])} on average; best fixed scale in hindsight "
        f"{_number(sweep['best_scale'])} with mse_trj {_number(sweep['best_mse_trj'])}",
        f"risk against error: rank correlation {_number(adapter['risk_error_rho'])}, "
        f"p {_number(adapter['risk_error_p'])}",
        f"supervisor: {watched}",
        f"checkpoint `{checkpoint['hash'][:12]}` on {checkpoint['base']}; recordings `{bag['sha256'][:12]}`",
    ]
    return _page(
        report["verdict"]["headline"],
        report["verdict"]["warnings"],
        _table(["error", "base", "Sigma", "change", "95 % interval", "p", "d", "after the supervisor", "change"], rows),
        [report["verdict"]["supervised"], *facts] if report["verdict"]["supervised"] else facts,
    )


def comparison_markdown(comparison: Mapping[str, Any]) -> str:
    """The document of a `ReportComparison` as a page of Markdown."""
    rows = [
        [f"{title} {name}", *_errors(comparison[arm][name], "a", "b")]
        for arm, title in ARMS.items()
        for name in _MEANINGS
    ]
    facts = [f"{comparison['windows']} paired windows of {comparison['recordings']} recording(s)"]
    facts += [f"{name}: {_short(a)} | {_short(b)}" for name, (a, b) in comparison["differences"].items()]
    sides = [f"A: {comparison['a']}", f"B: {comparison['b']}"]
    return _page(
        comparison["headline"],
        comparison["warnings"],
        _table(["error", "A", "B", "change", "95 % interval", "p", "d"], rows),
        [*sides, *facts],
    )


def _page(headline: str, warnings: Sequence[str], table: str, facts: Sequence[str]) -> str:
    parts = [f"**{headline}**", *(f"> {warning}" for warning in warnings), table]
    return "\n\n".join([*parts, "\n".join(f"- {fact}" for fact in facts)]) + "\n"


def _errors(row: Mapping[str, Any], before: str, after: str) -> list[str]:
    return [
        _number(row[before]),
        _number(row[after]),
        _percent(row["relative"]),
        f"{_percent(row['relative_low'])} … {_percent(row['relative_high'])}",
        _number(row["p_value"], 2),
        _number(row["effect_size"], 2),
    ]


def _after(commanded: Mapping[str, Any], name: str) -> list[str]:
    return [_number(commanded[name]), _percent(commanded["comparison"][name]["relative"])]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100.0 * value:+.2f} %"


def _short(value: object) -> str:
    text = str(value)
    return f"`{text[:12]}`" if len(text) == 64 and " " not in text else text
