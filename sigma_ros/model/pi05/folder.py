# SPDX-License-Identifier: Apache-2.0
"""What lies in a pi0.5 checkpoint besides its weights: policy config, network sizes, statistics, tokenizer.

A folder is LeRobot's (`config.json`, `model.safetensors`, `policy_preprocessor.json`) and may also hold our
`sigma_base.json` (sizes of a smaller network, whether it was trained) and `normalisation.json`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import draccus
import torch
from jaxtyping import Bool
from lerobot.configs import FeatureType
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from lerobot.utils.constants import ACTION
from numpy import ndarray
from peft import LoraConfig, PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sigma_ros import border
from sigma_ros.errors import CheckpointError, SigmaError
from sigma_ros.model.normalise import Normalisation
from sigma_ros.model.pi05.lerobot_symbols import WRITTEN_FOR
from sigma_ros.model.pi05.places import CONFIG_FILE, Place, find_checkpoint, refuse_empty
from sigma_ros.model.pi05.processors import PictureScaling, read_processors
from sigma_ros.model.pi05.sizes import FULL, Sizes
from sigma_ros.model.pi05.tensors import FLOAT_TYPES, list_tensors, misfits

# A policy that lerobot-train fine-tuned with PEFT: adapters beside a base, merged into it when it is loaded.


ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"


def read_adapter_config(folder: Path) -> LoraConfig:
    """The contents of `adapter_config.json`.

    Raises:
        CheckpointError: it cannot be read, or the adapters are not LoRA's, or change the base when they start.
    """
    file = folder / ADAPTER_CONFIG_FILE
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError("the adapters' settings cannot be read", where=file, got=error) from error
    if not isinstance(config, LoraConfig):
        raise CheckpointError(
            "only LoRA adapters can be merged", where=file, expected="peft_type LORA", got=config.peft_type
        )
    if config.init_lora_weights not in (True, False, "gaussian"):
        raise CheckpointError(
            "the adapters begin from a changed base",
            where=file,
            expected="init_lora_weights true, false or gaussian",
            got=config.init_lora_weights,
            remedy="merge them with PEFT, and save the policy",
        )
    return config


def merge_adapters(policy: PI05Policy, folder: Path) -> None:
    """Adds the folder's adapters to the policy's weights, with every tensor of the file and no other.

    Raises:
        CheckpointError: a tensor is missing, unexpected, misshapen or not finite; the policy must not be used then.
    """
    config, file = read_adapter_config(folder), folder / ADAPTER_FILE
    stored = list_tensors(file)
    wrapped: Any = get_peft_model(policy, config)
    wanted = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    problems = misfits(stored, {name: (name, tuple(tensor.shape)) for name, tensor in wanted.items()}, FLOAT_TYPES)
    tensors = load_file(file) if not problems else {}
    problems += [f"{name} is not finite" for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if problems:
        raise CheckpointError(
            f"the adapters do not fit their base in {len(problems)} place(s)",
            where=file,
            expected=f"exactly the {len(wanted)} tensors that {ADAPTER_CONFIG_FILE} describes",
            got=" | ".join(problems[:8]),
            remedy="use the base that they were trained on",
        )
    set_peft_model_state_dict(wrapped, tensors)
    wrapped.merge_and_unload()


OWN_FILE = "sigma_base.json"
NORMALISATION_FILE = "normalisation.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TOKENIZER_ENV = "SIGMA_TOKENIZER"
PALIGEMMA_TOKENIZER = "google/paligemma-3b-pt-224"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFolder:
    """A checkpoint before its weights: nothing large was read or fetched yet.

    Attributes:
        config: LeRobot's, of the policy.
        trained: False where its weights are marked as random.
        normalisation: None where it has no statistics (as pi05_base).
        rename: Keys of the training data's features -> the policy's, as its pre-processor does.
        relative: See `processors.Processors`.
        tokenizer: What its pre-processor names, else None.
        pictures: See `processors.Processors`.
        adapted: The base that adapters in this folder belong to; None where the folder has weights of its own.
    """

    place: Place
    config: PI05Config
    sizes: Sizes
    trained: bool
    normalisation: Normalisation | None
    rename: Mapping[str, str]
    relative: Bool[ndarray, " dof"] | None = None
    tokenizer: str | None = None
    pictures: PictureScaling | None = None
    adapted: "BaseFolder | None" = None

    @property
    def path(self) -> Path:
        """The folder on this disk."""
        return self.place.path

    @property
    def camera_keys(self) -> tuple[str, ...]:
        """The policy's image features, in its order."""
        return tuple(self.config.image_features)

    @property
    def image_size_px(self) -> int:
        """Side of the policy's square pictures."""
        return int(self.config.image_resolution[0])

    def fetch_weights(self) -> None:
        """Brings the weights from the Hub, where they are not here yet."""
        if self.adapted is not None:
            self.adapted.fetch_weights()
            self.place.fetch(ADAPTER_FILE)
        else:
            self.place.fetch(WEIGHTS_FILE, INDEX_FILE, "model-*.safetensors")


