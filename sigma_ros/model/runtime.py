# SPDX-License-Identifier: Apache-2.0
"""The model as robot, replay and training's evaluation use it: a window and a state in, a chunk and a state out.

`SigmaRuntime.step` is a function of its arguments and the loaded weights: nothing is remembered inside, so the
same recording gives the same chunks at any speed, and a saved state continues bit for bit.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from numpy import ndarray
from torch import Tensor

from sigma_ros.camera_names import NO_RENAME
from sigma_ros.contract import Contract
from sigma_ros.errors import SigmaError
from sigma_ros.model.loading import (
    CheckpointInfo,
    allow_guidance,
    guidance,
    load_model,
    open_checkpoint,
    required_normalisation,
)
from sigma_ros.model.normalise import Normalisation, PolicyUnits
from sigma_ros.model.pi05.backbone import Engine, RealTimeChunking
from sigma_ros.model.pi05.engine import (
    BOUND_RAD,
    difference_from_lerobot,
    engine_named,
    largest_difference,
    lerobot_batch,
)
from sigma_ros.model.pi05.flow import flow_noise
from sigma_ros.model.sigma import Action, SigmaTelepathyVLA
from sigma_ros.model.step import (
    Prepared,
    RecurrentState,
    advance,
    initial_state,
    load_state,
    plan,
    recorrect,
    remember,
    save_state,
    spread,
    warm_up,
)
from sigma_ros.model.telepathy import TelepathyOutput
from sigma_ros.model.tokens import PADDING, ModelInputBuilder
from sigma_ros.risk import assess, scale_of
from sigma_ros.values import (
    AdapterSettings,
    Certificate,
    Chunk,
    EngineName,
    LeftOver,
    Memory,
    Telepathy,
    Window,
    frozen_array,
)

_OTHER_DRAWS = 7919
"""Between the seeds of several draws of one tick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """One step's result: what is published, and the same actions in the policy's normalised space."""

    chunk: Chunk
    telepathy: Telepathy
    base_normalised: Float64[ndarray, "horizon dof"]
    residual_normalised: Float64[ndarray, "horizon dof"]


