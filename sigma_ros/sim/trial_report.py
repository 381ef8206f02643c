# SPDX-License-Identifier: Apache-2.0
"""What closed-loop trials came to: `sim.json`, `sim.md`, `sim.html`.

Rates have Wilson's interval; arms are compared seed by seed.
"""

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float64
from numpy import ndarray
from scipy import stats

from sigma_ros.border import read_json, write_text
from sigma_ros.evaluation.report.figures import BASE, RECORDED, SIGMA, WARN, Figure, figure_of
from sigma_ros.evaluation.report.page import render
from sigma_ros.evaluation.scoring.statistics import compare
from sigma_ros.sim.setups import BoxConfig
from sigma_ros.sim.trials import LOST, Result, Trial
from sigma_ros.supervisor.limits import SupervisorLimits

UNTOLD, OTHER = "placed nothing", "chose otherwise"
ENDINGS = {
    "success": "#0b7a55",
    **dict(zip(LOST, ("#f0b429", BASE, "#9a5b13"), strict=True)),
    UNTOLD: "#c9a27a",
    OTHER: "#7a4fa3",
    "never grasped": WARN,
    "held or stopped": RECORDED,
}
"""How an episode can end, and the colour of it in the page; runs of before `Result.lost` have `UNTOLD`."""

FILM = "film.gif"
"""Beside `sim.json`: the first episode, the arms side by side."""

_HEAD = (
    "arm",
    "success",
    "95 % interval",
    "grasped",
    "time of a success",
    "rms jerk of commands",
    "bounded ticks",
    "off the path",
    "scale",
    "violations",
    "inference",
)


def document(
    conditions: dict[str, Any],
    results: Sequence[Result],
    chosen: Sequence[Trial],
    *,
    starts: Mapping[int, tuple[float, float]],
) -> dict[str, Any]:
    """The content of `sim.json`; `starts`: where the brick of each seed lay [m], x forward and y left of the base."""
    rows = [_row(trial, _of(results, trial)) for trial in chosen]
    return {
        "schema": 1,
        "conditions": conditions,
        "trials": [row for row in rows if row["episodes"]],
        "comparisons": _comparisons(results, chosen),
        "episodes": [asdict(result) | {"brick_start_m": starts[result.seed]} for result in results],
    }


