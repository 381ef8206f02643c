# SPDX-License-Identifier: Apache-2.0
"""The base policy's prompt: the task and the normalised state written as integers.

Source: LeRobot's `Pi05PrepareStateTokenizerProcessorStep` (openpi's `PaligemmaTokenizer`).
"""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

STATE_BINS = 256
_EDGES = np.linspace(-1.0, 1.0, STATE_BINS + 1)[:-1]


def state_bins(state_normalised: Float[ndarray, " dof"]) -> Int[ndarray, " dof"]:
    """Bin of each normalised value: 0..255 inside [-1, 1], -1 below; above 1 stays 255."""
    return np.digitize(state_normalised, bins=_EDGES) - 1


def clean_task(task: str) -> str:
    """The task as the prompt carries it: stripped, underscores and line ends as blanks."""
    return task.strip().replace("_", " ").replace("\n", " ")


def base_prompt(task: str, state_normalised: Float[ndarray, " dof"]) -> str:
    """`Task: <task>, State: <integers>;` and `Action: ` on a new line."""
    state = " ".join(str(number) for number in state_bins(state_normalised))
    return f"Task: {clean_task(task)}, State: {state};\nAction: "
