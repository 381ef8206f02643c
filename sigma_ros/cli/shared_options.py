# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs share: the model, the adapter's settings, how a recording is read."""

from typing import Annotated

import typer

Checkpoint = Annotated[
    str, typer.Option("--checkpoint", help="`mini`, a Sigma checkpoint folder, or a base folder or Hub id.")
]
ContractName = Annotated[str, typer.Option("--contract", help="Contract file, or a shipped one's name (so101, cr5).")]
Task = Annotated[
    str | None, typer.Option("--task", help="Task text in place of the recorded one.", show_default="recorded")
]
ReplanTicks = Annotated[int, typer.Option("--replan-ticks", min=1, help="Ticks between two chunks.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the flow noise.")]
MinScale = Annotated[float, typer.Option("--min-scale", min=0.0, max=1.0, help="Adapter's least scale.")]
MaxScale = Annotated[float, typer.Option("--max-scale", min=0.0, max=1.0, help="Adapter's largest scale.")]
RiskTemperature = Annotated[
    float, typer.Option("--risk-temperature", min=1e-6, help="How much risk halves the scale; more is bolder.")
]
Supervised = Annotated[
    bool, typer.Option("--supervisor/--no-supervisor", help="Run the supervisor at 50 Hz of bag time.")
]
AllowUntrained = Annotated[bool, typer.Option("--allow-untrained", help="Accept a base with random weights.")]
Base = Annotated[str | None, typer.Option("--base", help="Where the base of a Sigma checkpoint is now.")]
Revision = Annotated[str | None, typer.Option("--revision", help="Hub revision of the base.")]
Tokenizer = Annotated[str | None, typer.Option("--tokenizer", help="Tokenizer folder or Hub id.")]
Rename = Annotated[
    list[str] | None,
    typer.Option("--rename", help="up=base_0_rgb: which camera feeds which of the policy's; once for each."),
]
Device = Annotated[str, typer.Option("--device", help="Torch device, or auto.")]
Strict = Annotated[bool, typer.Option("--strict", help="Any loss in a recording is a failure.")]
Stamps = Annotated[
    str, typer.Option("--stamps", help="`log`: take the time of recording, where header stamps are zero or foreign.")
]
Recover = Annotated[bool, typer.Option("--recover", help="Read cut-off bags as far as they go.")]
