"""A transformer's configuration inside a state dict, for hosts that save tensors and no metadata of ours."""

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch

CONFIG_NAME = "easyanimate_config"


def config_tensor(config: Mapping[str, Any]) -> torch.Tensor:
    """Return a configuration as the bytes of its JSON: uint8, shape ``[length]``."""
    return torch.frombuffer(bytearray(json.dumps(config).encode()), dtype=torch.uint8)


def take_config(state_dict: MutableMapping[str, torch.Tensor]) -> dict[str, Any] | None:
    """Take the configuration out of a state dict; None where it has none, or none that can be read."""
    stored = state_dict.pop(CONFIG_NAME, None)
    if stored is None or stored.dtype != torch.uint8 or stored.ndim != 1:
        return None
    try:
        config = json.loads(bytes(stored.tolist()))
    except ValueError:
        return None
    return config if isinstance(config, dict) else None
