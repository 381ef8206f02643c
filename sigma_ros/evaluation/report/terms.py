# SPDX-License-Identifier: Apache-2.0
"""The words of the reports, each explained in one sentence: on hover in the pages, as a table in the docs."""

from collections.abc import Mapping

from markupsafe import Markup

TERMS: Mapping[str, str] = {
    "base": "The untouched pi0.5 policy: Sigma's chunk without its residual, from the same run and the same noise.",
    "Sigma": "The base's chunk plus scale times residual.",
    "after the supervisor": "The commands that the supervisor sent, taken at the times of the window's steps.",
    "chunk": "The actions of the next 50 ticks, planned at once.",
    "residual": "What Sigma adds to the base's chunk; the telepathy factors make it.",
    "scale": "Share of the residual that is let through, 0 to 1: asked for by the adapter, applied by the supervisor.",
    "adapter": "Chooses the scale at run time: exp(-risk / temperature), within its two ends.",
    "risk": "Sum of three terms: size of the residual, size of the factors, disagreement of memory and task text.",
    "ceiling": "The largest scale that the supervisor allows now; it falls when chunks are late, stale or far off.",
    "window": "The 16 newest ticks of pictures and joints; the policy's input. Scored ones are 16 ticks apart.",
    "tick": "One step of the policy's clock: 1/30 s with the shipped contract.",
    "memory": "The semantic memory: a vector kept across ticks and committed every 16.",
    "epoch": "A stretch of a recording without a break; memory and window begin anew with each.",
    "mse_vec": "Mean squared error of the chunk's first step, in normalised actions.",
    "mse_chk": "Mean squared error over the chunk's first 8 steps, in normalised actions.",
    "mse_trj": "Mean squared error over the chunk's first 16 steps, in normalised actions.",
    "normalised": "Joint by joint, 1 % of the training data's actions lie below -1 and 1 % above +1.",
    "95 % interval": "Bootstrap (BCa, 5,000 resamples) over recordings, or over windows where there are fewer than 5.",
    "p": "Two-sided sign-flip permutation test of the paired differences.",
    "effect d": "Cohen's d of the paired differences: their mean by their deviation.",
    "tau_l2": "Norm of the telepathy factors.",
    "sem_align": "Cosine of memory and task text.",
    "jerk": "Third derivative of position, RMS over joints; the lower, the smoother.",
    "bounded": "The command was not what was asked for, because a limit of the joint or the room to stop was reached.",
    "room to stop": "No limit is used up, but following further would leave no room for a stop within the limits.",
    "violations": "Commands beyond a limit of position, speed, acceleration or jerk; must be 0.",
    "RUN": "The supervisor's state in which the policy moves the arm; in every other one it does not.",
}


def term(name: str, shown: str = "") -> Markup:
    """`name` as it is shown in a page, explained on hover and on keyboard focus."""
    return Markup('<abbr tabindex="0" data-why="{}">{}</abbr>').format(TERMS[name], shown or name)
