# SPDX-License-Identifier: Apache-2.0
"""Sigma: a frozen pi0.5, a telepathy path over its shared language model, and residual branches.

Training (windows in a row), replay and the robot run the same functions: `encode` a tick, then `act` on a
window. Nothing is remembered inside the module.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from jaxtyping import Bool, Float, Int
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from peft import LoraConfig
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sigma_ros.model.adapter import R_REF, References, SigmaTelepathyAdapter, ratios, reference_tau
from sigma_ros.model.card import SigmaBatch, SigmaOutputs, as_bytes, backbone_of, check_fit, outputs, read_batch
from sigma_ros.model.checkpoint.folder import identify, load_trained, open_manifest
from sigma_ros.model.checkpoint.manifest import HEADS_FILE
from sigma_ros.model.lora import LanguageReader, PlainLora, adapter_tensors, merge_lora, peft_config
from sigma_ros.model.pi05.backbone import Backbone, RealTimeChunking, clean_task
from sigma_ros.model.pi05.flow import flow_noise
from sigma_ros.model.pi05.folder import ADAPTER_FILE
from sigma_ros.model.pi05.places import SHIPPED_SIGMAS, find_checkpoint
from sigma_ros.model.residual import Residual, ResidualBranches
from sigma_ros.model.settings import LORA_PROJECTIONS, SigmaConfig
from sigma_ros.model.telepathy import Recurrence, TelepathyInput, TelepathyOutput, TelepathyPath, WindowFeatures
from sigma_ros.model.tokens import EncodedTick, ModelInput, camera_patches, pool_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Normalised actions of a batch: the base's chunk, its correction, and the telepathy output behind it."""

    base: Float[Tensor, "batch horizon dof"]
    residual: Residual
    telepathy_output: TelepathyOutput


