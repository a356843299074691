"""The published tiling of large frames: overlapping tiles, linearly blended over their overlap."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

TILE_PIXELS = 384


@dataclass(frozen=True)
class Tiling:
    """Tiles of ``size`` input units per side whose results are ``out_size`` output units per side.

    They start every three quarters of a tile. Facts of the EasyAnimateV3 release, July 2024.
    """

    size: int
    out_size: int

    @property
    def stride(self) -> int:
        """Distance of two tiles in input units."""
        return self.size * 3 // 4

    @property
    def out_stride(self) -> int:
        """Distance of two tiles in output units; what a tile shows of itself before the next begins."""
        return self.out_size * 3 // 4

    def count(self, height: int, width: int) -> int:
        """Return the number of tiles of a ``height`` x ``width`` input."""
        return len(range(0, height, self.stride)) * len(range(0, width, self.stride))


def blended_tiles(
    x: torch.Tensor, run: Callable[[torch.Tensor], torch.Tensor], tiling: Tiling
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Run every tile of ``x``, blend it with its upper and left neighbours and yield what is final of it.

    Each tile is mixed over the overlap first with the finished tile above, then with the finished tile to the
    left; the weight of the new tile is i/n at row or column i of n.

    Parameters
    ----------
    x : torch.Tensor
        Shape ``[B, C, frames, height, width]``.
    run : callable
        Maps a tile to its result, ``[B, C', frames', h, w]``, with sides ``out_size / size`` times as long.
    tiling : Tiling
        Sizes of the tiles.

    Yields
    ------
    (int, int, torch.Tensor)
        Top and left of the region in the output, and the region; together they cover the output once.
    """
    height, width = x.shape[3:]
    size, stride, keep = tiling.size, tiling.stride, tiling.out_stride
    lower_edges: dict[int, torch.Tensor] = {}
    for row, top in enumerate(range(0, height, stride)):
        right_edge = None
        for column, left in enumerate(range(0, width, stride)):
            tile = run(x[:, :, :, top : top + size, left : left + size])
            if column in lower_edges:
                _blend(lower_edges[column], tile, dim=3)
            if right_edge is not None:
                _blend(right_edge, tile, dim=4)
            if top + stride < height:
                lower_edges[column] = tile[:, :, :, keep:].clone()
            right_edge = tile[:, :, :, :, keep:].clone() if left + stride < width else None
            yield row * keep, column * keep, tile[:, :, :, :keep, :keep]


def _blend(edge: torch.Tensor, tile: torch.Tensor, dim: int) -> None:
    extent = edge.shape[dim]
    weight = torch.arange(extent, device=tile.device, dtype=tile.dtype) / extent
    overlap = tile.narrow(dim, 0, extent)
    overlap.copy_(torch.lerp(edge, overlap, weight.view(-1, *(1,) * (4 - dim))))