def write(folder: Path, content: dict[str, Any]) -> None:
    """Writes the three files; `sim.json` last, each under another name first."""
    write_text(folder / "sim.md", markdown(content))
    write_text(folder / "sim.html", page(content, film=_film(folder)))
    write_text(folder / "sim.json", json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_page(folder: Path) -> None:
    """Writes `sim.html` anew, from `sim.json` and the film that has been drawn since."""
    write_text(folder / "sim.html", page(cast(dict[str, Any], read_json(folder / "sim.json")), film=_film(folder)))


def _film(folder: Path) -> str:
    file = folder / FILM
    return base64.b64encode(file.read_bytes()).decode() if file.is_file() else ""


def markdown(content: dict[str, Any]) -> str:
    """The table and the comparisons."""
    lines = [f"| {' | '.join(_HEAD)} |", f"|{' --- |' * len(_HEAD)}"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in content["trials"]]
    lines += ["", *(f"- {text}" for text in _sentences(content))]
    return "\n".join([_headline(content), "", *lines, ""])


def page(content: dict[str, Any], *, film: str = "") -> str:
    """One file that opens from disk, in the reports' frame; `film` is a GIF in base64."""
    maps = _maps(content)
    figures = {f"map-{i}": figure for i, figure in enumerate(maps.values())}
    if content["trials"]:
        figures |= {"success": _success(content["trials"]), "endings": _endings(content)}
    return render(
        "trials_page.html.jinja",
        figures,
        film=film,
        maps=list(maps),
        report={**content, "verdict": {"warnings": ()}},
        headline=_headline(content).replace("`", ""),
        head=_HEAD,
        rows=[_cells(row) for row in content["trials"]],
        comparisons=_sentences(content),
        kinds=[ending(row) for row in content["episodes"]],
    )


def ending(episode: Mapping[str, Any]) -> str:
    """One of `ENDINGS` for an episode of `sim.json`."""
    if episode["success"]:
        return "success"
    if episode.get("chosen") is not None:
        return OTHER
    if episode["ended"].split(":")[0] in ("HOLD", "STOPPED", "ESTOP", "DISENGAGED"):
        return "held or stopped"
    return (episode["lost"] or UNTOLD) if episode["held"] else "never grasped"


def _of(results: Sequence[Result], trial: Trial) -> list[Result]:
    found = [r for r in results if (r.arm, r.latency_ms) == (trial.arm, trial.latency_ms)]
    return sorted(found, key=lambda r: r.seed)


def _row(trial: Trial, done: list[Result]) -> dict[str, Any]:
    good = sum(r.success for r in done)
    row: dict[str, Any] = {"arm": trial.arm, "latency_ms": trial.latency_ms, "episodes": len(done), "successes": good}
    if not done:
        return row
    interval = stats.binomtest(good, len(done)).proportion_ci(method="wilson")
    times = [r.duration_s for r in done if r.success]
    if any(r.goal is not None for r in done):
        row |= {"chose": sum(r.chosen is not None for r in done), "right": sum(r.chosen == r.goal for r in done)}
        row |= {"as_twin": sum(r.chosen == r.other for r in done)}
    return row | {
        "success_rate": good / len(done),
        "low": float(interval.low),
        "high": float(interval.high),
        "grasp_rate": float(np.mean([r.held for r in done])),
        "success_time_s": float(np.mean(times)) if times else None,
        "jerk_rms": float(np.median([r.jerk_rms for r in done])),
        "clipped_share": float(np.mean([r.clipped_share for r in done])),
        "off_path_share": float(np.mean([r.off_path_share for r in done])),
        "scale_mean": float(np.mean([r.scale_mean for r in done])),
        "violations": sum(r.violations for r in done),
        "refused_chunks": sum(r.refused_chunks for r in done),
        "inference_ms": float(np.median([r.inference_ms for r in done])),
    }


def _comparisons(results: Sequence[Result], chosen: Sequence[Trial]) -> list[dict[str, Any]]:
    """Every trial against the base at its latency, and against its own arm without latency; paired by seed."""
    pairs = []
    for trial in chosen:
        others = (
            Trial(arm="base", latency_ms=trial.latency_ms),
            Trial(arm=trial.arm, latency_ms=min(t.latency_ms for t in chosen if t.arm == trial.arm)),
        )
        pairs += [(other, trial) for other in others if other in chosen and other != trial]
    return [entry for other, trial in dict.fromkeys(pairs) if (entry := _compared(results, other, trial)) is not None]


def _compared(results: Sequence[Result], other: Trial, trial: Trial) -> dict[str, Any] | None:
    first, second = ({r.seed: r for r in _of(results, side)} for side in (other, trial))
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2:
        return None
    failed, fails = (np.array([float(not side[seed].success) for seed in seeds]) for side in (first, second))
    found = compare(failed, fails, np.array(seeds))
    return {
        "reference": other.name,
        "trial": trial.name,
        "seeds": len(seeds),
        "success_difference": 0.0 - found.difference,
        "low": None if np.isnan(found.high) else 0.0 - found.high,
        "high": None if np.isnan(found.low) else 0.0 - found.low,
        "verdict": found.verdict,
    }


def _headline(content: dict[str, Any]) -> str:
    conditions = content["conditions"]
    counts = {row["episodes"] for row in content["trials"]} or {0}
    told = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)}-{max(counts)}"
    trained = "" if conditions["trained"] else " UNTRAINED (random weights): success means nothing."
    made = "set-up `{setup}`, checkpoint `{checkpoint}`".format_map(conditions)
    return f"{told} episodes per row, {made}.{_limits(conditions)}{trained}"


def _limits(conditions: dict[str, Any]) -> str:
    """Where the supervisor let through more than a robot's would, the rates must not be read without that."""
    limits = conditions.get("limits", {})
    loose = limits.get("other than a robot's", {})
    if limits.get("name") == "off":
        return " No supervisor."
    if not loose:
        return ""
    robot = SupervisorLimits()
    named = ", ".join(f"{name} {value:g} (a robot's: {getattr(robot, name):g})" for name, value in loose.items())
    return f" Supervisor's limits `{limits['name']}`: {named}."


def _cells(row: dict[str, Any]) -> list[str]:
    time_s = row["success_time_s"]
    return [
        f"{row['arm']}, {row['latency_ms']:g} ms",
        f"{row['successes']}/{row['episodes']} = {row['success_rate']:.0%}",
        f"{row['low']:.0%} to {row['high']:.0%}",
        f"{row['grasp_rate']:.0%}",
        "-" if time_s is None else f"{time_s:.1f} s",
        f"{row['jerk_rms']:.1f} rad/s^3",
        f"{row['clipped_share']:.1%}",
        f"{row['off_path_share']:.1%}",
        f"{row['scale_mean']:.2f}",
        str(row["violations"]),
        f"{row['inference_ms']:.0f} ms",
    ]


