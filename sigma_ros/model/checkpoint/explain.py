# SPDX-License-Identifier: Apache-2.0
"""The data path with tensor shapes, written by running the model's own code without memory (meta device).

`explain_model` is what `sigma model explain` prints, and a page of the documentation's site.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import UsageError
from sigma_ros.model.pi05.backbone import Backbone
from sigma_ros.model.pi05.mini import MINI, build_tokenizer, mini_config
from sigma_ros.model.pi05.sizes import FULL
from sigma_ros.model.pi05.weights import empty_policy
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.telepathy import Recurrence, TelepathyInput, TelepathyPath
from sigma_ros.model.tokens import pool_tokens
from sigma_ros.values import WINDOW_TICKS

_INTRODUCTION = """# The model, from pixels to actions

This page lists the stages between two camera images and the actions, with the shape of each stage's
output and its parameters. It is for those who read or change the model's code.

`sigma model explain` writes it: the shapes come from the model's own code, run on tensors without
data. 16 ticks of window; batch axes are left out. Sizes are fields of `SigmaConfig`.
"""


@dataclass(frozen=True, slots=True)
class ExplainedRow:
    """One stage of the path: what it is, its tensor's shape, parameters of the base and trained ones behind it."""

    part: str
    what: str
    shape: tuple[int, ...]
    frozen: int = 0
    trained: int = 0


def explain_model(size: str = "both") -> str:
    """A Markdown page with the data path of the full model, the small one, or both side by side.

    Raises:
        UsageError: `size` is none of `full`, `mini`, `both`.
    """
    if size not in {"full", "mini", "both"}:
        raise UsageError("unknown model size", expected="full, mini or both", got=size)
    names = ["full", "mini"] if size == "both" else [size]
    columns = {name: data_path(_model_without_memory(full=name == "full")) for name in names}
    return f"{_INTRODUCTION}\n{_table(columns)}\n\n{_totals(columns)}\n"


def data_path(model: SigmaTelepathyVLA) -> list[ExplainedRow]:
    """Runs every stage on the model's device and notes what came out."""
    backbone, config = model.backbone, model.config
    pixels = (config.cameras, 3, backbone.image_size_px, backbone.image_size_px)
    patches = backbone.encode_images(torch.zeros(pixels, dtype=torch.uint8, device=backbone.device))
    joint = backbone.policy.model.paligemma_with_expert
    vision = [joint.paligemma.model.vision_tower, joint.paligemma.model.multi_modal_projector]
    shared = [
        ExplainedRow("both", "images of a tick, RGB bytes", pixels),
        ExplainedRow("both", "image tokens (SigLIP, projector)", tuple(patches.shape), frozen=_count(vision)),
    ]
    rows, base = _base_rows(model, patches)
    return shared + rows + _telepathy_rows(model, patches, base)


def _base_rows(model: SigmaTelepathyVLA, patches: Tensor) -> tuple[list[ExplainedRow], Tensor]:
    backbone, config = model.backbone, model.config
    tokens = torch.zeros(1, backbone.max_tokens, dtype=torch.long, device=backbone.device)
    seen = torch.ones(1, config.cameras, dtype=torch.bool, device=backbone.device)
    prefix = backbone.prefix(patches[None], seen, tokens, torch.ones_like(tokens, dtype=torch.bool))
    noise = torch.zeros(1, backbone.horizon, backbone.max_dof, device=backbone.device)
    chunk = backbone.flow(prefix, noise)[:, :, : config.dof]
    core = backbone.policy.model
    expert = [module for name, module in core.named_children() if name != "paligemma_with_expert"]
    steps = core.config.num_inference_steps
    rows = [
        ExplainedRow(
            "base",
            "prefix: image tokens and prompt, one pass",
            (*prefix.mask.shape[1:], config.width),
            frozen=_count([backbone.language_layers]),
        ),
        ExplainedRow(
            "base",
            f"base chunk, normalised ({steps} flow steps over the cached prefix)",
            tuple(chunk.shape[1:]),
            frozen=_count([core.paligemma_with_expert.gemma_expert, *expert]),
        ),
    ]
    return rows, chunk


def _telepathy_rows(model: SigmaTelepathyVLA, patches: Tensor, base: Tensor) -> list[ExplainedRow]:
    config, device = model.config, model.backbone.device
    telepathy, residual = model.telepathy, model.residual
    assert telepathy is not None
    assert residual is not None
    telepathy_input = _telepathy_input(config, pool_tokens(patches, config.pooled_grid), device)
    with _outputs_of(telepathy, model.reader.view.layers[0].mlp) as shapes:
        telepathy_output = telepathy(telepathy_input, Recurrence.start(config, batch=1, device=device), model.reader)
        correction = residual(telepathy_output, telepathy_input.states[:, -1], base)
    branches = [
        ExplainedRow("residual", f"{name} branch", (steps, config.dof), trained=_count([residual.branches[name]]))
        for name, steps in config.branch_steps.items()
    ]
    glance = [] if telepathy.glance is None else [telepathy.glance]
    return [
        *_sequence_rows(model, telepathy, telepathy_input, shapes),
        *[
            _row("visual shortcut (`glance`): newest pictures, around the language model", shapes["glance"], [part])
            for part in glance
        ],
        _row(
            "semantic state s_t", shapes["to_semantic"], _present(telepathy.to_semantic, telepathy.glance_to_semantic)
        ),
        _row("semantic memory m_t", shapes["memory"], [telepathy.memory]),
        _row("intent z_intent", shapes["intent"], [telepathy.intent, telepathy.text_to_intent]),
        _row("telepathy factors tau", tuple(telepathy_output.factors.shape[1:]), [telepathy.factors]),
        _row("memory as text, beside the mean text", shapes["memory_to_text"], [telepathy.memory_to_text]),
        _row(
            "intent and factors in one space", shapes["align_intent"], [telepathy.align_intent, telepathy.align_factors]
        ),
        *branches,
        ExplainedRow("residual", "composite residual, normalised", tuple(correction.composite.shape[1:])),
        ExplainedRow("adapter", "actions = base + scale * residual", tuple(base.shape[1:])),
    ]


