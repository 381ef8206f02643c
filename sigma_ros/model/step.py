# SPDX-License-Identifier: Apache-2.0
"""One tick of Sigma as pure functions on its recurrent state: look, then plan.

`advance` only looks (a tick encodes its own frames); `plan` also proposes actions from the newest tick.
Robot, replay and evaluation all go through these two.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import torch
from jaxtyping import Float, Float32
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sigma_ros.border import whole
from sigma_ros.errors import CheckpointError
from sigma_ros.model.pi05.backbone import RealTimeChunking
from sigma_ros.model.pi05.tensors import save_tensors
from sigma_ros.model.sigma import Action, SigmaTelepathyVLA
from sigma_ros.model.telepathy import Recurrence, TelepathyInput, TelepathyOutput
from sigma_ros.model.tokens import PADDING, EncodedTick, ModelInput, TokenRing
from sigma_ros.values import WINDOW_TICKS

# Sigma's recurrent state: a value that is passed in and returned, and can be kept in a file.


_FORMAT = "sigma_recurrent_state_1"
_RING = ("pooled", "seen", "states", "patches")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentState:
    """Everything Sigma remembers between two ticks of one epoch; an empty one starts an epoch.

    `memory` and `factors` are those of the last committed update, `ring` the window as tokens,
    `commits` the number of updates committed since the epoch began.
    """

    epoch: int
    task: str
    memory: Float32[Tensor, " memory_width"]
    factors: Float32[Tensor, "factor_count factor_width"]
    ring: TokenRing
    commits: int = 0

    @property
    def recurrence(self) -> Recurrence:
        """Memory and factors as the telepathy path takes them (batch of one)."""
        return Recurrence(memory=self.memory[None], factors=self.factors[None])

    def committed(self, recurrence: Recurrence) -> "RecurrentState":
        """The state after an update was made permanent."""
        return replace(self, memory=recurrence.memory[0], factors=recurrence.factors[0], commits=self.commits + 1)


def save_state(state: RecurrentState, path: str | Path, *, model_hash: str) -> None:
    """Writes the state bit for bit; `model_hash` names the model it belongs to. Its folder is made if need be.

    Raises:
        CheckpointError: something else is at that place already: only an earlier state is ever replaced.
    """
    target = Path(path)
    _refuse_to_replace(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"ring.{name}": getattr(state.ring, name) for name in _RING}
    tensors |= {"memory": state.memory, "factors": state.factors}
    metadata = {
        "format": _FORMAT,
        "model_hash": model_hash,
        "epoch": str(state.epoch),
        "task": state.task,
        "commits": str(state.commits),
        "ticks": json.dumps(state.ring.ticks),
    }
    with whole(target) as partial:
        save_tensors(partial, tensors, metadata)


def _refuse_to_replace(target: Path) -> None:
    """Lets a free place and an earlier state pass."""
    if not (target.exists() or target.is_symlink()):
        return
    metadata: dict[str, str] = {}
    if target.is_file() and not target.is_symlink():
        with suppress(OSError, SafetensorError), safe_open(str(target), framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(
            "the recurrent state would overwrite something else",
            where=target,
            expected=f"a free place, or a file of format {_FORMAT}",
            got=metadata.get("format", "another file"),
            remedy="give state_file another name",
        )


def load_state(path: str | Path, *, like: RecurrentState, model_hash: str) -> RecurrentState:
    """Reads what `save_state` wrote, onto the device of `like` (any state of the same model).

    Raises:
        CheckpointError: no such state, of another model, with other shapes, or not finite.
    """
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError("the recurrent state cannot be read", where=path, got=error) from error
    _check_metadata(path, metadata, model_hash)
    expected = {f"ring.{name}": getattr(like.ring, name) for name in _RING}
    expected |= {"memory": like.memory, "factors": like.factors}
    for name, pattern in expected.items():
        _check_tensor(path, name, tensors.get(name), pattern)
    ticks = tuple(json.loads(metadata["ticks"]))
    if len(ticks) != WINDOW_TICKS or not all(isinstance(tick, int) and tick >= PADDING for tick in ticks):
        raise CheckpointError("the recurrent state's ticks are damaged", where=path, got=metadata["ticks"])
    return RecurrentState(
        epoch=int(metadata["epoch"]),
        task=metadata["task"],
        commits=int(metadata["commits"]),
        memory=tensors["memory"].to(like.memory.device),
        factors=tensors["factors"].to(like.memory.device),
        ring=TokenRing(
            ticks=ticks, **{name: tensors[f"ring.{name}"].to(getattr(like.ring, name).device) for name in _RING}
        ),
    )


def _check_metadata(path: str | Path, metadata: dict[str, str], model_hash: str) -> None:
    needed = {"format", "model_hash", "epoch", "task", "commits", "ticks"}
    if metadata.get("format") != _FORMAT or not needed <= set(metadata):
        raise CheckpointError(
            "this is not a recurrent state of Sigma",
            where=path,
            expected=_FORMAT,
            got=metadata.get("format", "no format name"),
        )
    if metadata["model_hash"] != model_hash:
        raise CheckpointError(
            "the recurrent state belongs to another model",
            where=path,
            expected=model_hash,
            got=metadata["model_hash"],
            remedy="load the checkpoint it was saved with, or start a new epoch",
        )


def _check_tensor(path: str | Path, name: str, tensor: Tensor | None, like: Tensor) -> None:
    got = "nothing" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"
    if tensor is None or tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise CheckpointError(
            f"the recurrent state's tensor {name} does not fit",
            where=path,
            expected=f"{tuple(like.shape)} {like.dtype}",
            got=got,
        )
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"the recurrent state's tensor {name} is not finite", where=path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The result of a tick, batch of one. `baseline` is the telepathy output without adapters, if asked for.

    `committed` is False on a commit tick whose new memory was not finite: then the old one is kept.
    """

    action: Action
    baseline: TelepathyOutput | None
    committed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What an offline run computed beforehand: encoded ticks by number, and the base's chunk of the newest one."""

    encoded: Mapping[int, EncodedTick]
    base: Float[Tensor, "1 horizon max_dof"] | None


