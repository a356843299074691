"""Mutants of the Slice VAE."""

from .mutant import mutants_of

PARITY = "tests/test_parity.py::test_golden_case"
ENCODE, DECODE = f"{PARITY}[vae/encode_frames9]", f"{PARITY}[vae/decode_latents5]"
VAE_TESTS, VAE_CONFIG_TESTS = "tests/test_vae.py::", "tests/test_vae_config.py::"
KERNELS = "tests/test_vae_kernels.py::"
SMOOTHING = f"{VAE_TESTS}test_decode_smoothing_matches_the_release[first_last_dpmpp]"
STEPS = f"{VAE_TESTS}test_frames_of_384_pixels_are_not_tiled"
TILES = f"{VAE_TESTS}test_tiles_are_mixed_with_the_one_above_and_then_with_the_one_to_the_left"

VAE = [
    *mutants_of(
        "vae/config.py",
        f"{VAE_CONFIG_TESTS}test_defaults_are_the_published_config",
        (
            "vae-scale",
            "latents scaled as those of Stable Diffusion XL",
            "scaling_factor: float = 0.18215",
            "scaling_factor: float = 0.13025",
        ),
        (
            "upsampling-order",
            "the decoder doubles time in the first and third level, as the encoder's mirror would",
            "(SPATIAL_UP, *(SPATIAL_TEMPORAL_UP,) * 3)",
            "(SPATIAL_TEMPORAL_UP, SPATIAL_UP, *(SPATIAL_TEMPORAL_UP,) * 2)",
        ),
        (
            "vae-blocks-without-config",
            "one ResNet block too many a level in files without a configuration",
            "layers_per_block=layers,",
            "layers_per_block=layers + 1,",
            f"{VAE_CONFIG_TESTS}test_config_from_tensors_equals_config_json",
        ),
    ),
    *mutants_of(
        "vae/model.py",
        ENCODE,
        (
            "posterior-variance",
            "encoding returns the variance of the posterior instead of its mean",
            "return self.encode_moments(pixels, **options)[0]",
            "return self.encode_moments(pixels, **options)[1]",
            "tests/test_conditioning.py::test_latents_of_both_streams[i2v_ddim]",
        ),
        (
            "moments-order",
            "log-variance before the mean",
            "mean, logvar = moments.chunk(2, dim=1)",
            "logvar, mean = moments.chunk(2, dim=1)",
        ),
        (
            "no-quant-conv",
            "no quant_conv behind the encoder",
            "return self.quant_conv(self.encoder(pixels))",
            "return self.encoder(pixels)",
        ),
        (
            "no-post-quant-conv",
            "no post_quant_conv before the decoder",
            "z = row_by_row(self.post_quant_conv, z.to(device=device, dtype=dtype))",
            "z = z.to(device=device, dtype=dtype)",
            DECODE,
        ),
        (
            "any-slice-is-equal",
            "a slice of the same shape counts as encoded already",
            "if torch.equal(other, part))",
            "if other.shape == part.shape)",
            f"{VAE_TESTS}test_equal_slices_are_encoded_once",
        ),
        (
            "smoothing-second-pass-alone",
            "decode smoothing takes the second pass alone",
            "(inner[region] + part.to(inner)) / 2",
            "part.to(inner)",
            SMOOTHING,
        ),
        (
            "smoothing-not-shifted",
            "the second pass of decode smoothing has the slices of the first",
            "slice(size // 2, frames - (size - size // 2))",
            "slice(0, frames)",
            SMOOTHING,
        ),
        (
            "smoothing-of-unclamped-frames",
            "decode smoothing does not clamp the first pass",
            "            pixels.clamp_(-1, 1)\n            middle =",
            "            middle =",
            SMOOTHING,
        ),
        (
            "tiling-by-the-shorter-side",
            "frames are tiled when both sides are over 384 pixels",
            "and max(height, width) > TILE_PIXELS",
            "and min(height, width) > TILE_PIXELS",
            STEPS,
        ),
    ),
    *mutants_of(
        "vae/even_slices.py",
        f"{VAE_TESTS}test_even_slices_are_kept_for_later_clips",
        (
            "black-equals-white",
            "even slices of any value share their latents",
            "return (float(value), pixels.shape",
            "return (0.0, pixels.shape",
        ),
    ),
    *mutants_of(
        "vae/slices.py",
        f"{VAE_CONFIG_TESTS}test_slices_and_their_context",
        (
            "first-frame-not-alone",
            "the first frame of an odd clip is no slice of its own",
            "spans = [(0, 1)] if alone else []",
            "spans, alone = [], 0",
        ),
        (
            "context-of-the-first-latent",
            "slices of an odd clip see its lone first latent",
            "max(start - size, alone)",
            "max(start - size, 0)",
        ),
        (
            "no-context-behind",
            "slices do not see the next one",
            "alone), min(end + size, length)",
            "alone), min(end, length)",
        ),
        (
            "context-for-the-first-latent",
            "the lone first latent sees the next slice",
            "    if alone and start == 0:\n        return span\n",
            "",
        ),
        (
            "frames-of-a-latent",
            "the first latent of an odd clip counts as four frames",
            "return alone + (latents - alone) * factor",
            "return latents * factor",
            f"{VAE_CONFIG_TESTS}test_frame_counts",
        ),
    ),
    *mutants_of(
        "vae/tiling.py",
        TILES,
        (
            "tile-weight-direction",
            "tiles: the weight of the new tile falls instead of rising",
            "torch.lerp(edge, overlap, weight",
            "torch.lerp(overlap, edge, weight",
        ),
        (
            "tile-weight-ends",
            "tiles: weights from 0 to 1, both included",
            "dtype=tile.dtype) / extent",
            "dtype=tile.dtype) / (extent - 1)",
        ),
        (
            "tile-order",
            "tiles are mixed with the left one before the one above",
            "            if column in lower_edges:\n"
            "                _blend(lower_edges[column], tile, dim=3)\n"
            "            if right_edge is not None:\n"
            "                _blend(right_edge, tile, dim=4)\n",
            "            if right_edge is not None:\n"
            "                _blend(right_edge, tile, dim=4)\n"
            "            if column in lower_edges:\n"
            "                _blend(lower_edges[column], tile, dim=3)\n",
        ),
        (
            "tile-stride",
            "tiles overlap by an eighth",
            "return self.size * 3 // 4",
            "return self.size * 7 // 8",
            STEPS,
        ),
    ),
    *mutants_of(
        "vae/decoder.py",
        DECODE,
        (
            "mid-block-without-neighbours",
            "the mid block of the decoder sees its slice alone",
            "self.mid_block(convolve(self.conv_in, fast_layout(z)))[:, :, start:end]",
            "self.mid_block(convolve(self.conv_in, fast_layout(z))[:, :, start:end])",
        ),
    ),
    *mutants_of(
        "vae/layers.py",
        ENCODE,
        (
            "no-shortcut",
            "ResNet blocks without their shortcut",
            "hidden.add_(x if same else convolve(self.shortcut, x))",
            "hidden",
        ),
        (
            "slice-attention-residual",
            "attention of the mid block without its residual",
            "return x + self.to_out(mixed)",
            "return self.to_out(mixed)",
        ),
        (
            "padding-at-the-start",
            "downsampling pads the first row and column instead of the last",
            "F.pad(x, (0, 1, 0, 1))",
            "F.pad(x, (1, 0, 1, 0))",
        ),
        ("vae-norm-eps", "GroupNorms of the VAE with eps 1e-5", "NORM_EPS = 1e-6", "NORM_EPS = 1e-5"),
        (
            "doubled-image",
            "frames doubled by repeating them",
            "return double_frames(x) if self.temporal and not image else x",
            "return x.repeat_interleave(2, 2) if self.temporal and not image else x",
            DECODE,
        ),
    ),
    *mutants_of(
        "vae/convolution.py",
        f"{KERNELS}test_doubling_is_folded_into_the_convolution",
        (
            "folded-kernel",
            "first and second pixel of a pair change places in the folded convolution",
            "(before + middle, after) if second else (before, middle + after)",
            "(before, middle + after) if second else (before + middle, after)",
        ),
        (
            "frames-between",
            "doubled frames lie at the wrong side of the old ones",
            "torch.lerp(before, after, 0.25,",
            "torch.lerp(after, before, 0.25,",
            f"{KERNELS}test_doubling_the_frames_is_linear_interpolation",
        ),
    ),
    *mutants_of(
        "vae/norm.py",
        f"{KERNELS}test_norm_of_both_layouts",
        (
            "variance-of-the-means",
            "GroupNorm forgets how far the channels' means lie apart",
            " + (mean - centre).square().mean(1, keepdim=True)",
            "",
        ),
    ),
]
