# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs share, and how a verb's options become one value.

A verb with many options is a frozen dataclass: each field is an option, its docstring the verb's help. Help is printed
in groups (`rich_help_panel` of an option) and never cuts a name off.
"""

import inspect
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, cast, get_type_hints

import typer
from typer.core import TyperCommand

from sigma_ros.errors import UsageError
from sigma_ros.policy.schedule import REPLAN_TICKS
from sigma_ros.values import AdapterSettings, EngineName

if TYPE_CHECKING:
    from sigma_ros.bags.reader import Stamps as StampSource
    from sigma_ros.evaluation.replay import ReplayOptions

MODEL, ADAPTER, RECORDING, OUTPUT, STUDIES, WORKERS = "Model", "Adapter", "Recording", "Output", "Studies", "Workers"
"""Groups of options in a verb's help."""

UNKNOWN_STRIDE = 16
"""Ticks between two updates of the memory, until the checkpoint's own are known."""

ContractName = Annotated[
    str, typer.Option("--contract", metavar="NAME", help="Contract file, or a shipped one's name (so101, cr5).")
]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Only print the page's address.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Any loss in a recording is a failure.", rich_help_panel=RECORDING)
]
Recover = Annotated[
    bool, typer.Option("--recover", help="Read cut-off bags as far as they go.", rich_help_panel=RECORDING)
]
_STAMPS = "`log`: take the time of recording, where header stamps are zero or foreign."
Stamps = Annotated[str, typer.Option("--stamps", metavar="header|log", help=_STAMPS, rich_help_panel=RECORDING)]
_ENGINE = "What runs the model; the plain one goes on where another is too far off."
Engine = Annotated[EngineName, typer.Option("--engine", help=_ENGINE, rich_help_panel=MODEL)]
_SETUP = "Simulated set-up: target (somebody's table), source (the small base's own) or bumped (target, changed)."
Setup = Annotated[str, typer.Option("--setup", metavar="NAME", help=_SETUP)]
SETUP = "target"
"""The set-up of every simulated recording and run, unless another is asked for."""


def option(text: str, panel: str | None = None, *, default: Any = MISSING, name: str = "", **more: Any) -> Any:
    """A field of a verb's value that is the option `--field-name`, or `name`; without a default it must be given.

    Args:
        text: Its help.
        panel: Its group in the help.
        default: Of the field.
        name: As it is typed.
        **more: For `typer.Option`.
    """

    def made(field_name: str) -> Any:
        typed = name or f"--{field_name.replace('_', '-')}"
        return typer.Option(typed, help=text, rich_help_panel=panel, **more)

    return field(default=default, metadata={"typer": made})


def switch(text: str, panel: str | None = None, **more: Any) -> Any:
    """A field of a verb's value that is False unless its option is given."""
    return option(text, panel, default=False, **more)


def argument(text: str) -> Any:
    """A field of a verb's value that is typed without a name."""
    return field(metadata={"typer": lambda _: typer.Argument(help=text)})


class GroupedCommand(TyperCommand):
    """A command whose help lists the options under their groups, each name in full at any width."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the options group by group: those of the verb alone first, then as the groups first appear."""
        groups: dict[str, list[tuple[str, str]]] = defaultdict(list, {"Arguments": [], "Options": []})
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                title = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Options"
                groups[title].append(record)
        for title, records in ((title, records) for title, records in groups.items() if records):
            with formatter.section(title):
                formatter.write_dl(records)


def verb(help_text: str | None = None, *, no_args_is_help: bool = True) -> typer.Typer:
    """The application of a verb: plain help without the shell's completion options."""
    return typer.Typer(help=help_text, no_args_is_help=no_args_is_help, add_completion=False, rich_markup_mode=None)


