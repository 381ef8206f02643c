# SPDX-License-Identifier: Apache-2.0
"""The generated table of `docs/safety.md`: a row per fault of the safety study, measured or with the reason why not."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

ELSEWHERE: dict[str, str] = {
    "F01": "camera off: `test_policy_node.py`, `test_observation.py` (a tick without fresh images is a gap, no chunk)",
    "F02": "camera stuck: the policy's `frozen_camera`, `test_policy_node.py`; the supervisor sees no pictures",
    "F03": "camera slow, delayed, intermittent: `test_observation.py`, `test_policy_node.py` (age limits per stream)",
    "F04": "malformed images: `test_images.py`, `test_observation.py` (refused with the reason)",
    "F05": "swapped cameras: names only, pictures are not understood; see Not covered",
    "F26": "respawn loop: the launch file's retries; needs `launch_ros`, a ROS installation",
    "F28": "inference hangs or fails: `test_worker.py`, `test_policy_node.py`; the supervisor sees F19, F25",
    "F37": "system clock step: needs a machine of its own; timers are steady (`test_supervisor.py`, F34-F36)",
    "F45": "late joiner: `test_supervisor_node.py`",
    "F46": "unauthorised participant: `test_security.py`, where `sros2` and the security plug-ins are",
    "F53": "pickles: `test_sigma_checkpoint.py`, `test_base_checkpoint.py`",
    "F54": "damaged safetensors: `test_base_checkpoint.py`, `test_sigma_checkpoint.py`",
    "F55": "wrong adapters: `test_sigma_checkpoint.py`",
    "F56": "files replaced, links, revisions: `test_sigma_checkpoint.py`",
}
"""Rows that this bench does not inject: what it is, and where it is tested or why it is not."""


def table(document: dict[str, Any]) -> str:
    """The result as Markdown."""
    trials = document["trials"]
    lines = [
        f"{len(trials)} injections, {document['ticks']:,} ticks judged by the oracle: "
        f"**{document['violations']} violations**, "
        f"**{document['not_as_expected']} reactions not as expected**, {document['tracebacks']} tracebacks.",
        "",
        "| fault | injected | expected | as expected | state, cause | noticed ms: median, worst (allowed) |",
        "| --- | --- | --- | ---: | --- | ---: |",
    ]
    rows = [_row(list(same)) for _, same in itertools.groupby(trials, key=_key)]
    rows += [f"| {row} | {text} | | | | |" for row, text in ELSEWHERE.items()]
    return "\n".join(lines + sorted(rows)) + "\n"


def _key(trial: dict[str, Any]) -> tuple[str, str]:
    return trial["fault"], "pairs of faults" if trial["fault"] == "F69" else trial["name"]


def _row(trials: list[dict[str, Any]]) -> str:
    row, name = _key(trials[0])
    good = sum(trial["ok"] for trial in trials)
    times = [trial["detection_ms"] for trial in trials if trial["detection_ms"] is not None]
    said = f"{np.median(times):.0f}, {max(times):.0f} ({trials[0]['limit_ms']:.0f})" if times else ""
    state = " ".join(filter(None, (trials[0]["state"], trials[0]["reason"]))) if row != "F69" else ""
    if row == "F29":
        state = trials[0]["text"]
    return f"| {row} | {name} | {trials[0]['expected']} | {good} of {len(trials)} | {state} | {said} |"


def renew(page: Path, name: str, text: str) -> None:
    """Replaces what is between `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: the page has no such markers.
    """
    old = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    head, found, rest = old.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no markers {begin.strip()} and {end}")
    temporary = page.with_name(f"{page.name}.tmp")
    temporary.write_text(head + begin + text + end + tail, encoding="utf-8")
    temporary.replace(page)
