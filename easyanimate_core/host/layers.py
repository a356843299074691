"""Tells the core how to get the weights of ComfyUI's layers, which may cast, move and patch them on every use."""

import comfy.ops
import torch
import torch.nn as nn

from ..layer_weights import Weights, register_layer

_KINDS = ("Linear", "Conv3d", "GroupNorm", "LayerNorm")


def register_host_layers() -> None:
    """Register the layers of ComfyUI's plain and casting ``operations``; others, such as fp8's, are always called."""
    for operations in (comfy.ops.disable_weight_init, comfy.ops.manual_cast):
        for kind in _KINDS:
            register_layer(getattr(operations, kind), _weights)


def _weights(layer: nn.Module, device: torch.device, dtype: torch.dtype) -> Weights:
    # As the layers themselves do, so that a cancel is noticed.
    comfy.ops.run_every_op()
    return comfy.ops.cast_bias_weight(layer, dtype=dtype, device=device, bias_dtype=dtype)