def _sentences(content: dict[str, Any]) -> list[str]:
    """What a task's episodes chose, and how the rows compare."""
    told = [_choice(row) for row in content["trials"] if "chose" in row]
    return told + [_sentence(entry) for entry in content["comparisons"]]


def _choice(row: dict[str, Any]) -> str:
    return (
        f"{_name(row)}: chose in {row['chose']} of {row['episodes']}, rightly in {_share(row['right'], row['chose'])}, "
        f"as the twin was asked in {_share(row['as_twin'], row['chose'])}"
    )


def _share(count: int, of: int) -> str:
    if not of:
        return "none"
    interval = stats.binomtest(count, of).proportion_ci(method="exact")
    return f"{count} of them = {count / of:.0%} ({interval.low:.0%} to {interval.high:.0%})"


def _sentence(entry: dict[str, Any]) -> str:
    bounds = "" if entry["low"] is None else f" [{entry['low']:+.0%}, {entry['high']:+.0%}]"
    return (
        f"{entry['trial']} against {entry['reference']}: success {entry['success_difference']:+.0%}{bounds} "
        f"over {entry['seeds']} seeds: {entry['verdict']}"
    )


def _success(rows: Sequence[dict[str, Any]]) -> Figure:
    rates = [row["success_rate"] for row in rows]
    bars = go.Bar(
        x=[_name(row) for row in rows],
        y=rates,
        marker={"color": [SIGMA if row["arm"] == "sigma" else BASE for row in rows]},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [row["high"] - rate for row, rate in zip(rows, rates, strict=True)],
            "arrayminus": [rate - row["low"] for row, rate in zip(rows, rates, strict=True)],
        },
    )
    return figure_of([bars], x="", y="success", yaxis={"range": [0, 1], "tickformat": ".0%"}, hovermode="closest")


def _endings(content: dict[str, Any]) -> Figure:
    names = [_name(row) for row in content["trials"]]
    counts = Counter((_name(episode), ending(episode)) for episode in content["episodes"])
    bars = [
        go.Bar(x=names, y=[counts[name, kind] for name in names], name=kind, marker={"color": colour})
        for kind, colour in ENDINGS.items()
        if any(counts[name, kind] for name in names)
    ]
    return figure_of(bars, x="", y="episodes", barmode="stack", hovermode="closest")


def _maps(content: dict[str, Any]) -> dict[str, Figure]:
    """The table from above, a map for each row of the table: where the bricks lay, coloured by how it ended."""
    starts = np.array([episode["brick_start_m"] for episode in content["episodes"]]).reshape(-1, 2)
    return {_name(row): _map(content["episodes"], _name(row), starts) for row in content["trials"]}


def _map(episodes: Sequence[Mapping[str, Any]], name: str, starts: Float64[ndarray, "episodes 2"]) -> Figure:
    dots = []
    for kind, colour in ENDINGS.items():
        some = [i for i, episode in enumerate(episodes) if (_name(episode), ending(episode)) == (name, kind)]
        dots += [
            go.Scatter(
                x=(-starts[some, 1]).tolist(),
                y=starts[some, 0].tolist(),
                mode="markers",
                name=kind,
                marker={"color": colour, "size": 11, "line": {"color": "#ffffff", "width": 1}},
                text=[f"seed {episodes[i]['seed']}: {kind}" for i in some],
                hoverinfo="text",
            )
        ] * bool(some)
    width, depth = BoxConfig().size_m[:2]
    x, y = -BoxConfig().centre_m[1], BoxConfig().centre_m[0]
    box = {"type": "rect", "x0": x - width / 2, "x1": x + width / 2, "y0": y - depth / 2, "y1": y + depth / 2}
    base = {"type": "circle", "x0": -0.03, "x1": 0.03, "y0": -0.03, "y1": 0.03}
    return figure_of(
        dots,
        x="right of the arm [m]",
        y="in front of it [m]",
        height=340,
        hovermode="closest",
        showlegend=True,
        xaxis={"title": {"text": "right of the arm [m]"}, "range": [-0.3, 0.3], "zeroline": False},
        yaxis={"title": {"text": "in front of it [m]"}, "range": [-0.06, 0.4], "scaleanchor": "x", "zeroline": False},
        shapes=[{**shape, "line": {"color": RECORDED, "width": 2}} for shape in (box, base)],
    )


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['arm']}, {row['latency_ms']:g} ms"
