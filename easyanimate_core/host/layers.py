"""Tells the core how to get the weights of ComfyUI's layers, which may cast, move and patch them on every use."""

import comfy.ops
import torch
import torch.nn as nn

from ..layer_weights import Weights, register_layer
from .internals import cast_weights

_KINDS = ("Linear", "Conv3d", "GroupNorm", "LayerNorm")


def register_host_layers() -> None:
    """Register the layers of ComfyUI's plain and casting ``operations``; others, such as fp8's, are always called."""
    for operations in (comfy.ops.disable_weight_init, comfy.ops.manual_cast):
        for kind in _KINDS:
            register_layer(getattr(operations, kind), _weights)


def _weights(layer: nn.Module, device: torch.device, dtype: torch.dtype) -> Weights:
    return cast_weights(layer, device, dtype)