def open_base_folder(source: str | Path | Place, *, revision: str | None = None) -> BaseFolder:
    """Finds a checkpoint (`mini`, folder, or Hub id + revision) and reads everything but weights and tokenizer.

    Raises:
        UsageError: `source` is neither a folder nor shaped like a Hub id.
        CheckpointError: it cannot be fetched, or one of its files is missing or senseless.
    """
    place = source if isinstance(source, Place) else find_checkpoint(source, revision=revision)
    path = place.path
    adapted = _adapted(place) if (path / ADAPTER_CONFIG_FILE).is_file() else None
    if not (path / CONFIG_FILE).is_file() and adapted is None:
        refuse_empty(place, CONFIG_FILE)
    config = _read_config((path if (path / CONFIG_FILE).is_file() or adapted is None else adapted.path) / CONFIG_FILE)
    own = read_json(path / OWN_FILE) if (path / OWN_FILE).is_file() else {}
    processors = read_processors(path, config, read_json)
    if processors is None and adapted is not None:
        processors = read_processors(adapted.path, config, read_json)
    if processors is None:
        _refuse_without_pipelines(config, path)
    return BaseFolder(
        place=place,
        config=config,
        sizes=Sizes.from_dict(own["sizes"]) if "sizes" in own else FULL if adapted is None else adapted.sizes,
        trained=bool(own.get("trained", True)),
        normalisation=(processors and processors.normalisation) or _own_normalisation(path),
        rename={} if processors is None else processors.rename,
        relative=None if processors is None else processors.relative,
        tokenizer=None if processors is None else processors.tokenizer,
        pictures=None if processors is None else processors.pictures,
        adapted=adapted,
    )


