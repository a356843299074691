"""Mutants of what the transformer is given beside the noise."""

from .mutant import mutants_of

STREAMS = "tests/test_conditioning.py::test_start_and_end_frames_are_placed_and_scaled"
CLIP_IMAGE = "tests/test_clip_image.py::test_pixels_match_hugging_face"
BUCKETS = "tests/test_buckets.py::test_release_sizes"

CONDITIONING = [
    *mutants_of(
        "conditioning/inpaint.py",
        STREAMS,
        ("mask-polarity", "mask is 1 in given frames", "return mask, video\n", "return 1 - mask, video\n"),
        (
            "no-first-mask",
            "given first frames are masked as unknown",
            "mask[:, :, :start_count] = 0",
            "mask[:, :, :start_count] = 1",
        ),
        (
            "no-last-mask",
            "given last frames are masked as unknown",
            "mask[:, :, frames - end_count :] = 0",
            "mask[:, :, frames - end_count :] = 1",
        ),
        (
            "end-behind-start",
            "last frames follow the first ones",
            "video[0, :, frames - end_count :] =",
            "video[0, :, start_count : start_count + end_count] =",
        ),
        ("grey-frames", "frames to be made are grey instead of black", "_BLACK = -1.0", "_BLACK = 0.0"),
        (
            "pixel-range",
            "given frames in [0, 1] instead of [-1, 1]",
            ".permute(3, 0, 1, 2) * 2 - 1",
            ".permute(3, 0, 1, 2)",
        ),
        (
            "stream-order",
            "masked video before the mask",
            "torch.cat([mask_latents, video_latents], dim=1)",
            "torch.cat([video_latents, mask_latents], dim=1)",
            "tests/test_conditioning.py::test_latents_of_both_streams[i2v_ddim]",
        ),
        (
            "streams-not-scaled",
            "streams without the scaling factor",
            " * vae.config.scaling_factor",
            "",
            "tests/test_conditioning.py::test_latents_of_both_streams[i2v_ddim]",
        ),
        (
            "mask-in-full-range",
            "mask encoded in [-1, 1] instead of 0 and 1",
            "vae.encode(mask.expand(-1, 3, -1, -1, -1)",
            "vae.encode(2 * mask.expand(-1, 3, -1, -1, -1) - 1",
            "tests/test_conditioning.py::test_latents_of_both_streams[i2v_ddim]",
        ),
    ),
    *mutants_of(
        "conditioning/clip_blend.py",
        "tests/test_clip_blend.py::test_between_them_it_is_linear",
        (
            "clip-mix-direction",
            "share of the start image's embedding instead of the end image's",
            "torch.lerp(start, end.to(start), mix)",
            "torch.lerp(end.to(start), start, mix)",
        ),
    ),
    *mutants_of(
        "conditioning/clip_image.py",
        CLIP_IMAGE,
        ("clip-size", "CLIP images of 256 pixels", "CLIP_SIZE = 224", "CLIP_SIZE = 256"),
        ("clip-bilinear", "CLIP images scaled bilinearly", 'mode="bicubic"', 'mode="bilinear"'),
        (
            "clip-corner",
            "upper left square in place of the centre",
            "top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2",
            "top, left = 0, 0",
        ),
        ("clip-not-filtered", "CLIP images scaled without a filter", ", antialias=True", ""),
    ),
    *mutants_of(
        "conditioning/buckets.py",
        BUCKETS,
        (
            "bucket-ratio",
            "width / height instead of height / width",
            "ratio = image_height / image_width",
            "ratio = image_width / image_height",
        ),
        (
            "bucket-rounding",
            "sides rounded to the nearest multiple of 16 instead of down",
            "max(scaled // _SIDE_MULTIPLE, 1)",
            "max(round(scaled / _SIDE_MULTIPLE), 1)",
        ),
        ("bucket-multiple", "sides of multiples of 32", "_SIDE_MULTIPLE = 16", "_SIDE_MULTIPLE = 32"),
    ),
]
