# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's own LeRobot pipelines: what they rename, how they normalise, and whether actions are relative.

The steps are LeRobot's own, made by their registered names (a class path would run foreign code). What they do to
tokens and tensors is done by `Backbone` in the same way; a pipeline that asks for anything else is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.lerobot_types import TransitionKey
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.processor import ProcessorStepRegistry
from lerobot.processor.normalize_processor import NormalizerProcessorStep, UnnormalizerProcessorStep
from lerobot.processor.relative_action_processor import RelativeActionsProcessorStep
from lerobot.utils.constants import ACTION, OBS_STATE
from numpy import ndarray
from safetensors.numpy import load_file
from torch import Tensor

from sigma_ros.errors import CheckpointError
from sigma_ros.model.normalise import NEEDED, Normalisation, Scaling
from sigma_ros.model.pi05.tensors import list_tensors
from sigma_ros.values import fitted_px

PREPROCESSOR_FILE = "policy_preprocessor.json"
POSTPROCESSOR_FILE = "policy_postprocessor.json"

_RENAME, _NORMALISE = "rename_observations_processor", "normalizer_processor"
_RELATIVE, _PROMPT = "relative_actions_processor", "pi05_prepare_state_tokenizer_processor_step"
_TOKENS, _DEVICE = "tokenizer_processor", "device_processor"
_UNNORMALISE, _ABSOLUTE = "unnormalizer_processor", "absolute_actions_processor"
_BEFORE = (_RENAME, "to_batch_processor", _RELATIVE, _NORMALISE, _PROMPT, _TOKENS, _DEVICE)
_AFTER = (_UNNORMALISE, _ABSOLUTE, _DEVICE)
"""Steps of pi0.5 in LeRobot's order; the relative ones came with 0.5 and may be absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureScaling:
    """How a policy normalises pictures by statistics of its training data.

    LeRobot does it before it fits them into the network's square, where what is below 0 or above 1 is cut and the
    border is black. Pictures of the robot are fitted first; both are linear, so cut and border come after it here.
    """

    step: NormalizerProcessorStep
    keys: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values: what makes two of them different."""
        values = {name: tensor.flatten().tolist() for name, tensor in self.step.state_dict().items()}
        return {**self.step.get_config(), "statistics": values}

    def apply(
        self,
        pictures: Float32[Tensor, "images 3 h w"],
        cameras: Int64[Tensor, " images"],
        fitted_from: Mapping[str, tuple[int, int]],
    ) -> Float32[Tensor, "images 3 h w"]:
        """Pictures in 0 .. 1, each of the policy's camera with that number, as the network's square takes them.

        `fitted_from` has height and width [px] of a camera's pictures before they were fitted.
        """
        scaled = pictures.clone()
        for place in cameras.unique().tolist():
            key, chosen = self.keys[place], (cameras == place).to(pictures.device)
            observed: Any = {TransitionKey.OBSERVATION: {key: pictures[chosen]}}
            one = self.step(observed)[TransitionKey.OBSERVATION][key]
            scaled[chosen] = one if key not in fitted_from else _cut(one, *fitted_px(*fitted_from[key], one.shape[-1]))
        return scaled


def _cut(pictures: Tensor, rows: slice, columns: slice) -> Tensor:
    cut = torch.zeros_like(pictures)
    cut[..., rows, columns] = pictures[..., rows, columns].clamp(0.0, 1.0)
    return cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Processors:
    """What a folder's pipelines do to numbers.

    Attributes:
        rename: Keys of the training data's features -> the policy's.
        normalisation: None where there are no statistics (as in pi05_base).
        relative: Joints whose actions count from the state at planning time; None where all are absolute.
        tokenizer: Name or place of the tokenizer that the pipeline names.
        pictures: None where they stay as they are, as is pi0.5's way.
    """

    rename: Mapping[str, str]
    normalisation: Normalisation | None
    relative: Bool[ndarray, " dof"] | None
    pictures: PictureScaling | None
    tokenizer: str | None


