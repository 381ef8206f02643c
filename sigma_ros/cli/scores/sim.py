# SPDX-License-Identifier: Apache-2.0
"""`sigma sim`: the closed loop on the simulated arm without ROS: success over seeds, with latency injected."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sigma_ros.cli.options import (
    SETUP,
    ContractName,
    Engine,
    GroupedCommand,
    Setup,
    command_of,
    option,
    switch,
    verb,
)
from sigma_ros.errors import UsageError
from sigma_ros.policy.schedule import CROSSFADE_STEPS, REPLAN_TICKS, STITCHING, STITCHINGS, Stitching

if TYPE_CHECKING:
    from sigma_ros.contract import Contract
    from sigma_ros.model.runtime import SigmaRuntime
    from sigma_ros.policy.alarm import AlarmSettings
    from sigma_ros.sim.closed_loop import EpisodeRun, Loop
    from sigma_ros.sim.environment import SimArm
    from sigma_ros.sim.tasks.interventions import Intervention
    from sigma_ros.sim.trials import ArmName, Trial, TrialBook

app = verb("Run the closed loop on the simulated arm.", no_args_is_help=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimRequest:
    """Lets policy and supervisor drive the simulated arm and counts how often the brick ends in the box.

    Simulated time stands still while the model thinks, so results do not depend on the machine. A run that was
    interrupted goes on where it stopped.

    Example: sigma sim --episodes 50 --arms base,sigma --latency-ms 0,100,300 --out out/sim
    """

    out: Path = option("Folder for sim.json, sim.md, sim.html and the episodes.", default=Path("out/sim"))
    episodes: int = option("Episodes per arm and latency.", default=1, min=1)
    seed: int = option("Seed of the first episode; each next one takes the next.", default=0, min=0)
    arms: str = option("Any of base, sigma, expert, separated by commas.", default="base,sigma")
    latency_ms: str | None = option(
        "From a tick to its chunk, in simulated time; else the contract's `delays`, or 0.",
        default=None,
        metavar="MS,MS",
    )
    checkpoint: str = option(
        "`mini`, `mini-memory` (for `--task M1`), a Sigma checkpoint folder, or a base.", default="mini"
    )
    contract: ContractName = "so101"
    setup: Setup = SETUP
    task: str = option("place (one brick, one box), or a task of the test bed: L1, M1, ...", default="place")
    intervention: str = option(
        "--task: reset or swap the memory at the choice, or `other text`.", default="", metavar="KIND"
    )
    stitching: str = option("latest, crossfade or rtc, as the policy node's parameter.", default=STITCHING)
    crossfade_steps: int = option("Steps over which `crossfade` fades in.", default=CROSSFADE_STEPS, min=1, max=16)
    residual_every_tick: bool = switch("Renew the residual at ticks at which the model is free, as the node does.")
    limits: str = option(
        "The supervisor's: robot, reactive (bounds joints alone), open (no own ceiling), off (none).", default="robot"
    )
    replan_ticks: int = option("Ticks between two chunks.", default=REPLAN_TICKS, min=1, max=50)
    max_scale: float = option("The adapter's largest scale.", default=1.0, min=0.0, max=1.0)
    risk_temperature: float = option("The scale falls as exp(-risk / T).", default=1.0, min=1e-3, max=1e3, metavar="T")
    time_limit_s: float | None = option(
        "Simulated seconds before an episode has failed; else the task's (20).", default=None, min=0.5
    )
    noise_seed: int = option("Of the flow noise.", default=0, min=0)
    engine: Engine = "plain"
    allow_untrained: bool = switch("Accept random weights.")
    film: Path | None = option(
        "Also a fine GIF of the first episode, all arms side by side.", default=None, metavar="FILE"
    )
    no_film: bool = switch("Draw no film for sim.html.")
    alarm_rad: float = option(
        "Alarm where a chunk is so far from what the one before had planned; 0: none.", default=0.0, min=0.0
    )
    alarm_below_rad: float | None = option(
        "Also alarm where the gripper is measured below this: fingers that closed on nothing.", default=None
    )
    on_alarm: str = option(
        "none (only count it), replan (twice as often) or stop (propose nothing more).", default="none"
    )
    log_chunks: bool = switch("Keep what was proposed in each episode: OUT/chunks, a file each.")
    noise_samples: int = option(
        "Draws of the flow noise per plan, for its spread in the log.", default=0, min=0, max=16
    )
    force: bool = switch("Begin anew where a run is in the folder.")

    @property
    def seeds(self) -> range:
        """Of the episodes."""
        return range(self.seed, self.seed + self.episodes)

    @property
    def limit_s(self) -> float:
        """When an episode has failed."""
        from sigma_ros.sim.tasks.robot import limit_of  # noqa: PLC0415 - help stays fast

        return limit_of(self.task) if self.time_limit_s is None else self.time_limit_s

    def loop(self) -> "Loop":
        """What is the same in every episode."""
        from sigma_ros.sim.closed_loop import Loop, sim_limits  # noqa: PLC0415 - help stays fast
        from sigma_ros.values import AdapterSettings  # noqa: PLC0415

        return Loop(
            settings=AdapterSettings(max_scale=self.max_scale, risk_temperature=self.risk_temperature),
            replan_ticks=self.replan_ticks,
            stitching=_stitching(self.stitching),
            crossfade_steps=self.crossfade_steps,
            residual_every_tick=self.residual_every_tick,
            time_limit_s=self.limit_s,
            noise_samples=self.noise_samples,
            alarm=_alarm(self.alarm_rad, self.alarm_below_rad, self.on_alarm),
            limits=sim_limits(self.limits),
            supervised=self.limits != "off",
        )

    def conditions(self, robot: "Contract", scene: str, runtime: "SigmaRuntime | None") -> dict[str, object]:
        """What a run that goes on must share."""
        from sigma_ros.sim.closed_loop import LIMITS  # noqa: PLC0415
        from sigma_ros.sim.tasks.task import PLACE  # noqa: PLC0415

        same = ("stitching", "crossfade_steps", "replan_ticks", "residual_every_tick")
        return {
            "checkpoint": self.checkpoint,
            "checkpoint_hash": runtime.info.hash if runtime else "",
            "trained": runtime.info.trained if runtime else True,
            "contract": robot.name,
            "setup": scene,
            **{name: getattr(self, name) for name in same},
            "adapter": {"max_scale": self.max_scale, "risk_temperature": self.risk_temperature},
            "limits": {"name": self.limits, "other than a robot's": dict(LIMITS[self.limits])},
            "alarm": {
                "threshold_rad": self.alarm_rad,
                "gripper_below_rad": self.alarm_below_rad,
                "action": self.on_alarm,
            },
            "time_limit_s": self.limit_s,
            "noise_seed": self.noise_seed,
            **({"task": self.task, "intervention": self.intervention} if self.task != PLACE else {}),
        }


def sim(request: SimRequest) -> int:
    """Runs the episodes that are missing, and writes report and films."""
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415 - help stays fast
    from sigma_ros.evaluation.report.write import refuse_unwritable, refuse_unwritable_file  # noqa: PLC0415
    from sigma_ros.sim.recorder import write_film  # noqa: PLC0415
    from sigma_ros.sim.setups import setup_named  # noqa: PLC0415
    from sigma_ros.sim.tasks.robot import robot_for  # noqa: PLC0415
    from sigma_ros.sim.trial_report import FILM, write_page  # noqa: PLC0415
    from sigma_ros.sim.trials import TrialBook, trials  # noqa: PLC0415

    out, film = request.out, request.film
    refuse_unwritable(out)
    if film is not None:
        refuse_unwritable_file(film)
    robot, scene = load_contract(request.contract), setup_named(request.setup)
    own_ms = f"{(robot.delays.inference_ns or 0) / 1e6:g}"
    chosen = trials(_arms(request.arms), _latencies(own_ms if request.latency_ms is None else request.latency_ms))
    loop = request.loop()
    _refuse_expiring(loop, robot, chosen)
    intervention = _intervention(request)
    runtime = _load(request, robot) if any(trial.arm != "expert" for trial in chosen) else None
    book = TrialBook(out, request.conditions(robot, scene.name, runtime), force=request.force)
    with robot_for(request.task, scene, contract=robot) as arm:
        shown = _run(arm, book, chosen, loop, runtime=runtime, intervention=intervention, request=request)
        if shown and not request.no_film:
            write_film(out / FILM, arm, shown, fine=False)
            write_page(out)
        if shown and film is not None:
            write_film(film, arm, shown)
    return 0


def _run(
    arm: "SimArm",
    book: "TrialBook",
    chosen: "tuple[Trial, ...]",
    loop: "Loop",
    *,
    runtime: "SigmaRuntime | None",
    intervention: "Intervention",
    request: SimRequest,
) -> "dict[str, EpisodeRun]":
    """Runs what is not done yet, and writes the report whatever happens; gives the first seed's runs, for the film."""
    from sigma_ros.sim.trial_report import document, markdown, write  # noqa: PLC0415
    from sigma_ros.sim.trials import run_trial  # noqa: PLC0415

    to_do = [(trial, seed) for seed in request.seeds for trial in chosen if not book.has(trial, seed)]
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("episodes, {task.fields[told]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    shown: dict[str, EpisodeRun] = {}
    ticks = max(1, round(loop.time_limit_s * arm.contract.fps))
    try:
        with Progress(*columns, console=Console(stderr=True, markup=False)) as progress:
            bar = progress.add_task("closed loop", total=len(to_do), told="")
            for done, (trial, seed) in enumerate(to_do):
                progress.update(bar, told=f"{trial.name}, seed {seed}")
                result, run = run_trial(
                    arm,
                    trial,
                    seed,
                    loop,
                    runtime,
                    intervention=intervention,
                    on_tick=lambda: progress.advance(bar, 0.99 / ticks),
                )
                if request.log_chunks:
                    book.log_chunks(result, run)
                book.add(result)
                progress.update(bar, completed=done + 1)
                if seed == request.seed and trial.arm not in {name.partition(",")[0] for name in shown}:
                    shown[trial.name] = run
    finally:
        content = document(book.conditions, book.results, chosen, starts=_starts(arm, book))
        if content["trials"]:
            write(request.out, content)
            Console(highlight=False, markup=False).print(markdown(content), soft_wrap=True)
    return shown


def _starts(arm: "SimArm", book: "TrialBook") -> dict[int, tuple[float, float]]:
    """Where each episode's brick lay [m], seen from the arm's base."""
    found = {}
    for seed in {result.seed for result in book.results}:
        arm.start(seed)
        x_m, y_m, _ = arm.brick_position_m()
        found[seed] = float(x_m), float(y_m)
    return found


def _load(request: SimRequest, contract: "Contract") -> "SigmaRuntime":
    from sigma_ros.model.runtime import SigmaRuntime  # noqa: PLC0415 - torch: seconds

    return SigmaRuntime.load(
        request.checkpoint,
        contract=contract,
        seed=request.noise_seed,
        engine=request.engine,
        allow_untrained=request.allow_untrained,
    )


def _arms(text: str) -> "tuple[ArmName, ...]":
    from sigma_ros.sim.trials import ARMS  # noqa: PLC0415

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names or any(name not in ARMS for name in names):
        raise UsageError("no such arm", expected=f"any of {', '.join(ARMS)}", got=text)
    return cast("tuple[ArmName, ...]", names)


def _latencies(text: str) -> tuple[float, ...]:
    try:
        values = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError as error:
        raise UsageError("--latency-ms takes numbers separated by commas", got=text) from error
    if not all(0.0 <= value <= 500.0 for value in values):
        raise UsageError(
            "a latency cannot be simulated", expected="0 to 500 ms: older chunks are refused as stale", got=text
        )
    return values


def _intervention(request: SimRequest) -> "Intervention":
    """Checked: the memory of the expert cannot be exchanged, and without a task there is no twin."""
    from sigma_ros.sim.tasks.interventions import INTERVENTIONS  # noqa: PLC0415 - help stays fast
    from sigma_ros.sim.tasks.task import PLACE  # noqa: PLC0415

    if request.intervention not in INTERVENTIONS:
        known = ", ".join(name for name in INTERVENTIONS if name)
        raise UsageError("no such intervention", expected=known, got=request.intervention)
    if request.intervention and (request.task == PLACE or "expert" in _arms(request.arms)):
        got = f"--task {request.task} --arms {request.arms}"
        raise UsageError("--intervention needs --task, and arms that remember", expected="base, sigma", got=got)
    return request.intervention


def _refuse_expiring(loop: "Loop", robot: "Contract", chosen: "tuple[Trial, ...]") -> None:
    """A chunk has to live from its tick until the next one is there."""
    from sigma_ros.supervisor.trajectory import ChunkStream  # noqa: PLC0415 - help stays fast

    oldest_ticks = ChunkStream(robot, loop.limits).max_age_ns // robot.tick_period_ns
    latency_ms = max(trial.latency_ms for trial in chosen)
    most = oldest_ticks - math.ceil(latency_ms * robot.fps / 1000)
    if loop.supervised and loop.replan_ticks > most:
        raise UsageError(
            f"at {latency_ms:g} ms a chunk is too old for the supervisor before the next one comes",
            expected=f"--replan-ticks of at most {most}",
            got=loop.replan_ticks,
        )


def _alarm(threshold_rad: float, below_rad: float | None, action: str) -> "AlarmSettings":
    from sigma_ros.policy.alarm import ALARM_ACTIONS, AlarmSettings  # noqa: PLC0415

    if action not in ALARM_ACTIONS:
        raise UsageError("no such action on an alarm", expected=", ".join(ALARM_ACTIONS), got=action)
    joint = "" if below_rad is None else "gripper"
    return AlarmSettings(threshold_rad=threshold_rad, joint=joint, below_rad=below_rad or 0.0, action=action)


def _stitching(text: str) -> Stitching:
    if text not in STITCHINGS:
        raise UsageError("no such stitching", expected=", ".join(STITCHINGS), got=text)
    return text


app.command(cls=GroupedCommand, name="sim")(command_of(SimRequest, sim))