def _adapted(place: Place) -> BaseFolder | None:
    """The base that a folder's adapters belong to; None where the folder has whole weights too."""
    if any((place.path / name).is_file() for name in (WEIGHTS_FILE, INDEX_FILE)):
        return None
    if place.repo is None and not (place.path / ADAPTER_FILE).is_file():
        refuse_empty(place, ADAPTER_FILE)
    settings = read_adapter_config(place.path)
    source = settings.base_model_name_or_path
    try:
        if not source:
            raise CheckpointError("the adapters name no base", where=place.path / ADAPTER_CONFIG_FILE)
        return open_base_folder(source, revision=settings.revision)
    except SigmaError as error:
        raise CheckpointError(
            "the base of the folder's adapters cannot be used",
            where=place.path / ADAPTER_CONFIG_FILE,
            got=error,
            remedy="set base_model_name_or_path in that file to where the base is now",
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a `CheckpointError` naming the file."""
    try:
        value = border.read_json(path)
    except SigmaError as error:
        got = error.what if error.got is None else error.got
        raise CheckpointError("a file of the checkpoint cannot be read", where=path, got=got) from error
    if not isinstance(value, dict):
        raise CheckpointError("a file of the checkpoint is not an object", where=path, got=type(value).__name__)
    return value


def _read_config(path: Path) -> PI05Config:
    values = read_json(path)
    kind = values.pop("type", None)
    if kind != "pi05":
        raise CheckpointError(
            "the checkpoint is not a pi0.5 policy",
            where=path,
            expected="type pi05",
            got=f"type {kind}",
            remedy="give a checkpoint of LeRobot's pi05 policy",
        )
    try:
        config: PI05Config = draccus.decode(PI05Config, values | {"device": "cpu"})
    except (draccus.utils.ParsingError, ValueError, TypeError) as error:
        raise CheckpointError(
            "the policy config does not fit the installed LeRobot",
            where=path,
            expected=f"the options of pi0.5 in lerobot {WRITTEN_FOR}",
            got=" ".join(str(error.__cause__ or error).split()),
            remedy="where another LeRobot wrote it, take options out that this one lacks and that are off",
        ) from error
    _refuse_sizes(config, path)
    _name_action(config, path)
    config.validate_features()
    return config


def _refuse_sizes(config: PI05Config, path: Path) -> None:
    """LeRobot takes any number for these; none of them may be nothing, or take all memory."""
    sizes = {name: getattr(config, name) for name in _SIZES} | {"image_resolution": min(config.image_resolution)}
    wrong = [f"{name} {size}" for name, size in sizes.items() if not 1 <= size <= _LARGEST_SIZE]
    if wrong:
        raise CheckpointError(
            "the policy config has an impossible size",
            where=path,
            expected=f"1 to {_LARGEST_SIZE}",
            got=", ".join(wrong),
            remedy="take the config.json that was saved with these weights",
        )


_SIZES = (
    "chunk_size",
    "n_action_steps",
    "max_state_dim",
    "max_action_dim",
    "num_inference_steps",
    "tokenizer_max_length",
)
_LARGEST_SIZE = 4096


def _name_action(config: PI05Config, path: Path) -> None:
    """Joints of a policy whose actions have another name; LeRobot adds an `action` of the padded width to them."""
    found = {key: feature for key, feature in config.output_features.items() if feature.type is FeatureType.ACTION}
    others = [key for key in found if key != ACTION]
    if not others or (ACTION in found and found[ACTION].shape != (config.max_action_dim,)):
        return
    if len(others) > 1:
        raise CheckpointError("the policy has several actions", where=path, expected=ACTION, got=", ".join(others))
    config.output_features = {ACTION: found[others[0]]}


def _refuse_without_pipelines(config: PI05Config, path: Path) -> None:
    """Without LeRobot's pipelines there is pi0.5's own normalisation alone."""
    modes = {str(kind): getattr(mode, "value", mode) for kind, mode in config.normalization_mapping.items()}
    relative = config.use_relative_actions
    wanted = {"STATE": "QUANTILES", "ACTION": "QUANTILES", "VISUAL": "IDENTITY"}
    if relative or any(modes.get(kind, mode) != mode for kind, mode in wanted.items()):
        raise CheckpointError(
            "the policy's processor pipelines are missing",
            where=path,
            expected="policy_preprocessor.json and policy_postprocessor.json beside config.json",
            got="relative actions in config.json" if relative else f"{modes} in config.json",
            remedy="copy them, with their .safetensors files, from the folder that the policy was trained into",
        )


def _own_normalisation(path: Path) -> Normalisation | None:
    own = path / NORMALISATION_FILE
    return Normalisation.from_dict(read_json(own), where=own) if own.is_file() else None


def load_tokenizer(folder: BaseFolder, tokenizer: str | None = None) -> PreTrainedTokenizerBase:
    """The argument's, else $SIGMA_TOKENIZER's, else the checkpoint's own, else the one that it names (PaliGemma's).

    Raises:
        CheckpointError: it cannot be loaded (PaliGemma's is gated), or has more tokens than the model.
    """
    own = str(folder.path) if (folder.path / "tokenizer.json").is_file() else None
    named = folder.tokenizer if folder.tokenizer != PALIGEMMA_TOKENIZER else None
    return open_tokenizer(tokenizer, own=own or named, vocabulary=folder.sizes.vocabulary)


def open_tokenizer(place: str | None, *, own: str | None, vocabulary: int) -> PreTrainedTokenizerBase:
    """The tokenizer at `place`, else $SIGMA_TOKENIZER, else `own`, else PaliGemma's from the Hub; see above."""
    place = place or os.environ.get(TOKENIZER_ENV) or own or PALIGEMMA_TOKENIZER
    try:
        loaded = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exceptions, transformers ImportError too
        raise CheckpointError(
            "the tokenizer cannot be loaded",
            where=place,
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            remedy=f"{PALIGEMMA_TOKENIZER} is gated: accept its licence on the Hub and log in, "
            f"or give a folder with its tokenizer files by --tokenizer or {TOKENIZER_ENV}",
        ) from error
    if len(loaded) > vocabulary or loaded.pad_token_id is None:
        raise CheckpointError(
            "the tokenizer does not belong to the model",
            where=place,
            expected=f"at most {vocabulary} tokens and a padding token",
            got=f"{len(loaded)} tokens, padding {loaded.pad_token}",
            remedy=f"give the model's own tokenizer by --tokenizer or {TOKENIZER_ENV}",
        )
    return loaded
