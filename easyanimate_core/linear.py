"""Linear layers together with what follows them: one pass over the result on CPUs, no second copy elsewhere."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from .layer_weights import weights_of
from .onednn import onednn_runs


def linear(
    layer: nn.Module,
    x: torch.Tensor,
    *,
    gelu: str | None = None,
    plus: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return ``layer(x)``, then with GELU, or plus a tensor.

    Parameters
    ----------
    layer : nn.Module
        A linear layer of any ``operations``.
    x : torch.Tensor
        ``[..., in_features]``.
    gelu : str, optional
        ``"none"`` (exact) or ``"tanh"``, as ``torch.nn.functional.gelu`` calls them.
    plus : torch.Tensor, optional
        ``[..., out_features]``, contiguous; not together with ``gelu``. May be overwritten where gradients are off.

    Returns
    -------
    torch.Tensor
        ``[..., out_features]``; may be ``plus`` itself.
    """
    if onednn_runs(x) and (weights := weights_of(layer, x.device, x.dtype)) is not None:
        return _onednn_linear(*weights, x, gelu=gelu, plus=plus)
    out = layer(x)
    if torch.is_grad_enabled():
        out = out if gelu is None else F.gelu(out, approximate=gelu)
        return out if plus is None else out + plus
    if gelu is not None:
        torch.ops.aten.gelu_(out, approximate=gelu)
    # Into the memory of `plus`, which callers go on holding, so that no second tensor of its size stays.
    return out if plus is None else plus.add_(out)


def gated_linear(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the first half of ``layer(x)`` times the exact GELU of its second half.

    Parameters
    ----------
    layer : nn.Module
        A linear layer of any ``operations``.
    x : torch.Tensor
        ``[..., in_features]``.

    Returns
    -------
    torch.Tensor
        ``[..., out_features / 2]``; without gradients and fused kernels a view of the layer's result.
    """
    if onednn_runs(x) and (weights := weights_of(layer, x.device, x.dtype)) is not None:
        weight, bias = weights
        halves = weight.chunk(2), (None, None) if bias is None else bias.chunk(2)
        (value_weight, gate_weight), (value_bias, gate_bias) = halves
        gate = _onednn_linear(gate_weight, gate_bias, x, gelu="none")
        return _onednn_linear(value_weight, value_bias, x, times=gate)
    value, gate = layer(x).chunk(2, dim=-1)
    if torch.is_grad_enabled():
        return value * F.gelu(gate)
    return value.mul_(torch.ops.aten.gelu_(gate))


def _onednn_linear(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    x: torch.Tensor,
    *,
    gelu: str | None = None,
    times: torch.Tensor | None = None,
    plus: torch.Tensor | None = None,
) -> torch.Tensor:
    run = torch.ops.mkldnn._linear_pointwise
    if times is not None:
        return run.binary(x, times, weight, bias, "mul")
    if plus is not None:
        return run.binary(x, plus, weight, bias, "add")
    if gelu is not None:
        return run(x, weight, bias, "gelu", [], gelu)
    return run(x, weight, bias, "none", [], "")
