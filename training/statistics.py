# SPDX-License-Identifier: Apache-2.0
"""Statistics that a study needs beyond those of one report."""


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm's step-down correction for several comparisons."""
    ordered = sorted(p_values, key=lambda name: p_values[name])
    corrected, largest = {}, 0.0
    for place, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - place) * p_values[name]))
        corrected[name] = largest
    return corrected
