"""The decoder half of the Slice VAE, for one slice and the neighbours that it may see."""

import torch
from torch import nn

from .config import SPATIAL_TEMPORAL_UP, SliceVAEConfig
from .convolution import convolve, fast_layout
from .layers import LayerFactory, MidBlock, ResidualBlock, Upsampler
from .norm import norm_silu


class UpBlock(nn.Module):
    """ResNet blocks of one level, then the upsampler on every level but the last."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        count: int,
        upsampler: nn.Module | None,
        layers: LayerFactory,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            ResidualBlock(in_channels if i == 0 else out_channels, out_channels, layers) for i in range(count)
        )
        self.upsampler = upsampler

    def forward(self, x: torch.Tensor, image: bool) -> torch.Tensor:
        """Map ``[B, C_in, t, h, w]`` to the next level's channels and size; an image keeps its single frame."""
        for conv in self.convs:
            x = conv(x)
        return x if self.upsampler is None else self.upsampler(x, image)


class Decoder(nn.Module):
    """Turns the latents of one slice (after ``post_quant_conv``) into its pixels."""

    def __init__(self, config: SliceVAEConfig, layers: LayerFactory) -> None:
        super().__init__()
        channels = config.channels[::-1]
        last = len(channels) - 1
        self.conv_in = layers.conv(config.latent_channels, channels[0])
        self.mid_block = MidBlock(channels[0], config.layers_per_block - 1, layers)
        self.up_blocks = nn.ModuleList()
        for level, (width, kind) in enumerate(zip(channels, config.up_block_types, strict=True)):
            upsampler = Upsampler(width, kind == SPATIAL_TEMPORAL_UP, layers) if level < last else None
            self.up_blocks.append(
                UpBlock(channels[max(level - 1, 0)], width, config.layers_per_block + 1, upsampler, layers)
            )
        self.conv_norm_out = layers.norm(channels[-1])
        self.conv_out = layers.conv(channels[-1], config.out_channels)

    def forward(self, z: torch.Tensor, start: int, end: int, image: bool) -> torch.Tensor:
        """Decode latent frames ``start`` to ``end`` of ``z``.

        Parameters
        ----------
        z : torch.Tensor
            Shape ``[B, latent channels, t, h, w]``: the slice and its neighbours, which only the mid block sees.
        start, end : int
            Where the slice lies in ``z``.
        image : bool
            True for a lone first latent, which decodes to one frame.

        Returns
        -------
        torch.Tensor
            Pixels ``[B, 3, f, H, W]`` of the slice.
        """
        x = self.mid_block(convolve(self.conv_in, fast_layout(z)))[:, :, start:end]
        x = fast_layout(x)
        for block in self.up_blocks:
            x = block(x, image)
        return convolve(self.conv_out, norm_silu(self.conv_norm_out, x, overwrite=True))
