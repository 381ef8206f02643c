# SPDX-License-Identifier: Apache-2.0
"""A policy that lerobot-train fine-tuned with PEFT: adapters beside a base, merged into it when it is loaded."""

from pathlib import Path
from typing import Any

import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from peft import LoraConfig, PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from sigma_ros.errors import CheckpointError
from sigma_ros.model.weights_file import FLOAT_TYPES, list_tensors

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"


def read_adapter_config(folder: Path) -> LoraConfig:
    """What `adapter_config.json` says.

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
    problems = [f"missing {name}" for name in sorted(wanted.keys() - stored.keys())]
    problems += [f"unexpected {name}" for name in sorted(stored.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & stored.keys()):
        if stored[name].shape != tuple(wanted[name].shape) or stored[name].dtype not in FLOAT_TYPES:
            problems.append(f"{name}: expected {tuple(wanted[name].shape)}, got {stored[name].shape}")
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