def read_processors(folder: Path, config: PI05Config, read_json: Any) -> Processors | None:
    """The pipelines of a folder; None where it has none.

    Raises:
        CheckpointError: a file is damaged, or a step does what `Backbone` would not do.
    """
    if not (folder / PREPROCESSOR_FILE).is_file():
        return None
    before = _steps(folder / PREPROCESSOR_FILE, read_json, _BEFORE, needed=(_NORMALISE, _PROMPT, _TOKENS))
    _check_tokens(before, config, folder / PREPROCESSOR_FILE)
    post_file = folder / POSTPROCESSOR_FILE
    after = _steps(post_file, read_json, _AFTER, needed=(_UNNORMALISE,)) if post_file.is_file() else {}
    normaliser = _statistics_step(NormalizerProcessorStep, before[_NORMALISE], folder)
    if _UNNORMALISE in after:
        _check_same(normaliser, _statistics_step(UnnormalizerProcessorStep, after[_UNNORMALISE], folder), post_file)
    normalisation = _normalisation(normaliser, config, folder / PREPROCESSOR_FILE)
    rename = before.get(_RENAME, {}).get("config", {}).get("rename_map", {})
    if not isinstance(rename, dict) or not all(isinstance(new, str) for new in rename.values()):
        raise CheckpointError("rename_map is no map of names", where=folder / PREPROCESSOR_FILE, got=str(rename)[:80])
    return Processors(
        rename=rename,
        normalisation=normalisation,
        relative=_relative(before, after, config, folder),
        pictures=_pictures(normaliser, config, folder / PREPROCESSOR_FILE),
        tokenizer=before[_TOKENS].get("config", {}).get("tokenizer_name"),
    )


def _steps(file: Path, read_json: Any, known: tuple[str, ...], *, needed: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    said = read_json(file).get("steps")
    entries = said if isinstance(said, list) else []
    names = [
        entry.get("registry_name") or entry.get("class")
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("config", {}), dict)
    ]
    expected = [name for name in known if name in names]
    if names != expected or not set(needed) <= set(names) or len(names) != len(entries):
        raise CheckpointError(
            "the checkpoint's processor pipeline has other steps than pi0.5's",
            where=file,
            expected=", ".join(known),
            got=", ".join(map(str, names)),
            remedy="only these steps are known to give LeRobot's chunks here; save the policy with LeRobot's own",
        )
    return {str(name): {"config": {}, **entry} for name, entry in zip(names, entries, strict=True)}


def _check_tokens(steps: Mapping[str, Mapping[str, Any]], config: PI05Config, file: Path) -> None:
    wanted: dict[str, dict[str, Any]] = {
        _PROMPT: {"task_key": "task"},
        _TOKENS: {
            "max_length": config.tokenizer_max_length,
            "task_key": "task",
            "padding": "max_length",
            "padding_side": "right",
            "truncation": True,
        },
        _DEVICE: {"float_dtype": None},
    }
    problems = [
        f"{step}.{name} {steps[step]['config'][name]!r} instead of {value!r}"
        for step, values in wanted.items()
        for name, value in values.items()
        if step in steps and steps[step]["config"].get(name, value) != value
    ]
    if problems:
        raise CheckpointError("the checkpoint's pipeline makes other tokens", where=file, got="; ".join(problems))


def _statistics_step(kind: Any, entry: Mapping[str, Any], folder: Path) -> Any:
    """LeRobot's (un)normaliser with its statistics, from a checked safetensors file."""
    try:
        step = kind(**entry["config"])
        if entry.get("state_file"):
            file = folder / Path(str(entry["state_file"])).name
            list_tensors(file)
            step.stats = _with_action(_nested(load_file(file)), step.features)
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError("a normalising step cannot be read", where=folder, got=error) from error
    return step


def _nested(values: Mapping[str, ndarray]) -> dict[str, dict[str, ndarray]]:
    found: dict[str, dict[str, ndarray]] = {}
    for name, value in values.items():
        key, _, statistic = name.rpartition(".")
        found.setdefault(key, {})[statistic] = value
    return found


def _with_action(
    stats: dict[str, dict[str, ndarray]], features: Mapping[str, PolicyFeature]
) -> dict[str, dict[str, ndarray]]:
    """The statistics of a policy's only action by LeRobot's name for it, whatever the data set called it."""
    named = [key for key, feature in features.items() if feature.type is FeatureType.ACTION and key in stats]
    return stats if ACTION in stats or len(named) != 1 else {**stats, ACTION: stats[named[0]]}


