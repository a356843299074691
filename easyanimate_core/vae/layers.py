"""Building blocks that the Slice VAE's encoder and decoder share."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..attention import AttentionFunction
from .convolution import convolve, convolve_doubled, double_frames
from .norm import group_norm, norm_silu

NORM_EPS = 1e-6


@dataclass(frozen=True)
class LayerFactory:
    """Makes the primitive layers, so that a host can bring its own (ComfyUI's ``operations``).

    Parameters
    ----------
    operations : Any
        Namespace with ``Conv3d``, ``GroupNorm`` and ``Linear``, such as ``torch.nn``.
    groups : int
        Groups of each GroupNorm.
    attention : callable
        ``attention(q, k, v, heads=1)`` on ``[batch, tokens, channels]``.
    dtype, device : optional
        Of the parameters.
    """

    operations: Any
    groups: int
    attention: AttentionFunction
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: tuple[int, int, int] | int = 1,
        padding: tuple[int, int, int] | int = 1,
    ) -> nn.Module:
        """Return a 3-D convolution over ``[B, C, frames, height, width]``, zero-padded in time and space."""
        return self.operations.Conv3d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dtype=self.dtype,
            device=self.device,
        )

    def pointwise(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return a 1x1x1 convolution."""
        return self.conv(in_channels, out_channels, kernel_size=1, padding=0)

    def norm(self, channels: int) -> nn.Module:
        """Return a GroupNorm; its statistics span all frames of a slice."""
        return self.operations.GroupNorm(
            self.groups, channels, eps=NORM_EPS, dtype=self.dtype, device=self.device
        )

    def linear(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return a linear layer with bias."""
        return self.operations.Linear(in_channels, out_channels, dtype=self.dtype, device=self.device)


class ResidualBlock(nn.Module):
    """Two normalised 3x3x3 convolutions around a shortcut, on ``[B, C, t, h, w]``."""

    def __init__(self, in_channels: int, out_channels: int, layers: LayerFactory) -> None:
        super().__init__()
        self.norm1 = layers.norm(in_channels)
        self.conv1 = layers.conv(in_channels, out_channels)
        self.norm2 = layers.norm(out_channels)
        self.conv2 = layers.conv(out_channels, out_channels)
        self.shortcut = (
            nn.Identity() if in_channels == out_channels else layers.pointwise(in_channels, out_channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C_in, t, h, w]`` to ``[B, C_out, t, h, w]``."""
        hidden = convolve(self.conv1, norm_silu(self.norm1, x))
        hidden = convolve(self.conv2, norm_silu(self.norm2, hidden, overwrite=True))
        same = isinstance(self.shortcut, nn.Identity)
        return hidden.add_(x if same else convolve(self.shortcut, x))


class SliceAttention(nn.Module):
    """Single-head attention over all positions of all frames of a slice, with its residual."""

    def __init__(self, channels: int, layers: LayerFactory) -> None:
        super().__init__()
        self.attention = layers.attention
        self.group_norm = layers.norm(channels)
        self.to_q = layers.linear(channels, channels)
        self.to_k = layers.linear(channels, channels)
        self.to_v = layers.linear(channels, channels)
        self.to_out = layers.linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, t, h, w]`` to the same shape."""
        tokens = group_norm(self.group_norm, x).flatten(2).transpose(1, 2)
        mixed = self.attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens), heads=1)
        return x + self.to_out(mixed).transpose(1, 2).reshape(x.shape)


class MidBlock(nn.Module):
    """ResNet block, then attention and ResNet block ``count`` times, at the lowest resolution."""

    def __init__(self, channels: int, count: int, layers: LayerFactory) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ResidualBlock(channels, channels, layers) for _ in range(count + 1))
        self.attentions = nn.ModuleList(SliceAttention(channels, layers) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, t, h, w]`` to the same shape."""
        x = self.convs[0](x)
        for attention, conv in zip(self.attentions, self.convs[1:], strict=True):
            x = conv(attention(x))
        return x


class Downsampler(nn.Module):
    """Halves the sides, and with ``temporal`` the frames; one frame stays one frame."""

    def __init__(self, channels: int, temporal: bool, layers: LayerFactory) -> None:
        super().__init__()
        self.conv = layers.conv(channels, channels, stride=(1 + temporal, 2, 2), padding=(1, 0, 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, t, h, w]`` to ``[B, C, t or ceil(t/2), h/2, w/2]``; pads one row and column at the end."""
        return convolve(self.conv, F.pad(x, (0, 1, 0, 1)))


class Upsampler(nn.Module):
    """Doubles the sides, and with ``temporal`` the frames unless the slice is a single image."""

    def __init__(self, channels: int, temporal: bool, layers: LayerFactory) -> None:
        super().__init__()
        self.temporal = temporal
        self.conv = layers.conv(channels, channels)

    def forward(self, x: torch.Tensor, image: bool) -> torch.Tensor:
        """Map ``[B, C, t, h, w]`` to ``[B, C, t or 2t, 2h, 2w]``: nearest in space, convolution, linear in time."""
        x = convolve_doubled(self.conv, x)
        return double_frames(x) if self.temporal and not image else x