def initial_state(model: SigmaTelepathyVLA, *, epoch: int, task: str) -> RecurrentState:
    """Nothing seen, nothing remembered."""
    config, device = model.config, model.backbone.device
    start = Recurrence.start(config, batch=1, device=device)
    ring = TokenRing.empty(
        cameras=config.cameras,
        patches=model.backbone.patch_grid**2,
        pooled=config.pooled_grid**2,
        width=config.width,
        dof=config.dof,
        device=device,
    )
    return RecurrentState(epoch=epoch, task=task, memory=start.memory[0], factors=start.factors[0], ring=ring)


def advance(
    model: SigmaTelepathyVLA,
    state: RecurrentState,
    ticks: Sequence[int],
    look: Callable[[int], ModelInput | EncodedTick],
) -> RecurrentState:
    """The state with its window at `ticks` (of 16 slots, oldest first, `tokens.PADDING` for none).

    `look` gives the model input of a tick, encoded already or not; called only for ticks that the state lacks.
    """
    fresh = {}
    for tick in state.ring.missing(ticks):
        seen = look(tick)
        fresh[tick] = seen if isinstance(seen, EncodedTick) else model.encode(seen)
    return replace(state, ring=state.ring.slide(ticks, fresh))


@torch.no_grad()
def plan(
    model: SigmaTelepathyVLA,
    state: RecurrentState,
    *,
    noise: Float[Tensor, "1 horizon max_dof"],
    commit: bool,
    baseline_diagnostics: bool = False,
    base: Float[Tensor, "1 horizon max_dof"] | None = None,
    **rtc: Unpack[RealTimeChunking],
) -> tuple[Plan, RecurrentState]:
    """Proposes actions for the newest tick of the window; `base` is its base chunk, if that is known already.

    The update of the memory is used at once, with or without `commit`; only a commit keeps it for later.
    """
    telepathy_input = telepathy_input_of(model, state)
    previous = state.recurrence
    patches = state.ring.patches[None]
    prompt = model.prompts([state.task], state.ring.states[-1:])
    action = model.act(telepathy_input, previous, patches=patches, prompt=prompt, noise=noise, base=base, **rtc)
    baseline = model.believe(telepathy_input, previous, adapted=False) if baseline_diagnostics else None
    kept, after = _committed(state, action.telepathy_output) if commit else (False, state)
    return Plan(action=action, baseline=baseline, committed=kept), after