class SigmaRuntime:
    """A loaded model for one contract. Use `load`; the constructor takes parts that are already there."""

    def __init__(
        self,
        model: SigmaTelepathyVLA,
        *,
        contract: Contract,
        normalisation: Normalisation,
        info: CheckpointInfo,
        seed: int = 0,
        cameras: tuple[str | None, ...] | None = None,
        relative: Bool[ndarray, " dof"] | None = None,
    ) -> None:
        self.model = model
        self.contract = contract
        self.normalisation = normalisation
        self.units = PolicyUnits(contract=contract, normalisation=normalisation, relative=relative)
        self.info = info
        self.seed = seed
        backbone = model.backbone
        self.image_size_px: int = backbone.image_size_px
        self.horizon: int = backbone.horizon
        self.memory_stride: int = model.config.memory_stride
        self.inputs = ModelInputBuilder.fitting(backbone, self.units, cameras)

    @classmethod
    def load(
        cls,
        checkpoint: str,
        *,
        contract: Contract,
        device: str = "auto",
        dtype: str = "auto",
        seed: int = 0,
        allow_untrained: bool = False,
        base: str | None = None,
        revision: str | None = None,
        tokenizer: str | None = None,
        rename: Mapping[str, str] = NO_RENAME,
        engine: EngineName = "plain",
        statistics: Normalisation | None = None,
    ) -> Self:
        """Loads `mini` (ships with the package), a Sigma checkpoint or a base pi0.5: a folder or Hub id.

        Args:
            checkpoint: What to load. A base without Sigma's files runs with untrained heads: its residual is 0.
            contract: Its cameras and joints must be the policy's.
            device: A torch device, or `auto`.
            dtype: `float32`, `bfloat16` or `auto`; see `pi05.loading.load_base`.
            seed: Of the flow noise; with (epoch, tick) it fixes every chunk.
            allow_untrained: Accept a base that says it has random weights.
            base: For a Sigma checkpoint: where its base is now, if not where the checkpoint says.
            revision: Hub revision of what is named: of `base` if that is given, else of `checkpoint`.
            tokenizer: Folder or Hub id of the tokenizer.
            rename: Keys of the contract's cameras in data sets -> the policy's; see `camera_names.policy_keys`.
            engine: What runs it, if the certificate finds it near enough. For `onnx` the adapters are merged
                and its graphs are exported before the model is given out.
            statistics: Of the data that a bare base is trained on.

        Raises:
            SigmaError: it cannot be loaded, or does not fit the contract.
        """
        make_engine = engine_named(engine)
        opened = open_checkpoint(
            checkpoint, contract=contract, base=base, revision=revision, rename=rename, statistics=statistics
        )
        normalisation = required_normalisation(opened)
        model, info = load_model(
            opened,
            contract=contract,
            device=device,
            dtype=dtype,
            allow_untrained=allow_untrained,
            tokenizer=tokenizer,
        )
        runtime = cls(
            model,
            contract=contract,
            normalisation=normalisation,
            info=info,
            seed=seed,
            cameras=opened.cameras,
            relative=opened.base.relative,
        )
        if engine == "onnx":
            model.merge_for_serving()
        model.backbone.engine = make_engine(model)
        if engine == "onnx":
            warm_up(model)
        return runtime

    def initial_state(self, *, epoch: int, task: str) -> RecurrentState:
        """An empty memory and window for a new epoch."""
        return initial_state(self.model, epoch=epoch, task=task)

    @torch.no_grad()
    def step(
        self,
        window: Window,
        state: RecurrentState,
        *,
        commit: bool,
        settings: AdapterSettings,
        chunk_id: int,
        baseline_diagnostics: bool = False,
        left_over: LeftOver | None = None,
        prepared: Prepared | None = None,
    ) -> tuple[Inference, RecurrentState]:
        """Proposes a chunk for the window's newest tick; encodes only frames that the state has not seen.

        Args:
            window: Same epoch and task as `state`.
            state: From `initial_state` or the previous step.
            commit: Make this tick's memory update permanent (on stride ticks; see `Schedule.commits`).
            settings: The adapter's bounds and temperature.
            chunk_id: Number of the chunk.
            baseline_diagnostics: Also run the telepathy path without LoRA, for the card's baseline arm.
            left_over: What remains of the previous chunk; the base continues it (LeRobot's real-time chunking).
            prepared: What `precompute` computed for this tick in a group; only without a `left_over`.

        Raises:
            SigmaError: window and state are of different epochs or tasks, or an image has the wrong size.
        """
        started_ns = time.perf_counter_ns()
        result, advanced = plan(
            self.model,
            self.observe(window, state, prepared),
            noise=self.noise(window),
            commit=commit,
            baseline_diagnostics=baseline_diagnostics,
            base=None if prepared is None else prepared.base,
            **self._guidance(left_over, window.newest.positions_rad),
        )
        inference = Inference(
            chunk=self._chunk(result.action, window, settings, chunk_id, started_ns),
            telepathy=_telepathy(window, result.action.telepathy_output, result.baseline, committed=result.committed),
            base_normalised=self._absolute(result.action, window),
            residual_normalised=_numpy(result.action.residual.composite[0]),
        )
        return inference, advanced

    @torch.no_grad()
    def certify(self, window: Window) -> Certificate:
        """Compares the base's chunk of the newest tick with LeRobot's own, and the engine's step with the plain one.

        An engine that is too far off, or has a problem, is left; the plain model goes on. Takes as long as the chunks.
        """
        backbone, noise, engine = self.model.backbone, self.noise(window), self.model.backbone.engine
        given = self.inputs.model_input(window.newest)
        prompt = backbone.tokenize(window.task, given.state[None].numpy())
        backbone.engine = None
        encoded = self.model.encode(given)
        plain = backbone.base_chunk(encoded.patches[None], encoded.seen[None], *prompt, noise)
        batch = lerobot_batch(backbone, given.images, given.seen, *prompt)
        certificate = Certificate(
            epoch=window.epoch,
            tick=window.tick,
            base_difference=difference_from_lerobot(backbone, plain, batch, noise),
        )
        if engine is None:
            return certificate
        known = Prepared(encoded={encoded.tick: encoded}, base=plain)
        apart_rad = largest_difference(self._proposed(window, engine), self._proposed(window, None, known))
        certificate = replace(
            certificate,
            engine=engine.name,
            engine_rad=apart_rad,
            bound_rad=BOUND_RAD,
            engine_problem=engine.problem,
        )
        backbone.engine = engine if certificate.keeps_engine else None
        return certificate

    def _proposed(
        self, window: Window, engine: Engine | None, known: Prepared | None = None
    ) -> Float64[Tensor, "2 horizon dof"]:
        """Base and residual [rad] by an engine for a window, from an empty memory; `known` need not be computed."""
        self.model.backbone.engine = engine
        state, usual = self.initial_state(epoch=window.epoch, task=window.task), AdapterSettings()
        chunk = self.step(window, state, commit=False, settings=usual, chunk_id=0, prepared=known)[0].chunk
        return torch.from_numpy(np.stack([chunk.base_rad, chunk.residual_rad]))

    @torch.no_grad()
    def remember(self, window: Window, state: RecurrentState) -> tuple[Telepathy, RecurrentState]:
        """What `step` with `commit` does to the state, without a chunk: for a tick whose chunk would come too late."""
        telepathy_output, kept, advanced = remember(self.model, self.observe(window, state))
        return _telepathy(window, telepathy_output, None, committed=kept), advanced

    @torch.no_grad()
    def refresh(
        self, window: Window, state: RecurrentState, previous: Chunk, *, settings: AdapterSettings, chunk_id: int
    ) -> tuple[Inference, RecurrentState]:
        """A new residual on what is left of a chunk: the base's steps stay as they are. Commits nothing.

        `window` is of a later tick of the same epoch as `previous`, the chunk in execution.
        """
        started_ns = time.perf_counter_ns()
        base_rad = previous.base_rad[window.tick - previous.tick :]
        pose_rad = window.newest.positions_rad
        steps = torch.from_numpy(self.units.normalise_chunk(base_rad, pose_rad).astype(np.float32))
        observed = self.observe(window, state)
        action = recorrect(self.model, observed, steps.to(self.model.backbone.device))
        chunk = self._chunk(action, window, settings, chunk_id, started_ns)
        inference = Inference(
            chunk=replace(chunk, base_rad=base_rad),
            telepathy=_telepathy(window, action.telepathy_output, None, committed=False),
            base_normalised=self._absolute(action, window),
            residual_normalised=_numpy(action.residual.composite[0]),
        )
        return inference, observed

    @torch.no_grad()
    def spread(self, window: Window, state: RecurrentState, *, samples: int) -> float:
        """How far the proposed actions depend on the flow noise: their standard deviation over draws.

        The rms over the trajectory's steps, in normalised actions, for the tick that was just planned. Costs a chunk of
        `samples` rows (at least 2; none is the step's own) and changes nothing.
        """
        return spread(
            self.model,
            self.observe(window, state),
            torch.cat([self.noise(window, draw) for draw in range(1, samples + 1)]),
        )

    def noise(self, window: Window, draw: int = 0) -> Float[Tensor, "1 horizon max_dof"]:
        """The flow noise of a window's newest tick; other draws are as good as the step's own, 0."""
        sizes = {"horizon": self.horizon, "max_dof": self.model.backbone.max_dof}
        return flow_noise(seed=self.seed + draw * _OTHER_DRAWS, epoch=window.epoch, tick=window.tick, **sizes)

    @torch.no_grad()
    def observe(self, window: Window, state: RecurrentState, prepared: Prepared | None = None) -> RecurrentState:
        """Encodes the frames of the window that the state has not seen; `step` does it too.

        Called on ticks that do not plan, it spreads the vision tower's work over them.
        """
        _check_same_epoch(window, state)
        valid = {frame.tick: frame for frame, there in zip(window.frames, window.mask, strict=True) if there}
        ticks = tuple(frame.tick if there else PADDING for frame, there in zip(window.frames, window.mask, strict=True))
        known = {} if prepared is None else prepared.encoded
        return advance(self.model, state, ticks, lambda tick: known.get(tick) or self.inputs.model_input(valid[tick]))

    def save(self, state: RecurrentState, path: Path) -> None:
        """Writes a recurrent state bit for bit (safetensors)."""
        save_state(state, path, model_hash=self.info.hash)

    def restore(self, path: Path, fresh: RecurrentState) -> RecurrentState:
        """An epoch's empty state with the memory of a saved one; its window stays empty, for those ticks are gone.

        Raises:
            SigmaError: the file is no state of this model, or of another task.
        """
        saved = load_state(path, like=fresh, model_hash=self.info.hash)
        if saved.task != fresh.task:
            raise SigmaError("the saved memory is of another task", where=path, expected=fresh.task, got=saved.task)
        return self.remembering(fresh, self.memory(saved))

    def memory(self, state: RecurrentState) -> Memory:
        """What of a state is committed, on the CPU."""
        kept = (state.memory, state.factors)
        semantic, factors = (frozen_array(tensor.to("cpu", torch.float32, copy=True).numpy()) for tensor in kept)
        return Memory(semantic=semantic, factors=factors, commits=state.commits)

    def remembering(self, fresh: RecurrentState, memory: Memory) -> RecurrentState:
        """An empty state with this memory; a window brings its own ticks."""
        device = fresh.memory.device
        semantic, factors = torch.tensor(memory.semantic, device=device), torch.tensor(memory.factors, device=device)
        return replace(fresh, memory=semantic, factors=factors, commits=memory.commits)

    def normalise_actions(self, rad: Float64[ndarray, "n dof"]) -> Float64[ndarray, "n dof"]:
        """Radians to the policy's normalised action space, where errors are measured."""
        return self.units.normalise_actions(rad)

    def check_units(self, positions_rad: Float64[ndarray, " dof"]) -> tuple[str, ...]:
        """Why a measured pose cannot be in the units of the training data; see `PolicyUnits.problems`."""
        return self.units.problems(positions_rad)

    def _absolute(self, action: Action, window: Window) -> Float64[ndarray, "horizon dof"]:
        """The base's chunk where errors are measured: not relative to the pose that it was planned at."""
        base = _numpy(action.base[0])
        if self.units.relative is None:
            return base
        return self.units.normalise_actions(self.units.denormalise_chunk(base, window.newest.positions_rad))

    def _guidance(self, left_over: LeftOver | None, pose_rad: Float64[ndarray, " dof"]) -> RealTimeChunking:
        if left_over is None:
            return {}
        allow_guidance(self.model.backbone)
        if self.model.plain is not None:
            allow_guidance(self.model.plain.adapted)
        steps = torch.from_numpy(self.units.normalise_chunk(left_over.base_rad, pose_rad).astype(np.float32))
        return guidance(steps.to(self.model.backbone.device), delay_steps=left_over.delay_steps)

    def _chunk(
        self, action: Action, window: Window, settings: AdapterSettings, chunk_id: int, started_ns: int
    ) -> Chunk:
        residual_ratio, factor_ratio, alignment = self.model.ratios(action.telepathy_output, action.residual)
        risk = assess(
            residual_ratio=float(residual_ratio), factor_ratio=float(factor_ratio), alignment=float(alignment)
        )
        base, residual = _numpy(action.base[0]), _numpy(action.residual.composite[0])
        return Chunk(
            chunk_id=chunk_id,
            epoch=window.epoch,
            tick=window.tick,
            stamp_ns=window.stamp_ns,
            joint_names=self.contract.joint_names,
            step_period_ns=self.contract.tick_period_ns,
            base_rad=frozen_array(self.units.denormalise_chunk(base, window.newest.positions_rad)),
            residual_rad=frozen_array(self.units.residual_rad(residual)),
            scale=scale_of(risk, settings) if np.isfinite(base).all() else 0.0,
            risk=risk,
            settings=settings,
            tau_l2=float(action.telepathy_output.tau_l2),
            sem_align=float(action.telepathy_output.sem_align),
            observation_age_ns=window.newest.age_ns,
            inference_ns=time.perf_counter_ns() - started_ns,
            checkpoint_hash=self.info.hash,
            trained_delay_s=self.model.config.trained_delay_s,
        )


