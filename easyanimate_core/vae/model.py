"""The Slice VAE: whole clips to latents and back, one slice and one tile at a time."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from ..attention import AttentionFunction, default_attention
from ..out_of_memory import exhausted_memory
from ..rows import row_by_row
from .config import SliceVAEConfig
from .decoder import Decoder
from .encoder import Encoder
from .even_slices import EvenSlices
from .layers import LayerFactory
from .slices import context_span, latent_frames, pixel_frames, slice_spans
from .tiling import TILE_PIXELS, Tiling, blended_tiles

OnSlice = Callable[[], Any]

# Sides of the tiles for where memory does not reach for the published ones.
_EMERGENCY_TILES = (192, 96)


class SliceVAE(nn.Module):
    """Video VAE of EasyAnimateV3 (release of July 2024): 8x in space, 4x in time, 4 latent channels.

    Frames are encoded in slices of 8 that do not see each other, latents are decoded in slices of 2 whose mid
    block also sees the slice before and after. Of an odd clip the first frame (latent) is a slice of its own.

    Parameters
    ----------
    config : SliceVAEConfig
        Sizes of the network.
    operations : Any
        Namespace with ``Conv3d``, ``GroupNorm`` and ``Linear``.
    dtype, device : optional
        Of the parameters.
    attention : callable
        ``attention(q, k, v, heads=1)`` on ``[batch, tokens, channels]``.
    """

    def __init__(
        self,
        config: SliceVAEConfig,
        *,
        operations: Any = torch.nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        attention: AttentionFunction = default_attention,
    ) -> None:
        super().__init__()
        self.config = config
        layers = LayerFactory(operations, config.norm_num_groups, attention, dtype, device)
        self.encoder = Encoder(config, layers)
        self.decoder = Decoder(config, layers)
        self.quant_conv = layers.pointwise(2 * config.latent_channels, 2 * config.latent_channels)
        self.post_quant_conv = layers.pointwise(config.latent_channels, config.latent_channels)
        self.forget_even_slices()

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Load weights as modules do."""
        self.forget_even_slices()
        return super().load_state_dict(*arguments, **options)

    def train(self, mode: bool = True) -> "SliceVAE":
        """Set the mode as modules do; weights may have changed since the last time."""
        self.forget_even_slices()
        return super().train(mode)

    def forget_even_slices(self) -> None:
        """Drop what was kept of earlier clips, after weights were changed in place."""
        self._even_slices = EvenSlices()

    def encode(self, pixels: torch.Tensor, **options: Any) -> torch.Tensor:
        """Return the posterior mean, ``[B, 4, T, h, w]``; takes what :meth:`encode_moments` takes."""
        return self.encode_moments(pixels, **options)[0]

    def encode_moments(
        self,
        pixels: torch.Tensor,
        *,
        tiled: bool | None = None,
        on_slice: OnSlice | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode a clip to the posterior of its latents.

        A slice that equals an earlier one is not computed again, which is exact since slices are independent. One of
        a single value, such as the mask and the black frames to be generated, is kept for later clips of the size.

        Parameters
        ----------
        pixels : torch.Tensor
            Shape ``[B, 3, F, H, W]``, usually in [-1, 1].
        tiled : bool, optional
            Whether frames with a side over 384 pixels are cut in tiles; None takes ``config.use_tiling``.
        on_slice : callable, optional
            Called after each step of :meth:`encode_steps`; may raise to cancel.
        device, dtype : optional
            Where and in what each slice is computed; by default as ``pixels``.

        Returns
        -------
        (torch.Tensor, torch.Tensor)
            Mean and log-variance (clamped to [-30, 20]), each ``[B, 4, T, H/8, W/8]``, not scaled by
            ``config.scaling_factor``, with the device and dtype of ``pixels``.

        Raises
        ------
        ValueError
            When the shape cannot be encoded.
        """
        _, height, width = self._check_pixels(pixels)
        options = {"on_slice": on_slice, "device": device, "dtype": dtype}
        run = partial(self._encode_moments, pixels, **options)
        return _with_smaller_tiles(run, self._tile_sizes(height, width, tiled))

    def _encode_moments(
        self,
        pixels: torch.Tensor,
        tile_pixels: int | None,
        *,
        on_slice: OnSlice | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        frames, height, width = pixels.shape[2:]
        factor = self.config.space_factor
        tiling = None if tile_pixels is None else Tiling(tile_pixels, tile_pixels // factor)
        moments = pixels.new_empty(
            pixels.shape[0],
            2 * self.config.latent_channels,
            latent_frames(frames, self.config.time_factor),
            height // factor,
            width // factor,
        )
        known: list[tuple[torch.Tensor, torch.Tensor]] = []
        place = (tile_pixels, str(device), dtype)
        position = 0
        for start, end in slice_spans(frames, self.config.mini_batch_encoder):
            part = pixels[:, :, start:end]
            count = latent_frames(end - start, self.config.time_factor)
            target = moments[:, :, position : position + count]
            position += count
            twin = next((result for other, result in known if torch.equal(other, part)), None)
            even = None if twin is not None else self._even_slices.key(self, part, place)
            if twin is None:
                twin = self._even_slices.get(even)
            if twin is not None:
                target.copy_(twin)
                _report(on_slice, 1 if tiling is None else tiling.count(height, width))
                continue
            encode = partial(row_by_row, self._encode_tile)
            for top, left, tile in _tiles(part.to(device=device, dtype=dtype), encode, tiling):
                target[:, :, :, top : top + tile.shape[3], left : left + tile.shape[4]] = tile
                _report(on_slice)
            known.append((part, target))
            self._even_slices.keep(even, target)
        mean, logvar = moments.chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def decode(
        self,
        z: torch.Tensor,
        *,
        tiled: bool | None = None,
        smoothing: bool = False,
        on_slice: OnSlice | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """Decode latents to pixels.

        Parameters
        ----------
        z : torch.Tensor
            Shape ``[B, 4, T, h, w]``, not scaled (divide the diffusion model's latents by
            ``config.scaling_factor``).
        tiled : bool, optional
            Whether frames with a side over 384 pixels are cut in tiles; None takes ``config.use_tiling``.
        smoothing : bool
            The release's decode smoothing, which hides slice borders at 2.5 times the cost: the clip, clamped to
            [-1, 1], is averaged with a second pass through the VAE whose slices are shifted by half a slice.
            For inference only: it works in place.
        on_slice : callable, optional
            Called after each step of :meth:`decode_steps`; may raise to cancel.
        device, dtype : optional
            Where and in what each slice is computed; by default as ``z``.

        Returns
        -------
        torch.Tensor
            Pixels ``[B, 3, F, 8h, 8w]``, about [-1, 1] (exactly within it with ``smoothing``), with the device
            and dtype of ``z``.

        Raises
        ------
        ValueError
            When ``z`` does not have five axes and the right channels.
        RuntimeError
            Of memory that ran out, when not even the smallest tiles fit; larger ones are tried first, with a warning
            for each.
        """
        self._check_latents(z)
        factor = self.config.space_factor
        options = {"smoothing": smoothing, "on_slice": on_slice, "device": device, "dtype": dtype}
        sizes = self._tile_sizes(z.shape[3] * factor, z.shape[4] * factor, tiled)
        return _with_smaller_tiles(partial(self._decode, z, **options), sizes)

    def _decode(
        self, z: torch.Tensor, tile_pixels: int | None, *, smoothing: bool, **options: Any
    ) -> torch.Tensor:
        batch, _, latents, height, width = z.shape
        factor = self.config.space_factor
        pixels = z.new_empty(
            batch,
            self.config.out_channels,
            pixel_frames(latents, self.config.time_factor),
            height * factor,
            width * factor,
        )
        for region, part in self._decode_parts(z, tile_pixels, **options):
            pixels[region] = part
        if smoothing:
            pixels.clamp_(-1, 1)
            middle = self._smoothed_span(pixels.shape[2])
            if middle is not None:
                inner = pixels[:, :, middle]
                again, _ = self._encode_moments(inner, tile_pixels, **options)
                for region, part in self._decode_parts(again, tile_pixels, **options):
                    inner[region] = (inner[region] + part.to(inner)) / 2
                pixels.clamp_(-1, 1)
        return pixels

    def encode_steps(self, shape: Sequence[int], *, tiled: bool | None = None) -> int:
        """Return how often ``on_slice`` is called for pixels of ``shape`` ``[B, 3, F, H, W]``: slices x tiles."""
        frames, height, width = shape[2:]
        size = self._tile_sizes(height, width, tiled)[0]
        tiles = 1 if size is None else Tiling(size, size).count(height, width)
        return tiles * len(slice_spans(frames, self.config.mini_batch_encoder))

    def decode_steps(
        self, shape: Sequence[int], *, tiled: bool | None = None, smoothing: bool = False
    ) -> int:
        """Return how often ``on_slice`` is called for latents of ``shape`` ``[B, 4, T, h, w]``."""
        latents, height, width = shape[2:]
        space, time = self.config.space_factor, self.config.time_factor
        frames = pixel_frames(latents, time)
        tiles = self.encode_steps((*shape[:2], 1, height * space, width * space), tiled=tiled)
        slices = len(slice_spans(latents, self.config.mini_batch_decoder))
        middle = self._smoothed_span(frames) if smoothing else None
        if middle is not None:
            frames = middle.stop - middle.start
            slices += len(slice_spans(frames, self.config.mini_batch_encoder))
            slices += len(slice_spans(latent_frames(frames, time), self.config.mini_batch_decoder))
        return tiles * slices

    def _encode_tile(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.quant_conv(self.encoder(pixels))

    def _decode_parts(
        self,
        z: torch.Tensor,
        tile_pixels: int | None,
        *,
        on_slice: OnSlice | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> Iterator[tuple[tuple[slice, ...], torch.Tensor]]:
        """Yield each decoded region: its index into the pixels ``[B, 3, F, H, W]``, and the pixels."""
        z = row_by_row(self.post_quant_conv, z.to(device=device, dtype=dtype))
        size, factor = self.config.mini_batch_decoder, self.config.space_factor
        latents = z.shape[2]
        tiling = None if tile_pixels is None else Tiling(tile_pixels // factor, tile_pixels)
        first_frame = 0
        for start, end in slice_spans(latents, size):
            image = latents % 2 == 1 and start == 0
            low, high = context_span((start, end), latents, size)
            decode = partial(self.decoder, start=start - low, end=end - low, image=image)
            run = partial(row_by_row, decode)
            frames = 1 if image else (end - start) * self.config.time_factor
            # The release slices inside each tile; tiles inside each slice give the same values and keep far less.
            for top, left, tile in _tiles(z[:, :, low:high], run, tiling):
                region = (
                    slice(None),
                    slice(None),
                    slice(first_frame, first_frame + frames),
                    slice(top, top + tile.shape[3]),
                    slice(left, left + tile.shape[4]),
                )
                yield region, tile
                _report(on_slice)
            first_frame += frames

    def _tile_sizes(self, height: int, width: int, tiled: bool | None) -> list[int | None]:
        """Return the sides of the tiles that are to be tried in turn, in pixels; None is the whole picture."""
        wanted = (self.config.use_tiling if tiled is None else tiled) and max(height, width) > TILE_PIXELS
        smaller = [size for size in (TILE_PIXELS, *_EMERGENCY_TILES) if size < max(height, width)]
        return smaller if wanted else [None, *smaller]

    def _smoothed_span(self, frames: int) -> slice | None:
        size = self.config.mini_batch_encoder
        return slice(size // 2, frames - (size - size // 2)) if frames > size else None

    def _check_pixels(self, pixels: torch.Tensor) -> tuple[int, int, int]:
        channels, factor = self.config.in_channels, self.config.space_factor
        if pixels.ndim != 5 or pixels.shape[1] != channels:
            raise ValueError(
                f"The Slice VAE encodes pixels of shape [batch, {channels}, frames, height, width], "
                f"not {list(pixels.shape)}; permute or convert them first."
            )
        frames, height, width = pixels.shape[2:]
        if height % factor or width % factor or not height or not width:
            raise ValueError(
                f"The Slice VAE cannot encode frames of {width}x{height} pixels; "
                f"resize or crop both sides to multiples of {factor}."
            )
        latent_frames(frames, self.config.time_factor)
        return frames, height, width

    def _check_latents(self, z: torch.Tensor) -> None:
        channels = self.config.latent_channels
        if z.ndim != 5 or z.shape[1] != channels:
            raise ValueError(
                f"The Slice VAE decodes latents of shape [batch, {channels}, frames, height, width], "
                f"not {list(z.shape)}; they may come from another model."
            )


def _with_smaller_tiles(run: Callable[[int | None], Any], sizes: list[int | None]) -> Any:
    """Return ``run(size)`` for the first size that memory reaches for."""
    for size, smaller in pairwise(sizes):
        try:
            return run(size)
        except Exception as error:
            memory = exhausted_memory(error)
            if memory is None:
                raise
            logging.warning(
                "The Slice VAE ran out of %s; it begins again with tiles of %d pixels%s.",
                memory,
                smaller,
                "" if smaller == TILE_PIXELS else ", which differ a little from the published ones",
            )
        # Outside the handler, whose traceback still holds the tensors of the attempt.
        torch.cuda.empty_cache()
    return run(sizes[-1])


def _tiles(
    x: torch.Tensor, run: Callable[[torch.Tensor], torch.Tensor], tiling: Tiling | None
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield the results of :func:`blended_tiles`, or one whole result when there is no tiling."""
    if tiling is None:
        yield 0, 0, run(x)
    else:
        yield from blended_tiles(x, run, tiling)


def _report(on_slice: OnSlice | None, times: int = 1) -> None:
    if on_slice is not None:
        for _ in range(times):
            on_slice()
