# SPDX-License-Identifier: Apache-2.0
"""Drive the simulated arm in a closed loop: the scripted expert, the base, or Sigma, with the supervisor in between.

    python examples/closed_loop.py                               # the expert: needs no model and no pictures
    python examples/closed_loop.py --arm sigma --latency-ms 100  # the small model, and how late its chunks come

Simulated time stands still while a model thinks, so the result is the same on every machine. `sigma sim` does this over
many seeds and writes a report. Pictures need an OpenGL library.
"""

import argparse

from sigma_ros.contract_file import load_contract
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.sim.closed_loop import Loop, sim_limits
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.setups import TARGET
from sigma_ros.sim.trials import Trial, run_trial
from sigma_ros.values import AdapterSettings


def main() -> None:
    """One episode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=("expert", "base", "sigma"), default="expert")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=9000)
    parser.add_argument("--time-limit-s", type=float, default=12.0)
    args = parser.parse_args()

    contract = load_contract("so101")
    runtime = None if args.arm == "expert" else SigmaRuntime.load("mini", contract=contract, device="cpu")
    loop = Loop(
        settings=AdapterSettings(),
        stitching="crossfade",  # a new chunk is faded in over a few steps
        time_limit_s=args.time_limit_s,
        limits=sim_limits(),
    )
    trial = Trial(arm=args.arm, latency_ms=args.latency_ms)
    with SimArm(TARGET, contract=contract) as arm:
        result, run = run_trial(arm, trial, args.seed, loop, runtime)
    outcome = "brick in the box" if run.success else "brick not in the box"
    print(f"{trial.name}, seed {args.seed}: {outcome} after {run.duration_s:.1f} s of simulated time")
    print(f"{run.counters.clipped_ticks} of {len(run.commands_rad)} commands were bounded, "
          f"{run.counters.violations} broke a limit; rms jerk {result.jerk_rms:.0f} rad/s^3")  # fmt: skip


if __name__ == "__main__":
    main()
