# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/timeline.svg: the life of a chunk from pictures to commands, on one time axis.

Run from the repository: python bench/plot_timeline.py [--inference-ms 120]
"""

import argparse
from pathlib import Path

WIDTH, LEFT, TOP, LANE = 900, 150, 40, 56
SPAN_MS = 520.0
LANES = ("cameras, joints", "frame clock", "inference thread", "chunk's steps", "supervisor")
TICK_MS, SETTLE_MS = 1000.0 / 30.0, 12.0


def x_of(ms: float) -> float:
    return LEFT + WIDTH * ms / SPAN_MS


def y_of(lane: int) -> float:
    return TOP + LANE * lane


def text(x: float, y: float, said: str, *, size: int = 12, anchor: str = "start", colour: str = "#222") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">{said}</text>'


def box(start_ms: float, end_ms: float, lane: int, colour: str, said: str) -> list[str]:
    x, y, width = x_of(start_ms), y_of(lane) + 8, x_of(end_ms) - x_of(start_ms)
    return [
        f'<rect x="{x:.1f}" y="{y:.0f}" width="{width:.1f}" height="26" fill="{colour}" rx="3"/>',
        text(x + width / 2, y + 17, said, anchor="middle", size=11),
    ]


def marks(lane: int, period_ms: float, start_ms: float, colour: str) -> list[str]:
    out, at = [], start_ms
    while at < SPAN_MS:
        out.append(f'<circle cx="{x_of(at):.1f}" cy="{y_of(lane) + 21:.0f}" r="3" fill="{colour}"/>')
        at += period_ms
    return out


def line(ms: float, first: int, last: int, colour: str) -> str:
    x = x_of(ms)
    ends = f'y1="{y_of(first) + 21:.0f}" y2="{y_of(last) + 21:.0f}"'
    return f'<line x1="{x:.1f}" x2="{x:.1f}" {ends} stroke="{colour}" stroke-dasharray="4 3"/>'


def picture(inference_ms: float) -> str:
    tick = TICK_MS
    begins, ends = tick + SETTLE_MS, tick + SETTLE_MS + inference_ms
    second = tick * 9
    body = [text(LEFT - 10, y_of(i) + 25, name, anchor="end") for i, name in enumerate(LANES)]
    body += marks(0, TICK_MS, 4.0, "#888") + marks(0, 20.0, 9.0, "#bbb")
    body += marks(1, TICK_MS, tick, "#2471a3")
    body.append(text(x_of(tick), y_of(1) + 44, "tick t: newest message of each stream at or before it", size=11))
    body += box(begins, ends, 2, "#f5cba7", f"step(window, state): {inference_ms:.0f} ms")
    body += box(second + SETTLE_MS, min(SPAN_MS, second + SETTLE_MS + inference_ms), 2, "#f5cba7", "next plan")
    past = int((ends - tick) / TICK_MS) + 1
    for i in range(14):
        at = tick + i * TICK_MS
        colour = "#cccccc" if i < past else "#229954"
        body.append(f'<rect x="{x_of(at):.1f}" y="{y_of(3) + 10:.0f}" width="6" height="22" fill="{colour}"/>')
    body.append(
        text(
            x_of(tick), y_of(3) + 48, "step i is meant for t + i/30 s; the grey ones are past and never played", size=11
        )
    )
    body += marks(4, 20.0, 2.0, "#c0392b")
    body.append(text(x_of(ends), y_of(4) + 44, "first command of this chunk: the next 50 Hz tick", size=11))
    body += [line(begins, 1, 2, "#f39c12"), line(ends, 2, 4, "#229954")]
    for ms in range(0, int(SPAN_MS) + 1, 100):
        body.append(text(x_of(ms), y_of(len(LANES)) + 18, f"{ms} ms", anchor="middle", size=11, colour="#777"))
    size = f'width="{LEFT + WIDTH + 40}" height="{y_of(len(LANES)) + 30}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/timeline.svg"))
    parser.add_argument("--inference-ms", type=float, default=120.0)
    given = parser.parse_args()
    given.out.write_text(picture(given.inference_ms), encoding="utf-8")


if __name__ == "__main__":
    main()
