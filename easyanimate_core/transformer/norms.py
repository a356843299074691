"""Norms of the motion module, whose weights are float32 in models of any dtype."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..layer_weights import weights_of


def affine_layer_norm(norm: nn.Module, x: torch.Tensor, plus: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``norm(x)``, plus a tensor that is added in float32 before the result is rounded.

    Parameters
    ----------
    norm : nn.Module
        LayerNorm with float32 weights.
    x : torch.Tensor
        ``[..., dim]``.
    plus : torch.Tensor, optional
        Float32, broadcasts to ``x``.

    Returns
    -------
    torch.Tensor
        Of the shape and dtype of ``x``.
    """
    fused = x.dtype != torch.float32 and not torch.is_grad_enabled()
    weights = weights_of(norm, x.device, torch.float32) if fused else None
    if weights is None:
        normed = norm(x.float())
        if plus is not None:
            normed = normed + plus if torch.is_grad_enabled() else normed.add_(plus)
        return normed.to(x.dtype)
    # The norm itself computes in float32; only its result is rounded, once before and once after the affine part.
    weight, bias = weights
    normed = F.layer_norm(x, norm.normalized_shape, eps=norm.eps)
    return torch.addcmul(bias if plus is None else bias + plus, normed, weight, out=normed)


def frame_group_norm(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Normalise each frame by itself, and sort the tokens by position and then by frame.

    Parameters
    ----------
    norm : nn.Module
        GroupNorm over ``dim`` channels with float32 weights.
    x : torch.Tensor
        ``[batch, frames, tokens, dim]``.

    Returns
    -------
    torch.Tensor
        ``[batch, tokens, frames, dim]``, contiguous, of the dtype of ``x``.
    """
    batch, frames, tokens, dim = x.shape
    fused = x.device.type != "cpu" and not torch.is_grad_enabled()
    weights = weights_of(norm, x.device, torch.float32) if fused else None
    if weights is None:
        normed = norm(x.flatten(0, 1).transpose(1, 2).float()).to(x.dtype)
        return normed.view(batch, frames, dim, tokens).permute(0, 3, 1, 2).contiguous()
    # Sums in float32 without a float32 copy of the tokens, which the stock kernel would have to transpose too.
    grouped = x.unflatten(3, (norm.num_groups, -1))
    count = tokens * grouped.shape[4]
    mean = grouped.sum((2, 4), dtype=torch.float32) / count
    square = torch.linalg.vector_norm(grouped, dim=(2, 4), dtype=torch.float32).square() / count
    rstd = (square - mean.square()).clamp_(min=0).add_(norm.eps).rsqrt_()
    weight, bias = (value.view(norm.num_groups, -1) for value in weights)
    scale = rstd[..., None] * weight
    shift = bias - mean[..., None] * scale
    scale, shift = (value.flatten(2)[:, :, None] for value in (scale, shift))
    if torch.compiler.is_compiling() or x.device.type not in ("cuda", "meta"):
        # Compilers refuse a result with strides, and fuse this by themselves.
        return torch.addcmul(shift, x, scale).to(x.dtype).transpose(1, 2).contiguous()
    out = x.new_empty(batch, tokens, frames, dim)
    torch.addcmul(shift, x, scale, out=out.transpose(1, 2))
    return out
