# SPDX-License-Identifier: Apache-2.0
"""python -m training.trials.plot_memory: draws docs/images/memory.svg from docs/evidence/pictures_m1.json.

On the left where the cue can be read (`training.trials.readout`), on the right who chose rightly
(`training.trials.pooled`). Run it in the repository.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .pooled import pooled

EVIDENCE = Path("docs/evidence/pictures_m1.json")
STRIDE_S, CUE_S = 16 / 30, 1.0
PICTURES, MEMORY, BEFORE, TWIN = "#8a8f98", "#2471a3", "#c0392b", "#e08214"


def _readouts(axes: Axes, found: dict[str, list[dict[str, float]]]) -> None:
    curves = {
        "newest pictures": ("with foresight", "pictures", PICTURES),
        "memory, trained with foresight": ("with foresight", "memory", MEMORY),
        "memory, without": ("without", "memory", BEFORE),
    }
    for label, (run, part, colour) in curves.items():
        shares = [100.0 * row[part] for row in found[run]]
        axes.plot([STRIDE_S * step for step in range(len(shares))], shares, "o-", ms=3, color=colour, label=label)
    axes.axvspan(0.0, CUE_S, color="#f6c945", alpha=0.35, lw=0)
    axes.text(CUE_S / 2, 103.0, "cue", ha="center", fontsize=9)
    axes.axhline(50.0, color=PICTURES, ls="--", lw=1.0)
    axes.set(xlabel="s", ylim=(0.0, 110.0), ylabel="% of unseen episodes")
    axes.set_title("the box that was shown, read linearly from")
    axes.legend(loc="lower left", fontsize=8)


def _choices(axes: Axes, runs: dict[str, list[dict[str, Any]]]) -> None:
    for y, documents in enumerate(reversed(runs.values())):
        [row] = pooled(documents)
        for part, colour, up in (("right", MEMORY, 0.17), ("as_twin", TWIN, -0.17)):
            count, low, high = row[part]
            axes.barh(y + up, 100.0 * count / max(1, row["chose"][0]), height=0.3, color=colour)
            axes.plot([100.0 * low, 100.0 * high], [y + up] * 2, color="#1f2937", lw=1.5)
            axes.text(103.0, y + up, f"{count}/{row['chose'][0]}", va="center", fontsize=8)
    axes.set_yticks(range(len(runs)), list(reversed(runs)))
    axes.axvline(50.0, color=PICTURES, ls="--", lw=1.0)
    axes.set(xlim=(0.0, 122.0), xticks=range(0, 101, 25), title="the box that was chosen")
    axes.set_xlabel("% of choices. Blue: right; orange: as the twin was asked; dashed: chance")


def draw(given: dict[str, Any], out: Path) -> None:
    """Writes the SVG; `given` has `readout` (run -> rows) and `runs` (arm -> documents of `sigma sim`)."""
    with rc_context({"svg.fonttype": "none"}):
        figure = Figure(figsize=(11.0, 4.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        _readouts(left, given["readout"])
        _choices(right, given["runs"])
        figure.savefig(out, metadata={"Date": None})


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--out", type=Path, default=Path("docs/images/memory.svg"))
    draw(json.loads(EVIDENCE.read_text(encoding="utf-8")), parser.parse_args(argv).out)


if __name__ == "__main__":
    main()
