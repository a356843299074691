"""Everything that turns raw inputs into tokens: patches, positions, timesteps, text and CLIP projections."""

import functools
import math
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..rows import row_by_row

TIMESTEP_CHANNELS = 256
MAX_PERIOD = 10000.0


# Made once for a size, outside inference mode, so that a later run with gradients may use them too.
@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)
def frame_sinusoids(frames: int, dim: int, device: torch.device | None = None) -> torch.Tensor:
    """Table of the motion modules: even channels hold the sine, odd ones the cosine of the frame index.

    Returns
    -------
    torch.Tensor
        Shape ``[frames, dim]``, float32. The release stores 4096 rows of it in every motion attention.
    """
    frequencies = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(MAX_PERIOD) / dim))
    angles = torch.arange(frames, device=device)[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


# Of two sizes, as a run that ends at a higher resolution has; ComfyUI cannot free them (17 MB at 720x1280).
@functools.lru_cache(maxsize=2)
@torch.inference_mode(False)
def grid_sinusoids(height: int, width: int, dim: int, base_grid: float, device: torch.device) -> torch.Tensor:
    """Fixed two-dimensional position table of the patches (PixArt-alpha's, stretched to the grid).

    Parameters
    ----------
    height, width : int
        Token grid of one frame.
    dim : int
        Channels; the first half encodes the column, the second the row, each as ``[sin | cos]``.
    base_grid : float
        Extent that both axes are scaled to, so that any size spans the positions seen in training.
    device : torch.device
        Where the table is kept for the next call.

    Returns
    -------
    torch.Tensor
        Shape ``[height * width, dim]``, float32, rows first.
    """
    frequencies = MAX_PERIOD ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))

    def axis(size: int) -> torch.Tensor:
        angles = (torch.arange(size, dtype=torch.float64) * base_grid / size)[:, None] * frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=1)

    columns = axis(width).expand(height, width, dim // 2)
    rows = axis(height)[:, None].expand(height, width, dim // 2)
    return torch.cat((columns, rows), dim=-1).flatten(0, 1).float().to(device)


def timestep_sinusoids(timestep: torch.Tensor) -> torch.Tensor:
    """Sinusoids of the diffusion timestep, cosines first.

    Parameters
    ----------
    timestep : torch.Tensor
        Shape ``[batch]``, in 0..999, fractions allowed.

    Returns
    -------
    torch.Tensor
        Shape ``[batch, 256]``, float32.
    """
    half = TIMESTEP_CHANNELS // 2
    frequencies = torch.exp(torch.arange(half, device=timestep.device) * (-math.log(MAX_PERIOD) / half))
    angles = timestep.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class PatchEmbed(nn.Module):
    """Cut each frame into patches, project them and add the position table."""

    def __init__(
        self,
        in_channels: int,
        dim: int,
        patch_size: int,
        base_grid: float,
        *,
        operations: Any,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.base_grid = base_grid
        self.proj = operations.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size, **factory)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """``[batch * frames, channels, height, width] -> [batch * frames, tokens, dim]``."""
        patches = self.proj(frames)
        _, dim, height, width = patches.shape
        table = grid_sinusoids(height, width, dim, self.base_grid, patches.device)
        return patches.flatten(2).transpose(1, 2) + table.to(patches.dtype)


class TimestepEmbedder(nn.Module):
    """Two-layer MLP on the sinusoids of the timestep."""

    def __init__(self, dim: int, *, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.linear_1 = operations.Linear(TIMESTEP_CHANNELS, dim, **factory)
        self.linear_2 = operations.Linear(dim, dim, **factory)

    def forward(self, timestep: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """``[batch] -> [batch, dim]`` in ``dtype``."""
        return self.linear_2(F.silu(self.linear_1(timestep_sinusoids(timestep).to(dtype))))


class TimestepEmbedding(nn.Module):
    """Namesake of the release's ``adaln_single.emb``, which holds nothing but the embedder."""

    def __init__(self, dim: int, *, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(dim, operations=operations, **factory)


class AdaLayerNormSingle(nn.Module):
    """PixArt-alpha's adaLN-single: one projection of the timestep that all blocks share."""

    def __init__(self, dim: int, *, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.emb = TimestepEmbedding(dim, operations=operations, **factory)
        self.linear = operations.Linear(dim, 6 * dim, **factory)

    def forward(self, timestep: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed the timestep.

        Returns
        -------
        tuple of torch.Tensor
            Shared modulation ``[batch, 6, dim]`` and the embedding ``[batch, dim]`` for the last norm.
        """
        embedding = row_by_row(lambda rows: self.emb.timestep_embedder(rows, dtype), timestep)
        modulation = row_by_row(lambda rows: self.linear(F.silu(rows)), embedding)
        return modulation.unflatten(1, (6, -1)), embedding


class Projection(nn.Module):
    """Two linear layers with a tanh GELU between, for text states and CLIP embeddings."""

    def __init__(self, in_features: int, out_features: int, *, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.linear_1 = operations.Linear(in_features, out_features, **factory)
        self.linear_2 = operations.Linear(out_features, out_features, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in_features] -> [..., out_features]``."""
        return self.linear_2(F.gelu(self.linear_1(x), approximate="tanh"))
