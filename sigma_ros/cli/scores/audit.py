# SPDX-License-Identifier: Apache-2.0
"""`sigma audit`: which of its inputs a policy uses: sees, reads, remembers, or ignores."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from sigma_ros.cli.options import (
    MODEL,
    OUTPUT,
    ContractName,
    GroupedCommand,
    argument,
    command_of,
    option,
    switch,
    verb,
)

if TYPE_CHECKING:
    from sigma_ros.evaluation.audit.verdict import Audit

AUDIT_FILE = "audit.json"
OTHER_TEXT = "push the blue cup to the left"

app = verb()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRequest:
    """Exchanges pictures, text and memory and compares the proposed actions with those on the recorded content.

    A channel is used where its own content brings the actions nearer to the recorded ones (permutation over episodes,
    Holm), ignored where exchanging it hardly moves them. Sigma and its base are judged in one pass.

    Example: sigma audit mini recording --out out/audit
    """

    checkpoint: str = argument("`mini`, a Sigma or plain-LoRA checkpoint folder, or a base's folder or Hub id.")
    bags: list[Path] = argument("Recordings it was not trained on, or folders of them; eight or more.")
    contract: ContractName = "so101"
    other_text: str = option("Task text that does not belong to the recordings.", default=OTHER_TEXT, metavar="TEXT")
    out: Path | None = option(f"Folder for {AUDIT_FILE}.", OUTPUT, default=None, metavar="DIR")
    base: str | None = option("Where the base of a Sigma checkpoint is now.", MODEL, default=None, metavar="PLACE")
    device: str = option("Torch device, or auto.", MODEL, default="auto", metavar="NAME")
    allow_untrained: bool = switch("Accept a base with random weights.", MODEL)
    seed: int = option("Of flow noise and bootstrap.", default=0, min=0)


def audit(request: AuditRequest) -> int:
    """Observes and judges, and writes the verdicts down where a folder is given."""
    from rich.progress import Progress  # noqa: PLC0415 - help stays fast

    from sigma_ros.bags.episode import Episode  # noqa: PLC0415
    from sigma_ros.bags.files import find_bags  # noqa: PLC0415
    from sigma_ros.bags.reader import open_bag  # noqa: PLC0415
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415
    from sigma_ros.evaluation.audit.channels import observe  # noqa: PLC0415
    from sigma_ros.evaluation.audit.verdict import judge  # noqa: PLC0415
    from sigma_ros.evaluation.report.document import plain, to_text  # noqa: PLC0415
    from sigma_ros.evaluation.report.write import write_files  # noqa: PLC0415
    from sigma_ros.model.runtime import SigmaRuntime  # noqa: PLC0415

    known, out, seed = load_contract(request.contract), request.out, request.seed
    found = find_bags(request.bags)
    runtime = SigmaRuntime.load(
        request.checkpoint,
        contract=known,
        base=request.base,
        device=request.device,
        seed=seed,
        allow_untrained=request.allow_untrained,
    )
    episodes = []
    for path in found:
        with open_bag(path) as bag:
            episodes.append(list(Episode(bag, known, image_size_px=runtime.image_size_px)))
    with Progress(console=Console(stderr=True, markup=False)) as progress:
        bar = progress.add_task("episodes", total=5 * len(episodes))
        observed = observe(runtime, episodes, other_text=request.other_text, on_episode=lambda: progress.advance(bar))
    result = judge(observed, ("base", "checkpoint") if runtime.info.sigma_trained else ("base",), seed=seed)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        given = {"checkpoint": request.checkpoint, "hash": runtime.info.hash, "other_text": request.other_text}
        document = plain({**given, **result.document()})
        assert isinstance(document, dict)
        text = to_text(document)
        write_files({AUDIT_FILE: lambda path: path.write_text(text, encoding="utf-8")}, out)
    _show(result)
    return 0


def _show(result: "Audit") -> None:
    console = Console(highlight=False, markup=False)
    for policy in dict.fromkeys(one.policy for one in result.verdicts):
        table = Table(title=policy, title_justify="left", box=None, padding=(0, 1), pad_edge=False)
        for column in ("channel", "exchanged for", "verdict", "error grows by", "p", "moved"):
            table.add_column(column, no_wrap=True)
        for one in result.verdicts:
            if one.policy == policy:
                table.add_row(
                    one.channel or "all",
                    one.exchange,
                    one.verdict,
                    _percent(one.error.relative, one.error.relative_low, one.error.relative_high),
                    f"{one.p:.2g}",
                    _percent(*one.moved),
                )
        console.print(table)
    console.print(
        f"{result.windows} windows of {result.episodes} episodes; 95 % intervals; "
        "moved: the actions, of what they move when everything is exchanged"
    )


def _percent(share: float, low: float, high: float) -> str:
    return f"{share:.0%} ({100 * low:.0f} to {100 * high:.0f})"


app.command(cls=GroupedCommand, name="audit")(command_of(AuditRequest, audit))
