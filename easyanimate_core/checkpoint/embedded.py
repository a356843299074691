"""A transformer's configuration inside a state dict, for hosts that save tensors and no metadata of ours."""

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch

from ..errors import CheckpointError
from ..values import MAX_CONFIG_BYTES, json_object

CONFIG_NAME = "easyanimate_config"


def config_tensor(config: Mapping[str, Any]) -> torch.Tensor:
    """Return a configuration as the bytes of its JSON: uint8, shape ``[length]``."""
    return torch.frombuffer(bytearray(json.dumps(config).encode()), dtype=torch.uint8)


def take_config(state_dict: MutableMapping[str, torch.Tensor]) -> dict[str, Any] | None:
    """Take the configuration out of a state dict; None where it has none, or none that can be read."""
    stored = state_dict.pop(CONFIG_NAME, None)
    if stored is None or stored.dtype != torch.uint8 or stored.ndim != 1:
        return None
    return readable_config(stored.numpy().tobytes() if len(stored) <= MAX_CONFIG_BYTES else b"")


def readable_config(text: str | bytes | None) -> dict[str, Any] | None:
    """Return the configuration that a file carries as JSON; None where it is none, or longer than any."""
    if not text or len(text) > MAX_CONFIG_BYTES:
        return None
    try:
        return json_object(text, CONFIG_NAME)
    except CheckpointError:
        return None
