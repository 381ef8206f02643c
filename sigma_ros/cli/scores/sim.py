# SPDX-License-Identifier: Apache-2.0
"""`sigma sim`: the closed loop on the simulated arm without ROS: success over seeds, with latency injected."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sigma_ros.cli.options import SETUP, GroupedCommand, Setup, verb
from sigma_ros.errors import UsageError
from sigma_ros.policy.schedule import CROSSFADE_STEPS, REPLAN_TICKS, STITCHING, STITCHINGS, Stitching

if TYPE_CHECKING:
    from sigma_ros.contract import Contract
    from sigma_ros.policy.alarm import AlarmSettings
    from sigma_ros.sim.closed_loop import Loop, Run
    from sigma_ros.sim.environment import SimArm
    from sigma_ros.sim.trials import ArmName, Trial, TrialBook

app = verb("Run the closed loop on the simulated arm.", no_args_is_help=False)


@app.command(cls=GroupedCommand)
def sim(
    *,
    out: Annotated[Path, typer.Option(help="Folder for sim.json, sim.md, sim.html and the episodes.")] = Path(
        "out/sim"
    ),
    episodes: Annotated[int, typer.Option(min=1, help="Episodes per arm and latency.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode; each next one takes the next.")] = 0,
    arms: Annotated[str, typer.Option(help="Any of base, sigma, expert, separated by commas.")] = "base,sigma",
    latency_ms: Annotated[
        str | None,
        typer.Option(
            metavar="MS,MS", help="From a tick to its chunk, in simulated time; else the contract's `delays`, or 0."
        ),
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="`mini`, a Sigma checkpoint folder, or a base.")] = "mini",
    contract: Annotated[str, typer.Option(help="Contract file, or the name of a shipped one.")] = "so101",
    setup: Setup = SETUP,
    stitching: Annotated[
        str, typer.Option(help="latest, crossfade or rtc, as the policy node's parameter.")
    ] = STITCHING,
    crossfade_steps: Annotated[
        int, typer.Option(min=1, max=16, help="Steps over which `crossfade` fades in.")
    ] = CROSSFADE_STEPS,
    residual_every_tick: Annotated[
        bool,
        typer.Option(
            "--residual-every-tick", help="Renew the residual at ticks at which the model is free, as the node does."
        ),
    ] = False,
    limits: Annotated[
        str,
        typer.Option(
            help="The supervisor's: robot, reactive (bounds joints alone), open (no own ceiling), off (none)."
        ),
    ] = "robot",
    replan_ticks: Annotated[int, typer.Option(min=1, max=50, help="Ticks between two chunks.")] = REPLAN_TICKS,
    max_scale: Annotated[float, typer.Option(min=0.0, max=1.0, help="The adapter's largest scale.")] = 1.0,
    risk_temperature: Annotated[
        float, typer.Option(min=1e-3, max=1e3, metavar="T", help="The scale falls as exp(-risk / T).")
    ] = 1.0,
    time_limit_s: Annotated[
        float, typer.Option(min=0.5, help="Simulated seconds before an episode has failed.")
    ] = 20.0,
    noise_seed: Annotated[int, typer.Option(min=0, help="Of the flow noise.")] = 0,
    allow_untrained: Annotated[bool, typer.Option("--allow-untrained", help="Accept random weights.")] = False,
    film: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also a fine GIF of the first episode, all arms side by side.")
    ] = None,
    no_film: Annotated[bool, typer.Option("--no-film", help="Draw no film for sim.html.")] = False,
    alarm_rad: Annotated[
        float,
        typer.Option(min=0.0, help="Alarm where a chunk is so far from what the one before had planned; 0: none."),
    ] = 0.0,
    alarm_below_rad: Annotated[
        float | None,
        typer.Option(help="Also alarm where the gripper is measured below this: fingers that closed on nothing."),
    ] = None,
    on_alarm: Annotated[
        str, typer.Option(help="none (only count it), replan (twice as often) or stop (propose nothing more).")
    ] = "none",
    log_chunks: Annotated[
        bool, typer.Option("--log-chunks", help="Keep what was proposed in each episode: OUT/chunks, a file each.")
    ] = False,
    noise_samples: Annotated[
        int, typer.Option(min=0, max=16, help="Draws of the flow noise per plan, for its spread in the log.")
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Begin anew where a run is in the folder.")] = False,
) -> None:
    """Lets policy and supervisor drive the simulated arm and counts how often the brick ends in the box.

    Simulated time stands still while the model thinks, so results do not depend on the machine. A run that was
    interrupted goes on where it stopped.

    Example: sigma sim --episodes 50 --arms base,sigma --latency-ms 0,100,300 --out out/sim
    """
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415 - help stays fast
    from sigma_ros.evaluation.report.write import refuse_unwritable, refuse_unwritable_file  # noqa: PLC0415
    from sigma_ros.sim.closed_loop import LIMITS, Loop, sim_limits  # noqa: PLC0415
    from sigma_ros.sim.environment import SimArm  # noqa: PLC0415
    from sigma_ros.sim.recorder import write_film  # noqa: PLC0415
    from sigma_ros.sim.setups import setup_named  # noqa: PLC0415
    from sigma_ros.sim.trial_report import FILM, write_page  # noqa: PLC0415
    from sigma_ros.sim.trials import TrialBook, trials  # noqa: PLC0415
    from sigma_ros.values import AdapterSettings  # noqa: PLC0415

    refuse_unwritable(out)
    if film is not None:
        refuse_unwritable_file(film)
    robot, scene = load_contract(contract), setup_named(setup)
    own_ms = (robot.delays.inference_ns or 0) / 1e6
    chosen = trials(_arms(arms), _latencies(f"{own_ms:g}" if latency_ms is None else latency_ms))
    settings = AdapterSettings(max_scale=max_scale, risk_temperature=risk_temperature)
    loop = Loop(
        settings=settings,
        replan_ticks=replan_ticks,
        stitching=_stitching(stitching),
        crossfade_steps=crossfade_steps,
        residual_every_tick=residual_every_tick,
        time_limit_s=time_limit_s,
        noise_samples=noise_samples,
        alarm=_alarm(alarm_rad, alarm_below_rad, on_alarm),
        limits=sim_limits(limits),
        supervised=limits != "off",
    )
    _refuse_expiring(loop, robot, chosen)
    runtime = _load(checkpoint, robot, noise_seed, allow_untrained=allow_untrained) if _needs_model(chosen) else None
    conditions = {
        "checkpoint": checkpoint,
        "checkpoint_hash": runtime.info.hash if runtime else "",
        "trained": runtime.info.trained if runtime else True,
        "contract": robot.name,
        "setup": scene.name,
        "stitching": stitching,
        "crossfade_steps": crossfade_steps,
        "replan_ticks": replan_ticks,
        "residual_every_tick": residual_every_tick,
        "adapter": {"max_scale": max_scale, "risk_temperature": risk_temperature},
        "limits": {"name": limits, "other than a robot's": dict(LIMITS[limits])},
        "alarm": {"threshold_rad": alarm_rad, "gripper_below_rad": alarm_below_rad, "action": on_alarm},
        "time_limit_s": time_limit_s,
        "noise_seed": noise_seed,
    }
    book = TrialBook(out, conditions, force=force)
    with SimArm(scene, contract=robot) as arm:
        shown = _run(arm, book, chosen, _Plan(range(seed, seed + episodes), loop, runtime, out, log_chunks))
        if shown and not no_film:
            write_film(out / FILM, arm, shown, fine=False)
            write_page(out)
        if shown and film is not None:
            write_film(film, arm, shown)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is run, and where it is written."""

    seeds: range
    loop: "Loop"
    runtime: Any
    out: Path
    log_chunks: bool