class SigmaTelepathyVLA(nn.Module):
    """Sigma: a frozen pi0.5, the telepathy path and the residual; `from_base` loads it, this gives untrained heads.

    Args:
        config: Sizes and switches; width, cameras and horizon must be the base's.
    """

    def __init__(self, backbone: Backbone, config: SigmaConfig, *, seed: int = 0) -> None:
        super().__init__()
        check_fit(config, backbone)
        self.backbone = backbone
        self.config = config
        self.references = References(r_ref=R_REF, tau_ref=reference_tau(config.factor_size))
        self.plain_reader = LanguageReader(backbone.language_layers, None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.telepathy = None if config.plain_lora else TelepathyPath(config).to(backbone.device)
            self.residual = None if config.plain_lora else ResidualBranches(config).to(backbone.device)
            self.plain = PlainLora(backbone, config) if config.plain_lora else None
            self.reader = self._reader()
        self.eval()

    def _reader(self) -> LanguageReader:
        if self.plain is not None or not self.config.use_lora:
            return self.plain_reader
        return LanguageReader(self.backbone.language_layers, self.lora_config(target_modules=list(LORA_PROJECTIONS)))

    def lora_config(self, *, target_modules: list[str]) -> LoraConfig:
        """PEFT's description of this model's adapters."""
        return peft_config(self.config, target_modules=target_modules, rank=self.plain.rank if self.plain else None)

    @classmethod
    def from_base(
        cls,
        base_policy: PI05Policy | Backbone | str | Path,
        lora_dir: str | Path | None = None,
        telepathy_heads_path: str | Path | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        *,
        config: SigmaConfig | None = None,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
    ) -> "SigmaTelepathyVLA":
        """The model card's way in: a base, and a checkpoint's adapters and heads.

        Args:
            base_policy: LeRobot's policy object, or a folder or Hub id that is loaded strictly.
            lora_dir: Folder with `adapter_config.json`, `adapter_model.safetensors`, `sigma_config.json`; or the Hub id
                of a Sigma checkpoint, which brings its heads too.
            telepathy_heads_path: `sigma_telepathy_heads.safetensors`. Neither: untrained, equal to the base.
            device: Torch device; None leaves a policy object where it is.
            dtype: float32 or bfloat16 (LeRobot's layout of it); None leaves it as it is.
            config: Settings of an untrained model; a checkpoint brings its own.
            tokenizer: PaliGemma's tokenizer or its place; needed with a policy object.

        Raises:
            CheckpointError: a file is missing, hostile, changed, misshapen, not finite, or of another base.
        """
        backbone, info = backbone_of(base_policy, device=device, dtype=dtype, tokenizer=tokenizer)
        if lora_dir is None and telepathy_heads_path is None:
            return cls(backbone, config or SigmaConfig.for_backbone(backbone))
        folder, heads = _trained_files(lora_dir, telepathy_heads_path)
        manifest, _ = open_manifest(lora_dir=folder, heads_path=heads)
        model = cls(backbone, manifest.settings)
        manifest.base.check(identify(model, info), where=folder or heads)
        load_trained(model, manifest, heads_path=heads, lora_dir=folder)
        return model

    def train(self, mode: bool = True) -> "SigmaTelepathyVLA":  # noqa: FBT001, FBT002  nn.Module's signature
        """Training mode for heads and adapters; the base is always in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def heads(self) -> dict[str, nn.Parameter]:
        """Trained parameters outside the adapters, by their names in `sigma_telepathy_heads.safetensors`."""
        parts = {"telepathy": self.telepathy, "residual": self.residual}
        return {f"{k}.{n}": p for k, part in parts.items() if part is not None for n, p in part.named_parameters()}

    def adapters(self) -> dict[str, nn.Parameter]:
        """Trained LoRA parameters by PEFT's names relative to the language model."""
        return adapter_tensors(self.reader.view if self.plain is None else self.plain.adapted.language_layers)

    def trained(self) -> dict[str, nn.Parameter]:
        """Everything an optimiser may change."""
        return {**self.heads(), **{f"lora.{name}": parameter for name, parameter in self.adapters().items()}}

    def adapter(
        self, min_scale: float = 0.0, max_scale: float = 1.0, risk_temperature: float = 1.0
    ) -> SigmaTelepathyAdapter:
        """The card's adapter, measured against this model's references."""
        usual = self.references
        return SigmaTelepathyAdapter(min_scale, max_scale, risk_temperature, r_ref=usual.r_ref, tau_ref=usual.tau_ref)

    def merge_for_serving(self) -> int:
        """Folds the adapters into projections of their own (not for training); returns the bytes it costs."""
        view = self.reader.view if self.plain is None else self.plain.adapted.language_layers
        return merge_lora(view)

    def read_text(
        self, texts: Sequence[str], *, padded: bool = True
    ) -> tuple[Float[Tensor, "batch tokens width"], Bool[Tensor, "batch tokens"]]:
        """Task texts as the language model's own embeddings, cut to `text_tokens`.

        They are `padded` to that too, so that shapes are static, or only to the longest of them.
        """
        tokens, mask = self.backbone.tokenize_text([clean_task(text) for text in texts])
        room = (0, max(0, self.config.text_tokens - tokens.shape[1]) if padded else 0)
        tokens = nn.functional.pad(tokens, room)[:, : self.config.text_tokens]
        mask = nn.functional.pad(mask, room, value=False)[:, : self.config.text_tokens]
        with torch.no_grad():
            return self.backbone.embed_text(tokens), mask

    @torch.no_grad()
    def encode(self, given: ModelInput) -> EncodedTick:
        """Runs the vision tower on the cameras of one tick that are there, one by one as the policy does."""
        patches = camera_patches(self.backbone, given.images[None], given.seen[None])[0]
        return EncodedTick.of(given, patches, pooled_grid=self.config.pooled_grid)

    def features_of(self, telepathy_input: TelepathyInput) -> WindowFeatures | None:
        """What `believe` needs of windows beside the memory; None where there is no telepathy."""
        return None if self.telepathy is None else self.telepathy.features_of(telepathy_input)

    def believe(
        self,
        telepathy_input: TelepathyInput,
        previous: Recurrence,
        *,
        adapted: bool = True,
        features: WindowFeatures | None = None,
    ) -> TelepathyOutput:
        """One update of memory, intent and factors; `adapted` False reads without LoRA (the card's baseline arm).

        `features` saves computing them again in training, where `features_of` has many windows in one batch.
        """
        if self.telepathy is None:
            return TelepathyOutput.blank(
                self.config, batch=telepathy_input.states.shape[0], device=telepathy_input.states.device
            )
        path, reader = self.telepathy, self.reader if adapted else self.plain_reader
        if torch.is_grad_enabled():
            return path(telepathy_input, previous, reader, features)

        def believed(*given: Tensor) -> tuple[Tensor, ...]:
            seen, before = TelepathyInput.of(given[:-2]), Recurrence(memory=given[-2], factors=given[-1])
            return path(seen, before, reader).tensors

        given = (*telepathy_input.tensors, previous.memory, previous.factors)
        name = "telepathy" if adapted else "telepathy without adapters"
        return TelepathyOutput.of(self.backbone.run(name, believed, *given))

    def correct(
        self,
        telepathy_output: TelepathyOutput,
        state: Float[Tensor, "batch dof"],
        base: Float[Tensor, "batch horizon dof"],
        age_ticks: Float[Tensor, " batch"] | None = None,
    ) -> Residual:
        """Residual actions for the base's normalised chunk from the newest tick on; see `ResidualBranches.forward`."""
        if self.residual is None:
            return Residual(composite=torch.zeros_like(base), config=self.config)
        age = base.new_zeros(len(base)) if age_ticks is None else age_ticks
        branches = self.residual
        if torch.is_grad_enabled():
            return branches(telepathy_output, state, base, age)

        def composed(*given: Tensor) -> Tensor:
            return branches(TelepathyOutput.of(given[:-3]), *given[-3:]).composite

        given = (*telepathy_output.tensors, state, base, age)
        return Residual(composite=self.backbone.run("residual", composed, *given), config=self.config)

    def ratios(self, telepathy_output: TelepathyOutput, residual: Residual) -> tuple[Tensor, Tensor, Tensor]:
        """Residual ratio, factor ratio and alignment per sample in float64: what `sigma_ros.risk` judges.

        The comparison arm has no factors: its last two are the calm 1.
        """
        found = ratios(self.references, residual.trajectory, telepathy_output.factors, telepathy_output.alignment)
        calm = torch.ones_like(found[0])
        return found if self.telepathy is not None else (found[0], calm, calm)

    def act(
        self,
        telepathy_input: TelepathyInput,
        previous: Recurrence,
        *,
        patches: Float[Tensor, "batch cameras patches width"],
        prompt: tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]],
        noise: Float[Tensor, "batch horizon max_dof"],
        telepathy: bool = True,
        base: Float[Tensor, "batch horizon max_dof"] | None = None,
        **rtc: Unpack[RealTimeChunking],
    ) -> Action:
        """The base's chunk from the newest tick, the telepathy output, and the residual on the chunk.

        With `telepathy` off the adapters are off and the residual is zero: the card's baseline arm. `base` is what
        `backbone.base_chunk` gave for the same tick, if that is known already. Nothing here waits for the device.
        """
        seen, states = telepathy_input.seen[:, -1], telepathy_input.states[:, -1]
        if base is None:
            base = self.backbone.base_chunk(patches, seen, *prompt, noise, **rtc)
        base = base[:, :, : self.config.dof]
        telepathy_output = self.believe(telepathy_input, previous, adapted=telepathy)
        if not telepathy:
            residual = Residual(composite=torch.zeros_like(base), config=self.config)
        elif self.plain is not None:
            changed = self.plain.adapted.base_chunk(patches, seen, *prompt, noise, **rtc)[:, :, : self.config.dof]
            residual = Residual(composite=changed - base, config=self.config)
        else:
            residual = self.correct(telepathy_output, states, base)
        return Action(base=base, residual=residual, telepathy_output=telepathy_output)

    def chunks(
        self,
        telepathy_input: TelepathyInput,
        *,
        patches: Float[Tensor, "1 cameras patches width"],
        tasks: Sequence[str],
        noise: Float[Tensor, "draws horizon max_dof"],
    ) -> Float[Tensor, "draws horizon dof"]:
        """The base's chunks from the newest tick for several draws of the noise; `tasks` is one text a draw."""
        draws = len(noise)
        tokens, mask = self.prompts(tasks, telepathy_input.states[:, -1].expand(draws, -1))
        seen = telepathy_input.seen[:, -1].expand(draws, -1)
        base = self.backbone.base_chunk(patches.expand(draws, -1, -1, -1), seen, tokens, mask, noise)
        return base[:, :, : self.config.dof]

    def prompts(
        self, tasks: Sequence[str], states: Float[Tensor, "batch dof"]
    ) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
        """The base's prompts: tasks and normalised states, all of one length."""
        rows = states.cpu().numpy()
        pairs = [self.backbone.tokenize(task, rows[i : i + 1]) for i, task in enumerate(tasks)]
        return torch.cat([tokens for tokens, _ in pairs]), torch.cat([mask for _, mask in pairs])

    def forward(
        self,
        batch: Mapping[str, Any] | None = None,
        use_telepathy: bool = True,  # noqa: FBT001, FBT002
        **named: Any,
    ) -> SigmaOutputs:
        """The model card's call, `sigma(**batch, use_telepathy=True)`; a mapping is taken too.

        See `card.read_batch` for the keys and `card.SigmaOutputs` for the results.
        """
        given = read_batch({**(batch or {}), **named}, self.config, self.backbone)
        text, text_mask = self.read_text(given.texts)
        patches, pooled = self._encode_windows(given)
        telepathy_input = TelepathyInput(
            pooled=pooled,
            seen=given.seen,
            states=given.states,
            valid=given.valid,
            text=text,
            text_mask=text_mask,
        )
        noise = given.noise
        if noise is None:
            sizes = {"horizon": self.backbone.horizon, "max_dof": self.backbone.max_dof}
            noise = flow_noise(seed=0, epoch=0, tick=0, **sizes).expand(len(given.texts), -1, -1)
        action = self.act(
            telepathy_input,
            given.previous,
            patches=patches,
            prompt=self.prompts(given.texts, given.states[:, -1, : given.joints]),
            noise=noise,
            telepathy=use_telepathy,
        )
        return outputs(action.base, action.residual, action.telepathy_output, joints=given.joints)

    @torch.no_grad()
    def _encode_windows(self, given: SigmaBatch) -> tuple[Tensor, Tensor]:
        batch, ticks, cameras = given.images.shape[:3]
        places = torch.arange(cameras).repeat(batch * ticks)
        tokens = self.backbone.encode_images(as_bytes(given.images).flatten(0, 2), cameras=places).to(torch.float32)
        tokens = tokens.unflatten(0, (batch, ticks, cameras))
        absent = self.config.cameras - cameras
        tokens = nn.functional.pad(tokens, (0, 0, 0, 0, 0, absent))
        tokens = torch.where(given.seen[..., None, None], tokens, 0.0)
        pooled = pool_tokens(tokens.flatten(0, 2), self.config.pooled_grid)
        return tokens[:, -1], pooled.unflatten(0, (batch, ticks, cameras + absent))


def _trained_files(lora_dir: str | Path | None, heads: str | Path | None) -> tuple[Path | None, Path | None]:
    """Folder of the adapters and file of the heads, fetched where `lora_dir` is a Hub id."""
    file = None if heads is None else Path(heads)
    if lora_dir is None or Path(lora_dir).is_dir():
        return None if lora_dir is None else Path(lora_dir), file
    place = find_checkpoint(lora_dir, shipped=SHIPPED_SIGMAS)
    place.fetch(HEADS_FILE, ADAPTER_FILE)
    own = place.path / HEADS_FILE
    return place.path, own if file is None and own.is_file() else file
