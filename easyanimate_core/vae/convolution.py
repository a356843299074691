"""3-D convolutions, and doubling the sides and frames, by the kernel and in the memory layout that is fastest."""

import torch
import torch.nn.functional as F
from torch import nn

from ..layer_weights import weights_of
from ..onednn import onednn_runs


def fast_layout(x: torch.Tensor) -> torch.Tensor:
    """Return ``x [B, C, t, h, w]`` in the layout that :func:`convolve` is fastest in; the values stay."""
    # Not `to`, which leaves some frames of several clips as they are, with gaps between the clips.
    return x.contiguous(memory_format=torch.channels_last_3d) if onednn_runs(x) else x


def convolve(conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return ``conv(x)`` for ``x [B, C, t, h, w]``."""
    if onednn_runs(x) and (weights := weights_of(conv, x.device, x.dtype)) is not None:
        return _onednn(x, *weights, conv.stride, conv.padding)
    return conv(x)


def convolve_doubled(conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return ``conv(x with both sides doubled by nearest neighbour)`` for a 3x3x3 convolution.

    Each pixel of ``x`` appears four times, so of the nine places of the kernel in a picture those on the same pixel
    are added up first: four convolutions with 2x2 places, one for each pixel of a square, in place of one with 3x3
    on four times the pixels take 4/9 of the multiplications.

    Parameters
    ----------
    conv : nn.Module
        3x3x3, stride 1, padding 1.
    x : torch.Tensor
        Shape ``[B, C, t, h, w]``.

    Returns
    -------
    torch.Tensor
        Shape ``[B, C_out, t, 2h, 2w]``.
    """
    weights = weights_of(conv, x.device, x.dtype) if onednn_runs(x) else None
    if weights is None:
        return conv(F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest"))
    weight, bias = weights
    batch, _, frames, height, width = x.shape
    out = torch.empty(
        (batch, weight.shape[0], frames, 2 * height, 2 * width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last_3d,
    )
    for row in range(2):
        for column in range(2):
            folded = _fold(_fold(weight, 3, row), 4, column)
            phase = _onednn(x, folded, bias, (1, 1, 1), (1, 1, 1))
            # Padding both sides gives one row and column more than a 2x2 kernel has use for.
            out[..., row::2, column::2] = phase[..., row : row + height, column : column + width]
    return out


def double_frames(x: torch.Tensor) -> torch.Tensor:
    """Return ``x [B, C, t, h, w]`` with twice the frames, by linear interpolation, in the fast layout."""
    if not onednn_runs(x):
        return F.interpolate(x, scale_factor=(2, 1, 1), mode="trilinear", align_corners=False)
    batch, channels, frames, height, width = x.shape
    out = torch.empty(
        (batch, channels, 2 * frames, height, width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last_3d,
    )
    # Frames 0.25 before and after each of the old ones; the first and the last have nothing beyond.
    before, after = x[:, :, :-1], x[:, :, 1:]
    torch.lerp(before, after, 0.25, out=out[:, :, 1:-1:2])
    torch.lerp(before, after, 0.75, out=out[:, :, 2::2])
    out[:, :, 0], out[:, :, -1] = x[:, :, 0], x[:, :, -1]
    return out


def _fold(weight: torch.Tensor, dim: int, second: int) -> torch.Tensor:
    """Add up the places of a kernel of 3 that fall on the same pixel, for the first or second pixel of a pair."""
    before, middle, after = weight.split(1, dim)
    pair = (before + middle, after) if second else (before, middle + after)
    return torch.cat(pair, dim)


def _onednn(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> torch.Tensor:
    # Called by name, since torch itself gives small clips to a kernel of one thread.
    return torch.mkldnn_convolution(x, weight, bias, padding, stride, (1, 1, 1), 1)