def command_of[Value](kind: type[Value], run: Callable[[Value], int]) -> Callable[..., None]:
    """A function for Typer whose options are the fields of a dataclass; it builds the value and runs it.

    Args:
        kind: A dataclass whose fields are made by `option`, `switch` and `argument`, or annotated for Typer; its
            docstring is the help.
        run: Gets the value; its result is the exit code.
    """

    def command(**given: Any) -> None:
        sys.exit(run(kind(**given)))

    hints = get_type_hints(kind, include_extras=True)
    parameters = []
    for entry in fields(kind):  # type: ignore[arg-type]
        default = inspect.Parameter.empty if entry.default is MISSING else entry.default
        made = entry.metadata.get("typer")
        hint = Annotated[hints[entry.name], made(entry.name)] if made else hints[entry.name]
        parameters.append(
            inspect.Parameter(entry.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {entry.name: entry.annotation for entry in parameters}
    command.__doc__ = kind.__doc__
    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyArguments:
    """What every verb needs that replays recordings through a policy."""

    checkpoint: str = option("`mini`, a Sigma checkpoint folder, or a base folder or Hub id.", MODEL, metavar="PLACE")
    contract: ContractName = "so101"
    base: str | None = option("Where the base of a Sigma checkpoint is now.", MODEL, default=None, metavar="PLACE")
    revision: str | None = option("Hub revision of the base.", MODEL, default=None, metavar="TEXT")
    tokenizer: str | None = option("Tokenizer folder or Hub id.", MODEL, default=None, metavar="PLACE")
    device: str = option("Torch device (cpu, cuda), or auto.", MODEL, default="auto", metavar="NAME")
    engine: Engine = "plain"
    allow_untrained: bool = switch("Accept a base with random weights.", MODEL)
    seed: int = option("Of the flow noise.", MODEL, default=0, min=0, metavar="N")
    replan_ticks: int = option("Ticks between two chunks.", MODEL, default=REPLAN_TICKS, min=1, metavar="N")
    min_scale: float = option("Least scale.", ADAPTER, default=0.0, min=0, max=1, metavar="S")
    max_scale: float = option("Largest scale.", ADAPTER, default=1.0, min=0, max=1, metavar="S")
    risk_temperature: float = option(
        "The scale falls as exp(-risk / T): at risk T it is 0.37 of the largest; more is bolder.",
        ADAPTER,
        default=1.0,
        min=1e-6,
        metavar="T",
    )
    supervisor: bool = option(
        "Run the supervisor at 50 Hz of bag time.", RECORDING, default=True, name="--supervisor/--no-supervisor"
    )
    task: str | None = option("Task text in place of the recorded one.", RECORDING, default=None, metavar="TEXT")
    rename: list[str] | None = option(
        "up=base_0_rgb: which camera feeds which of the policy's; once for each.",
        MODEL,
        default=None,
        metavar="OURS=THEIRS",
    )
    recover: Recover = False
    stamps: Stamps = "header"

    def adapter(self) -> AdapterSettings:
        """The adapter's settings.

        Raises:
            UsageError: they contradict each other.
        """
        try:
            return AdapterSettings(
                min_scale=self.min_scale, max_scale=self.max_scale, risk_temperature=self.risk_temperature
            )
        except ValueError as error:
            raise UsageError(
                "the adapter's settings cannot be right", got=error, remedy="change --min-scale or --max-scale"
            ) from error

    def loading(self) -> dict[str, Any]:
        """How `SigmaRuntime.load` is called, but for checkpoint and contract."""
        from sigma_ros.camera_names import read_rename  # noqa: PLC0415 - help stays fast

        return {
            "device": self.device,
            "engine": self.engine,
            "seed": self.seed,
            "allow_untrained": self.allow_untrained,
            "base": self.base,
            "revision": self.revision,
            "tokenizer": self.tokenizer,
            "rename": read_rename(self.rename or ()),
        }

    def replaying(self, *, memory_stride: int, strict: bool) -> "ReplayOptions":
        """How a recording is replayed.

        Raises:
            UsageError: the adapter's settings contradict each other.
        """
        from sigma_ros.evaluation.replay import ReplayOptions  # noqa: PLC0415 - help stays fast
        from sigma_ros.policy.schedule import Schedule  # noqa: PLC0415
        from sigma_ros.supervisor.limits import SupervisorLimits  # noqa: PLC0415

        return ReplayOptions(
            settings=self.adapter(),
            schedule=Schedule(self.replan_ticks, memory_stride),
            supervisor_limits=SupervisorLimits.for_replay() if self.supervisor else None,
            task=self.task,
            strict=strict,
            recover=self.recover,
            stamps=cast("StampSource", self.stamps),
            ahead=True,
        )