def warm_up(model: SigmaTelepathyVLA) -> None:
    """Plans once on black pictures, so that what an engine makes of the model is made before a robot waits for it."""
    backbone, cameras, px = model.backbone, model.config.cameras, model.backbone.image_size_px
    black = ModelInput(
        tick=0,
        images=torch.zeros(cameras, px, px, 3, dtype=torch.uint8),
        seen=torch.ones(cameras, dtype=torch.bool),
        state=torch.zeros(model.config.dof),
    )
    window = (*(PADDING,) * (WINDOW_TICKS - 1), 0)
    state = advance(model, initial_state(model, epoch=0, task=""), window, lambda _: black)
    noise = torch.zeros(1, backbone.horizon, backbone.max_dof)
    plan(model, state, noise=noise, commit=False, baseline_diagnostics=True)


@torch.no_grad()
def remember(model: SigmaTelepathyVLA, state: RecurrentState) -> tuple[TelepathyOutput, bool, RecurrentState]:
    """The commit of `plan` without its actions: telepathy output, whether it was kept, the same state bit for bit."""
    telepathy_output = model.believe(telepathy_input_of(model, state), state.recurrence)
    return telepathy_output, *_committed(state, telepathy_output)


def _committed(state: RecurrentState, telepathy_output: TelepathyOutput) -> tuple[bool, RecurrentState]:
    """The state with the output's memory, and True; the state itself, and False, where the update is not finite."""
    update = telepathy_output.recurrence
    if not bool(torch.isfinite(update.memory).all() & torch.isfinite(update.factors).all()):
        return False, state
    return True, state.committed(update)


@torch.no_grad()
def recorrect(model: SigmaTelepathyVLA, state: RecurrentState, base: Float[Tensor, "steps dof"]) -> Action:
    """The telepathy output now, and the residual on what remains of a normalised base chunk from the newest tick on.

    The chunk had the whole horizon once: what is missing of it says how old it is.
    """
    telepathy_output = model.believe(telepathy_input_of(model, state), state.recurrence)
    age = model.config.horizon - len(base)
    whole = torch.cat([base, base[-1:].expand(age, -1)])[None]
    residual = model.correct(telepathy_output, state.ring.states[-1:].to(base.device), whole, base.new_tensor([age]))
    kept = replace(residual, composite=residual.composite[:, : len(base)])
    return Action(base=base[None], residual=kept, telepathy_output=telepathy_output)


@torch.no_grad()
def spread(model: SigmaTelepathyVLA, state: RecurrentState, noise: Float[Tensor, "draws horizon max_dof"]) -> float:
    """Standard deviation of base and residual together over draws of the flow noise at the newest tick.

    The rms over the trajectory's steps and joints, in normalised actions; one belief serves all draws.
    """
    telepathy_input, draws = telepathy_input_of(model, state), len(noise)
    base = model.chunks(telepathy_input, patches=state.ring.patches[None], tasks=[state.task] * draws, noise=noise)
    output = model.believe(telepathy_input, state.recurrence)
    alike = TelepathyOutput.of(each.expand(draws, *[-1] * (each.ndim - 1)) for each in output.tensors)
    newest = state.ring.states[-1:].to(base.device).expand(draws, -1)
    residual = model.correct(alike, newest, base)
    actions = (base + residual.composite)[:, : model.config.trajectory_steps]
    return float(actions.var(dim=0).mean().sqrt())


def telepathy_input_of(model: SigmaTelepathyVLA, state: RecurrentState) -> TelepathyInput:
    """The state's window and task as the telepathy path takes them, batch of one."""
    text, text_mask = model.read_text([state.task])
    ring = state.ring
    return TelepathyInput(
        pooled=ring.pooled[None],
        seen=ring.seen[None],
        states=ring.states[None].to(ring.pooled.device),
        valid=ring.valid[None],
        text=text,
        text_mask=text_mask,
    )
