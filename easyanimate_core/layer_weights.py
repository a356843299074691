"""The weights of a layer, ready for use, for code that computes with them instead of calling the layer."""

from collections.abc import Callable

import torch
import torch.nn as nn

Weights = tuple[torch.Tensor, torch.Tensor | None]
# Takes a layer, and the device and dtype to compute in.
WeightsFunction = Callable[[nn.Module, torch.device, torch.dtype], Weights]

_functions: dict[type[nn.Module], WeightsFunction] = {}


def register_layer(kind: type[nn.Module], function: WeightsFunction) -> None:
    """Say how to get the weights of layers of exactly the class ``kind``, such as a host that casts them on use."""
    _functions[kind] = function


def weights_of(layer: nn.Module, device: torch.device, dtype: torch.dtype) -> Weights | None:
    """Return weight and bias of ``layer`` on ``device`` in ``dtype``.

    Returns
    -------
    (torch.Tensor, torch.Tensor or None) or None
        None where the layer has to be called: it has hooks or another ``forward``, or nobody knows its class.
    """
    function = _functions.get(type(layer))
    replaced = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
    if function is None or replaced:
        return None
    return function(layer, device, dtype)


def _stored(layer: nn.Module, device: torch.device, dtype: torch.dtype) -> Weights:
    bias = None if layer.bias is None else layer.bias.to(device, dtype)
    return layer.weight.to(device, dtype), bias


for _kind in (nn.Linear, nn.Conv3d, nn.GroupNorm, nn.LayerNorm):
    register_layer(_kind, _stored)