def _check_same(normaliser: Any, unnormaliser: Any, file: Path) -> None:
    """Actions must come back by the map that they went in by: the residual is a difference in that space."""
    modes = [str(step.norm_map.get(FeatureType.ACTION)) for step in (normaliser, unnormaliser)]
    ours, theirs = (dict(step.stats.get(ACTION, {})) for step in (normaliser, unnormaliser))
    same = ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    if not same or modes[0] != modes[1] or normaliser.eps != unnormaliser.eps:
        raise CheckpointError(
            "pre- and post-processor normalise actions differently",
            where=file,
            expected=f"mode {modes[0]} and the statistics of {PREPROCESSOR_FILE}",
            got=f"mode {modes[1]}, statistics {'equal' if same else 'others'}",
        )


def _normalisation(step: Any, config: PI05Config, file: Path) -> Normalisation | None:
    named = OBS_STATE in step.features and OBS_STATE in (step.normalize_observation_keys or {OBS_STATE})
    state = step.norm_map.get(FeatureType.STATE, NormalizationMode.IDENTITY) if named else NormalizationMode.IDENTITY
    action = step.norm_map.get(FeatureType.ACTION, NormalizationMode.IDENTITY)
    wanted = {OBS_STATE: state, ACTION: action}
    without = [key for key, mode in wanted.items() if mode.value != "IDENTITY" and key not in step.stats]
    if ACTION in without or (state.value == action.value == "IDENTITY" and not step.stats):
        return None
    if without:
        raise CheckpointError("the checkpoint has statistics of actions, but not of states", where=file)
    width = config.output_features[ACTION].shape[0]
    scalings = [
        _scaling(mode, step.stats.get(key, {}), step.eps, width, f"{file}: {key}") for key, mode in wanted.items()
    ]
    return Normalisation(state=scalings[0], action=scalings[1])


def _scaling(mode: NormalizationMode, stats: Mapping[str, ndarray], eps: float, width: int, where: str) -> Scaling:
    missing = [name for name in NEEDED[mode.value] if name not in stats]
    if missing:
        raise CheckpointError(f"{mode.value} needs other statistics", where=where, expected=", ".join(missing))
    kept = {name: np.asarray(value, np.float64) for name, value in stats.items() if np.ndim(value) == 1}
    kept = {name: value for name, value in kept.items() if name != "count"}
    if mode.value == "IDENTITY":
        kept = {}
    return Scaling(mode=mode.value, statistics=kept, eps=eps, width=width)


def _pictures(step: NormalizerProcessorStep, config: PI05Config, file: Path) -> PictureScaling | None:
    mode = step.norm_map.get(FeatureType.VISUAL, NormalizationMode.IDENTITY)
    stats = step.stats or {}
    scaled = {key: stats[key] for key in config.image_features if key in step.features and key in stats}
    if mode is NormalizationMode.IDENTITY or not scaled:
        return None
    for key, values in scaled.items():
        needed = [np.asarray(values.get(name, np.nan), np.float64) for name in NEEDED[mode.value]]
        if not all(np.isfinite(value).all() and value.shape in ((3,), (3, 1, 1)) for value in needed):
            raise CheckpointError(
                f"{mode.value} needs other statistics of pictures",
                where=f"{file}: {key}",
                expected=f"{' and '.join(NEEDED[mode.value])}, finite, one of each colour",
                got={name: np.asarray(value).tolist() for name, value in values.items()},
            )
    features = {key: feature for key, feature in step.features.items() if key in scaled}
    own = NormalizerProcessorStep(
        features=features,
        norm_map={FeatureType.VISUAL: mode},
        stats=scaled,
        eps=step.eps,
        normalize_observation_keys=step.normalize_observation_keys,
    )
    return PictureScaling(step=own, keys=tuple(config.image_features))


def _relative(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]], config: PI05Config, folder: Path
) -> Bool[ndarray, " dof"] | None:
    there, back = (
        bool(s.get(n, {}).get("config", {}).get("enabled")) for s, n in ((before, _RELATIVE), (after, _ABSOLUTE))
    )
    if there != back:
        raise CheckpointError(
            "actions become relative in one pipeline, but not absolute in the other",
            where=folder,
            expected=f"enabled alike in {PREPROCESSOR_FILE} and {POSTPROCESSOR_FILE}",
        )
    if not there:
        return None
    step = ProcessorStepRegistry.get(_RELATIVE)(**before[_RELATIVE]["config"])
    assert isinstance(step, RelativeActionsProcessorStep)
    return np.array(step._build_mask(config.output_features[ACTION].shape[0]), dtype=bool)  # noqa: SLF001
