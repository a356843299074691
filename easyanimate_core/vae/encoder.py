"""The encoder half of the Slice VAE, for one slice."""

import torch
from torch import nn

from .config import SPATIAL_TEMPORAL_DOWN, SliceVAEConfig
from .convolution import convolve, fast_layout
from .layers import Downsampler, LayerFactory, MidBlock, ResidualBlock
from .norm import norm_silu


class DownBlock(nn.Module):
    """ResNet blocks of one level, then the downsampler on every level but the last."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        count: int,
        downsampler: nn.Module | None,
        layers: LayerFactory,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            ResidualBlock(in_channels if i == 0 else out_channels, out_channels, layers) for i in range(count)
        )
        self.downsampler = downsampler

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C_in, t, h, w]`` to the next level's channels and size."""
        for conv in self.convs:
            x = conv(x)
        return x if self.downsampler is None else self.downsampler(x)


class Encoder(nn.Module):
    """Turns the pixels of one slice into the moments of its latents (before ``quant_conv``)."""

    def __init__(self, config: SliceVAEConfig, layers: LayerFactory) -> None:
        super().__init__()
        channels = config.channels
        last = len(channels) - 1
        self.conv_in = layers.conv(config.in_channels, channels[0])
        self.down_blocks = nn.ModuleList()
        for level, (width, kind) in enumerate(zip(channels, config.down_block_types, strict=True)):
            downsampler = Downsampler(width, kind == SPATIAL_TEMPORAL_DOWN, layers) if level < last else None
            self.down_blocks.append(
                DownBlock(channels[max(level - 1, 0)], width, config.layers_per_block, downsampler, layers)
            )
        self.mid_block = MidBlock(channels[-1], config.layers_per_block - 1, layers)
        self.conv_norm_out = layers.norm(channels[-1])
        self.conv_out = layers.conv(channels[-1], 2 * config.latent_channels)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Map ``[B, 3, f, H, W]`` of one slice to ``[B, 2 * latent channels, t, h, w]``."""
        x = convolve(self.conv_in, fast_layout(pixels))
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)
        return convolve(self.conv_out, norm_silu(self.conv_norm_out, x, overwrite=True))
