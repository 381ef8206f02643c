# SPDX-License-Identifier: Apache-2.0
"""What lies in a pi0.5 checkpoint besides its weights: policy config, network sizes, statistics, tokenizer.

A folder is LeRobot's (`config.json`, `model.safetensors`, `policy_preprocessor.json`) and may also hold our
`sigma_base.json` (sizes of a smaller network, whether it was trained) and `normalisation.json`.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import draccus
import httpx
import numpy as np
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from safetensors.numpy import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sigma_ros import border
from sigma_ros.errors import CheckpointError, SigmaError, UsageError
from sigma_ros.model.normalise import Normalisation, Quantiles
from sigma_ros.model.sizes import FULL, Sizes
from sigma_ros.model.weights_file import list_tensors

CONFIG_FILE = "config.json"
OWN_FILE = "sigma_base.json"
NORMALISATION_FILE = "normalisation.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MINI_NAME = "mini"
"""The small model that ships with the package, wherever it is installed."""
TOKENIZER_ENV = "SIGMA_TOKENIZER"
PALIGEMMA_TOKENIZER = "google/paligemma-3b-pt-224"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILES = ("*.json", "*.safetensors", "tokenizer*")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFolder:
    """A checkpoint on this disk. `source` is what the user wrote, `revision` the Hub commit or None."""

    path: Path
    source: str
    revision: str | None
    config: PI05Config
    sizes: Sizes
    trained: bool
    normalisation: Normalisation | None


def open_base_folder(source: str | Path, *, revision: str | None = None) -> BaseFolder:
    """Finds a checkpoint (`mini`, folder, or Hub id + revision) and reads everything but weights and tokenizer.

    Raises:
        UsageError: `source` is neither a folder nor shaped like a Hub id.
        CheckpointError: it cannot be fetched, or one of its files is missing or senseless.
    """
    path, commit = _locate(str(source), revision)
    own = read_json(path / OWN_FILE) if (path / OWN_FILE).is_file() else {}
    return BaseFolder(
        path=path,
        source=str(source),
        revision=commit,
        config=_read_config(path / CONFIG_FILE),
        sizes=Sizes.from_dict(own["sizes"]) if "sizes" in own else FULL,
        trained=bool(own.get("trained", True)),
        normalisation=_read_normalisation(path),
    )


def _locate(source: str, revision: str | None) -> tuple[Path, str | None]:
    path = shipped_mini_dir() if source == MINI_NAME else Path(source).expanduser()
    if path.is_dir():
        if revision is not None:
            raise UsageError("a revision belongs to a Hub id", where=source, got=f"a folder and revision {revision}")
        return path, None
    if not _HUB_ID.fullmatch(source):
        raise UsageError(
            "no such checkpoint",
            where=source,
            expected="a folder, or a Hub id such as lerobot/pi05_base",
            remedy="give an existing folder, or `mini` for the model that ships with the package",
        )
    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=list(_HUB_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        raise CheckpointError(
            "the checkpoint cannot be fetched from the Hub",
            where=f"{source}@{revision or 'main'}",
            got=f"{type(error).__name__}: {error}".splitlines()[0],
            remedy="check name, revision, network and access, or give a local folder",
        ) from error
    return folder, folder.name


def shipped_mini_dir() -> Path:
    """Folder of the small base that ships with the package (source tree or install space)."""
    return _shipped("mini", CONFIG_FILE)


def checkpoint_folder(checkpoint: str | Path) -> Path:
    """Where a checkpoint's files are: `mini` is the Sigma that ships with the package, trained on the base `mini`."""
    return _shipped("mini_sigma", "sigma_config.json") if checkpoint == MINI_NAME else Path(checkpoint).expanduser()


def _shipped(name: str, file: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    candidates = [package / "assets" / name]
    candidates += [parent / "share" / "sigma_ros" / "assets" / name for parent in package.parents]
    for candidate in candidates:
        if (candidate / file).is_file():
            return candidate
    raise CheckpointError(
        "the small model that ships with the package was not found",
        expected=candidates[0],
        remedy="install the package again, or make one with: sigma model make-mini --out DIR",
    )


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
    except (draccus.utils.DecodingError, ValueError, TypeError) as error:
        raise CheckpointError(
            "the policy config does not fit the installed LeRobot", where=path, got=" ".join(str(error).split())
        ) from error
    config.validate_features()
    _refuse_unsupported(config, path)
    return config


def _refuse_unsupported(config: PI05Config, path: Path) -> None:
    modes = {str(kind): getattr(mode, "value", mode) for kind, mode in config.normalization_mapping.items()}
    if modes.get("STATE") != "QUANTILES" or modes.get("ACTION") != "QUANTILES":
        raise CheckpointError(
            "the policy normalises in a way that is not supported",
            where=path,
            expected="STATE and ACTION by QUANTILES",
            got=modes,
            remedy="train the policy with pi0.5's default normalisation",
        )
    if config.use_relative_actions:
        raise CheckpointError(
            "policies with relative actions are not supported", where=path, expected="use_relative_actions false"
        )


def _read_normalisation(path: Path) -> Normalisation | None:
    """Ours, else LeRobot's pre-processor's; None where the checkpoint has none (as pi05_base)."""
    own = path / NORMALISATION_FILE
    if own.is_file():
        return Normalisation.from_dict(read_json(own), where=own)
    pipeline = path / "policy_preprocessor.json"
    if not pipeline.is_file():
        return None
    names = [step["state_file"] for step in read_json(pipeline).get("steps", []) if step.get("state_file")]
    for name in names:
        file = path / Path(name).name
        list_tensors(file)
        values = load_file(file)
        if {"observation.state.q01", "observation.state.q99", "action.q01", "action.q99"} <= set(values):
            return Normalisation(state=_quantiles(values, "observation.state"), action=_quantiles(values, "action"))
    return None


def _quantiles(values: dict[str, np.ndarray], key: str) -> Quantiles:
    return Quantiles(q01=values[f"{key}.q01"].astype(np.float64), q99=values[f"{key}.q99"].astype(np.float64))


def load_tokenizer(folder: BaseFolder, tokenizer: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer: the argument, else $SIGMA_TOKENIZER, else the checkpoint's own, else PaliGemma's from the Hub.

    Raises:
        CheckpointError: it cannot be loaded (PaliGemma's is gated), or has more tokens than the model.
    """
    own = folder.path if (folder.path / "tokenizer.json").is_file() else None
    place = tokenizer or os.environ.get(TOKENIZER_ENV) or own or PALIGEMMA_TOKENIZER
    try:
        loaded = AutoTokenizer.from_pretrained(str(place), trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exceptions, transformers ImportError too
        raise CheckpointError(
            "the tokenizer cannot be loaded",
            where=place,
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            remedy=f"{PALIGEMMA_TOKENIZER} is gated: accept its licence on the Hub and log in, "
            f"or give a folder with its tokenizer files by --tokenizer or {TOKENIZER_ENV}",
        ) from error
    if len(loaded) > folder.sizes.vocabulary or loaded.pad_token_id is None:
        raise CheckpointError(
            "the tokenizer does not belong to the model",
            where=place,
            expected=f"at most {folder.sizes.vocabulary} tokens and a padding token",
            got=f"{len(loaded)} tokens, padding {loaded.pad_token}",
            remedy=f"give the model's own tokenizer by --tokenizer or {TOKENIZER_ENV}",
        )
    return loaded
