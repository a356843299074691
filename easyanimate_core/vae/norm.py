"""GroupNorm over a slice, in either memory layout."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ..layer_weights import weights_of

# Small enough to stay in the caches of a CPU's cores between two passes.
_CACHED_VALUES = 2**18
# Pixels whose sums are kept apart, since torch adds up one by one and so loses digits in long sums.
_APART = 32
# Pixels whose mean is taken off before anything is added up.
_ORIGIN_PIXELS = 16


def group_norm(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return ``norm(x)`` for ``x [B, C, t, h, w]`` in the layout of ``x``."""
    return _channels_last(norm, x) if _is_channels_last(x) else norm(x)


def norm_silu(norm: nn.Module, x: torch.Tensor, overwrite: bool = False) -> torch.Tensor:
    """Return ``silu(norm(x))``; with ``overwrite``, ``x`` is of no more use and its memory may be taken."""
    if _is_channels_last(x):
        return _channels_last(norm, x, silu=True, overwrite=overwrite)
    return F.silu(norm(x), inplace=not torch.is_grad_enabled())


def _is_channels_last(x: torch.Tensor) -> bool:
    """Tell whether ``x`` comes from :func:`.convolution.fast_layout` on a CPU."""
    strided = x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous()
    exact = x.dtype in (torch.float32, torch.float64)
    return strided and exact and x.device.type == "cpu" and not torch.is_grad_enabled()


def _channels_last(
    norm: nn.Module, x: torch.Tensor, silu: bool = False, overwrite: bool = False
) -> torch.Tensor:
    """GroupNorm by way of the channels' own means and variances, in parts that stay in the cache.

    torch's own kernel for this layout takes the variance as the difference of two large sums, which is off by a
    thousandth where a picture is nearly even, as the black frames of a masked video are.
    """
    weights = weights_of(norm, x.device, x.dtype)
    if weights is None:
        out = norm(x.contiguous()).to(memory_format=torch.channels_last_3d)
        return F.silu(out, inplace=True) if silu else out
    weight, bias = (value.view(norm.num_groups, -1) for value in weights)
    out = x if overwrite else torch.empty_like(x)
    for clip, result in zip(_pixels(x), _pixels(out), strict=True):
        mean, variance = (value.view(norm.num_groups, -1) for value in _moments(clip))
        centre = mean.mean(1, keepdim=True)
        spread = variance.mean(1, keepdim=True) + (mean - centre).square().mean(1, keepdim=True)
        scale = (spread + norm.eps).rsqrt() * weight
        shift = (bias - centre * scale).flatten()
        scale = scale.flatten()
        for part, target in zip(_cached(clip), _cached(result), strict=True):
            torch.addcmul(shift, part, scale, out=target)
            if silu:
                F.silu(target, inplace=True)
    return out


def _pixels(x: torch.Tensor) -> torch.Tensor:
    """View ``[B, C, t, h, w]`` in the channels-last layout as ``[B, pixels, C]``."""
    return x.movedim(1, -1).flatten(1, 3)


def _cached(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return rows.split(max(_CACHED_VALUES // rows.shape[1], 1))


def _moments(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance of each channel of ``[pixels, C]``."""
    origin = pixels[:: -(-len(pixels) // _ORIGIN_PIXELS)].mean(0)
    apart = math.gcd(len(pixels), _APART)
    origins = origin.repeat(apart)
    parts = _cached(pixels.view(-1, apart * len(origin)))
    statistics = [torch.batch_norm_update_stats((part - origins)[..., None], None, None, 0) for part in parts]
    # Of each part and each pixel apart in it: [parts, apart, C].
    offsets, variances = (
        torch.stack(values).unflatten(1, (apart, -1)) for values in zip(*statistics, strict=True)
    )
    shares = offsets.new_tensor([len(part) / len(pixels) for part in parts])[:, None, None]
    offset = (offsets * shares).sum((0, 1))
    variance = ((variances + (offsets - offset).square()) * shares).sum((0, 1))
    return origin + offset, variance
