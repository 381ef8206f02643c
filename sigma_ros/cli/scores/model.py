# SPDX-License-Identifier: Apache-2.0
"""`sigma model`: makes the small pi0.5, and says what a checkpoint is and how data flows through it."""

from pathlib import Path
from typing import Annotated

import typer

from sigma_ros.border import write_text
from sigma_ros.cli.options import ContractName
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import UsageError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Models: make the small one, look into a checkpoint."
)

TokenizerPlace = Annotated[
    str | None, typer.Option("--tokenizer", help="Tokenizer folder or Hub id; also the variable SIGMA_TOKENIZER.")
]


@app.callback()
def model() -> None:
    """Models: make the small one, look into a checkpoint."""


@app.command()
def make_mini(
    out: Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random weights.")] = 0,
    contract: ContractName = "so101",
) -> None:
    """Writes an untrained small pi0.5 (6 M parameters) for a contract's joints and cameras.

    Example: sigma model make-mini --contract cr5 --out out/mini-cr5
    """
    robot = load_contract(contract)
    from rich.console import Console  # noqa: PLC0415 - keeps `sigma --help` fast, as the next line does

    from sigma_ros.model.pi05.mini import make_mini as make  # noqa: PLC0415

    make(robot, out, seed=seed, made_by=f"sigma model make-mini --contract {robot.name} --seed {seed}")
    Console(highlight=False, markup=False).print(
        f"{out}: random weights from seed {seed} for {robot.name} "
        f"({robot.dof} joints, cameras {', '.join(c.name for c in robot.cameras)})\n"
        f"use it with --checkpoint {out} --allow-untrained"
    )


@app.command()
def inspect(
    checkpoint: Annotated[str, typer.Argument(help="`mini`, a Sigma checkpoint folder, or a base folder or Hub id.")],
    base: Annotated[str | None, typer.Option("--base", help="Where the base of a Sigma checkpoint is now.")] = None,
    tokenizer: TokenizerPlace = None,
) -> None:
    """Says what a checkpoint is: tensors and their statistics, sizes, base, data, scores.

    Example: sigma model inspect mini
    """
    from sigma_ros.model.checkpoint.inspect import inspect_checkpoint  # noqa: PLC0415

    typer.echo(inspect_checkpoint(checkpoint, base=base, tokenizer=tokenizer))


@app.command()
def push(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a Sigma checkpoint, or a training's output.")],
    repo: Annotated[str, typer.Argument(help="Repository on the Hub: owner/name.")],
    *,
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
) -> None:
    """Uploads a Sigma checkpoint and its card to the Hub; its base is named, not copied.

    Example: sigma model push out/sigma/checkpoint me/sigma_pick
    """
    from sigma_ros.addresses import push_folder  # noqa: PLC0415
    from sigma_ros.model.checkpoint.manifest import read_manifest  # noqa: PLC0415
    from sigma_ros.model.pi05.places import check_pushable, find_checkpoint  # noqa: PLC0415

    if not checkpoint.is_dir():
        raise UsageError("no such folder", where=checkpoint, expected="a Sigma checkpoint on this disk")
    place = find_checkpoint(checkpoint)
    manifest, _ = read_manifest(place.path)
    check_pushable(repo, base=manifest.base.source)
    commit = push_folder(place.path, repo, kind="model", private=private)
    typer.echo(f"{repo}: pushed; this version is --checkpoint {repo} --revision {commit}")


@app.command()
def explain(
    size: Annotated[str, typer.Option("--size", help="`full`, `mini`, or `both`.")] = "both",
    out: Annotated[Path | None, typer.Option("--out", help="Write the page here instead of printing it.")] = None,
) -> None:
    """Shows the data path from pixels to actions with the tensor shapes of the full and the small model.

    Example: sigma model explain --size mini
    """
    from sigma_ros.model.checkpoint.explain import explain_model  # noqa: PLC0415

    page = explain_model(size)
    if out is None:
        typer.echo(page)  # as it is: rich would take shapes for markup and break lines
        return
    write_text(out, page)