def _sequence_rows(
    model: SigmaTelepathyVLA,
    telepathy: TelepathyPath,
    telepathy_input: TelepathyInput,
    shapes: dict[str, tuple[int, ...]],
) -> list[ExplainedRow]:
    """What the language model of the telepathy path reads."""
    resampler, readouts = telepathy.resampler, telepathy.readouts
    film = [] if resampler.film is None else [resampler.film]
    window = tuple(telepathy_input.pooled.shape[1:])
    return [
        ExplainedRow("telepathy", "pooled image tokens of a tick", window[1:]),
        ExplainedRow("telepathy", "ring buffer: the window's pooled tokens", window),
        *[_row("FiLM by the previous factors", shapes["resampler.film"], [part]) for part in film],
        _row("vision tokens (perceiver resampler)", shapes["resampler"], [resampler], without=film),
        ExplainedRow("telepathy", "task text, the language model's embeddings", tuple(telepathy_input.text.shape[1:])),
        _row("state tokens", shapes["state_encoder"], [telepathy.state_encoder]),
        ExplainedRow("telepathy", "readout queries", tuple(readouts.shape), trained=readouts.numel()),
        ExplainedRow(
            "telepathy",
            "[vision, text, state, readouts] through the shared language model with LoRA",
            shapes["reader"],
            trained=sum(parameter.numel() for parameter in model.adapters().values()),
        ),
    ]


def _telepathy_input(config: SigmaConfig, pooled: Tensor, device: torch.device) -> TelepathyInput:
    return TelepathyInput(
        pooled=pooled.expand(1, WINDOW_TICKS, *pooled.shape),
        seen=torch.ones(1, WINDOW_TICKS, config.cameras, dtype=torch.bool, device=device),
        states=torch.zeros(1, WINDOW_TICKS, config.dof, device=device),
        valid=torch.ones(1, WINDOW_TICKS, dtype=torch.bool, device=device),
        text=torch.zeros(1, config.text_tokens, config.width, device=device),
        text_mask=torch.ones(1, config.text_tokens, dtype=torch.bool, device=device),
    )


@contextmanager
def _outputs_of(telepathy: nn.Module, language_layer: nn.Module) -> Iterator[dict[str, tuple[int, ...]]]:
    """Shapes (without batch) that the named parts put out while open."""
    seen: dict[str, tuple[int, ...]] = {}

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor):
            seen[name] = tuple(output.shape[1:])

    parts = [("reader", language_layer), *((name, part) for name, part in telepathy.named_modules() if name)]
    handles = [
        part.register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
        for name, part in parts
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _row(
    what: str, shape: tuple[int, ...], modules: Iterable[nn.Module], *, without: Iterable[nn.Module] = ()
) -> ExplainedRow:
    return ExplainedRow("telepathy", what, shape, trained=_count(modules) - _count(without))


def _present(*modules: nn.Module | None) -> list[nn.Module]:
    return [module for module in modules if module is not None]


def _count(modules: Iterable[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _model_without_memory(*, full: bool) -> SigmaTelepathyVLA:
    config = mini_config(load_contract("so101"), full_prompt=full)
    backbone = Backbone(empty_policy(config, FULL if full else MINI), build_tokenizer()).to("meta")
    return SigmaTelepathyVLA(backbone, SigmaConfig.for_backbone(backbone)).to("meta")


def _table(columns: dict[str, list[ExplainedRow]]) -> str:
    names = list(columns)
    head = ["part", "stage", *(f"{name}: shape" for name in names), *(f"{name}: parameters" for name in names)]
    lines = [head, ["---"] * len(head)]
    for rows in zip(*columns.values(), strict=True):
        shapes = ["[" + ", ".join(map(str, row.shape)) + "]" for row in rows]
        lines.append([rows[0].part, rows[0].what, *shapes, *(_parameters(row) for row in rows)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _parameters(row: ExplainedRow) -> str:
    parts = [f"{row.frozen:,} frozen"] if row.frozen else []
    return " ".join(parts + ([f"{row.trained:,} trained"] if row.trained else []))


def _totals(columns: dict[str, list[ExplainedRow]]) -> str:
    sums = {name: (sum(row.frozen for row in rows), sum(row.trained for row in rows)) for name, rows in columns.items()}
    return "\n".join(
        f"- {name}: {frozen:,} frozen and {trained:,} trained parameters" for name, (frozen, trained) in sums.items()
    )