def _check_same_epoch(window: Window, state: RecurrentState) -> None:
    if (window.epoch, window.task) != (state.epoch, state.task):
        raise SigmaError(
            "the window does not belong to the state",
            expected=f"epoch {state.epoch}, task {state.task!r}",
            got=f"epoch {window.epoch}, task {window.task!r}",
            remedy="start the new epoch with initial_state",
        )


def _numpy(tensor: Float[Tensor, "*any"]) -> Float64[ndarray, "*any"]:
    values = tensor.to(device="cpu", dtype=torch.float64).numpy()
    values.flags.writeable = False
    return values


def _telepathy(
    window: Window, telepathy_output: TelepathyOutput, plain: TelepathyOutput | None, *, committed: bool
) -> Telepathy:
    return Telepathy(
        epoch=window.epoch,
        tick=window.tick,
        stamp_ns=window.stamp_ns,
        semantic_memory=_numpy(telepathy_output.memory[0]),
        intent=_numpy(telepathy_output.intent[0]),
        factors=_numpy(telepathy_output.factors[0]),
        tau_l2=float(telepathy_output.tau_l2),
        sem_align=float(telepathy_output.sem_align),
        baseline_tau_l2=math.nan if plain is None else float(plain.tau_l2),
        baseline_sem_align=math.nan if plain is None else float(plain.sem_align),
        committed=committed,
    )
