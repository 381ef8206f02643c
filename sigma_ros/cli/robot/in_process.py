# SPDX-License-Identifier: Apache-2.0
"""`sigma run --sim --no-ros`: simulator, policy and supervisor in one process; the closed loop, with a user's hand.

Simulated time stands still while the model thinks, so a slow machine shows a slow arm and not another one.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

from sigma_ros.cli.robot.console import HELP, line
from sigma_ros.contract import Contract
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.sim.closed_loop import Loop, run_episode, sim_limits
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.setups import setup_named
from sigma_ros.supervisor.reasons import Decision
from sigma_ros.supervisor.supervisor import Supervisor
from sigma_ros.values import AdapterSettings

if TYPE_CHECKING:
    from sigma_ros.cli.robot.run import ArmOptions

LONGEST_S = 3600.0
_DRAW_S = 0.2


class _QuitError(Exception):
    """The user has ended it."""


class Hand:
    """The user in the operator's place of the closed loop: nothing is engaged but at a key."""

    def __init__(self, typed: Callable[[], list[str]], draw: Callable[[Decision, str], None]) -> None:
        self._typed = typed
        self._draw = draw
        self._said = ""

    def on_chunk(self) -> None:
        """The policy has proposed something; that alone moves nothing."""

    def act(self, supervisor: Supervisor, now_ns: int) -> None:
        """Does what was typed since the last tick."""
        for order in self._typed():
            if order == "quit":
                raise _QuitError
            answer = {
                "engage": lambda: supervisor.engage(now_ns),
                "stop": supervisor.estop,
                "reset": lambda: supervisor.reset_stop(now_ns),
            }[order]()
            self._said = "" if answer.success else f"refused: {answer.text}"

    def note(self, decision: Decision) -> None:
        """Shows what came of the tick."""
        self._draw(decision, self._said)


def drive(options: "ArmOptions", contract: Contract, typed: Callable[[], list[str]]) -> int:
    """One episode, until the brick lies in the box or q; gives the exit code."""
    console = Console(highlight=False, markup=False)
    console.print(f"starting the simulated arm with {options.checkpoint}, all in this process")
    console.print(HELP, style="bold")
    runtime = SigmaRuntime.load(
        options.checkpoint,
        contract=contract,
        device=options.device,
        engine=options.engine,
        allow_untrained=options.allow_untrained,
    )
    loop = Loop(settings=AdapterSettings(), limits=sim_limits(), time_limit_s=LONGEST_S)
    with (
        SimArm(setup_named(options.setup), contract=contract) as arm,
        Live(console=console, auto_refresh=False, transient=True) as live,
    ):
        hand = Hand(typed, _drawing(live))
        pace = _pace(1.0 / contract.fps)
        try:
            run = run_episode(arm, runtime, options.seed, loop, clock_ns=time.monotonic_ns, on_tick=pace, operator=hand)
        except _QuitError:
            return 0
    console.print("the brick is in the box" if run.success else "the hour is over")
    return 0


def _drawing(live: Live) -> Callable[[Decision, str], None]:
    due_s = 0.0

    def draw(decision: Decision, said: str) -> None:
        nonlocal due_s
        if time.monotonic() >= due_s:
            due_s = time.monotonic() + _DRAW_S
            live.update(line(decision.state.name, decision, said), refresh=True)

    return draw


def _pace(period_s: float) -> Callable[[], None]:
    """Holds the simulation back to real time; time that was lost is not made up for."""
    due_s = time.monotonic()

    def wait() -> None:
        nonlocal due_s
        time.sleep(max(0.0, due_s - time.monotonic()))
        due_s = max(due_s, time.monotonic() - period_s) + period_s

    return wait