def _run(arm: "SimArm", book: "TrialBook", chosen: "tuple[Trial, ...]", plan: _Plan) -> "dict[str, Run]":
    """Runs what is not done yet, and writes the report whatever happens; gives the first seed's runs, for the film."""
    from sigma_ros.sim.trial_report import document, markdown, write  # noqa: PLC0415
    from sigma_ros.sim.trials import run_trial  # noqa: PLC0415

    to_do = [(trial, seed) for seed in plan.seeds for trial in chosen if not book.has(trial, seed)]
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("episodes, {task.fields[told]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    shown: dict[str, Run] = {}
    ticks = max(1, round(plan.loop.time_limit_s * arm.contract.fps))
    try:
        with Progress(*columns, console=Console(stderr=True, markup=False)) as progress:
            bar = progress.add_task("closed loop", total=len(to_do), told="")
            for done, (trial, seed) in enumerate(to_do):
                progress.update(bar, told=f"{trial.name}, seed {seed}")
                result, run = run_trial(
                    arm, trial, seed, plan.loop, plan.runtime, on_tick=lambda: progress.advance(bar, 0.99 / ticks)
                )
                if plan.log_chunks:
                    book.log_chunks(result, run)
                book.add(result)
                progress.update(bar, completed=done + 1)
                if seed == plan.seeds[0] and trial.arm not in {name.partition(",")[0] for name in shown}:
                    shown[trial.name] = run
    finally:
        content = document(book.conditions, book.results, chosen, starts=_starts(arm, book))
        if content["trials"]:
            write(plan.out, content)
            Console(highlight=False, markup=False).print(markdown(content), soft_wrap=True)
    return shown


def _starts(arm: "SimArm", book: "TrialBook") -> dict[int, tuple[float, float]]:
    """Where each episode's brick lay [m], seen from the arm's base."""
    found = {}
    for seed in {result.seed for result in book.results}:
        arm.reset(seed)
        x_m, y_m, _ = arm.brick_position_m()
        found[seed] = float(x_m), float(y_m)
    return found


def _load(checkpoint: str, contract: "Contract", seed: int, *, allow_untrained: bool) -> Any:
    from sigma_ros.model.runtime import SigmaRuntime  # noqa: PLC0415 - torch: seconds

    return SigmaRuntime.load(checkpoint, contract=contract, seed=seed, allow_untrained=allow_untrained)


def _needs_model(chosen: "tuple[Trial, ...]") -> bool:
    return any(trial.arm != "expert" for trial in chosen)


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
