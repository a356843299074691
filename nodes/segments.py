"""Inputs that the nodes which make and join segments have in common."""

import nodes
from comfy_api.latest import io

from ..easyanimate_core.continuation import (
    DRIFT_CONTROLS,
    DRIFT_SCOPES,
    MAX_OVERLAP,
    MAX_PARTIAL,
    OVERLAP_MIXES,
    PARTIAL_STEP,
)
from ..easyanimate_core.sampling import SAMPLERS


def joining_inputs() -> list[io.Input]:
    """Return the inputs that say how a segment is joined to what comes before."""
    return [
        io.Combo.Input(
            "overlap_mix",
            options=list(OVERLAP_MIXES),
            default="linear",
            tooltip="How the overlapping frames go over into the new segment: linear as the release, ease slower at both "
            "ends, cut keeps the frames that are there.",
        ),
        io.Combo.Input(
            "drift_control",
            options=list(DRIFT_CONTROLS),
            default="off",
            tooltip="Corrects the colours of each segment to those of the frames it goes on from: mean_std matches "
            "brightness and contrast of each channel, histogram the whole distribution; if they still wander, set drift_scope "
            "to segment. off is the release's.",
        ),
        io.Float.Input(
            "drift_strength",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the correction: 0 none, 1 all of it.",
        ),
        io.Combo.Input(
            "drift_scope",
            options=list(DRIFT_SCOPES),
            default="overlap",
            tooltip="What is compared with the given frames: overlap, the segment's own version of them, keeps seams "
            "smooth; segment, each of its frames, also holds a drift inside of it, and with it any real change of light.",
        ),
    ]


def segment_inputs(max_segments: int) -> tuple[list[io.Input], list[io.Input]]:
    """Return the required and the optional inputs of the nodes that make several segments."""
    required = [
        io.Model.Input("model", tooltip="EasyAnimateV3 transformer, an InP checkpoint."),
        io.Clip.Input("clip", tooltip="T5 encoder for the prompts."),
        io.Vae.Input("vae", tooltip="The Slice VAE of EasyAnimateV3."),
        io.Conditioning.Input(
            "negative", tooltip="What the video should not show (EasyAnimateV3TextEncode)."
        ),
        io.String.Input(
            "prompts",
            multiline=True,
            # Choices in braces would differ at each run, and no finished segment could be used again.
            dynamic_prompts=False,
            tooltip="What the video shows, in English: one prompt a line, one line a segment; the last line repeats.",
        ),
        io.Int.Input(
            "width",
            default=672,
            min=0,
            max=nodes.MAX_RESOLUTION,
            step=16,
            tooltip="Pixels, a multiple of 16; 0 takes the width of video or start_image.",
        ),
        io.Int.Input(
            "height",
            default=384,
            min=0,
            max=nodes.MAX_RESOLUTION,
            step=16,
            tooltip="Pixels, a multiple of 16; 0 takes the height of video or start_image.",
        ),
        io.Int.Input(
            "partial_length",
            default=72,
            min=PARTIAL_STEP,
            max=MAX_PARTIAL,
            step=PARTIAL_STEP,
            tooltip="Frames of a segment, a multiple of 8.",
        ),
        io.Int.Input(
            "overlap",
            default=4,
            min=1,
            max=MAX_OVERLAP,
            tooltip="Last frames of a segment that the next one starts from.",
        ),
        io.Int.Input(
            "segments", default=2, min=1, max=max_segments, tooltip="New segments, where total_length is 0."
        ),
        io.Int.Input(
            "total_length",
            default=0,
            min=0,
            max=10_000_000,
            tooltip="Frames of the finished video, the given ones included; 0 goes by segments. The last segment is cut "
            "to what is left, floored to a multiple of 8.",
        ),
        io.Int.Input(
            "seed",
            default=43,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            # A seed that changes by itself would leave no finished segment of use.
            control_after_generate=False,
            tooltip="Seed of the first segment; each next one adds 1. Finished segments are used again while it stays.",
        ),
        io.Int.Input("steps", default=25, min=1, max=1000, tooltip="Denoising steps of each segment."),
        io.Float.Input(
            "cfg",
            default=7.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="Classifier-free guidance: how closely to follow the prompts. 1 ignores the negative.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=list(SAMPLERS),
            default="Euler",
            tooltip="Euler, Euler A, DPM++ (2M), PNDM or DDIM, as the release runs them (DDIM clamps latents).",
        ),
        io.Float.Input(
            "clip_apply_ratio",
            default=0.5,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the model calls, at the end, that use the CLIP embedding of the first given frame.",
        ),
        *joining_inputs(),
        io.Boolean.Input(
            "smoothing",
            default=True,
            tooltip="Hide the borders of the 8-frame slices when decoding, as the release does; off takes 0.4 of the "
            "time.",
        ),
    ]
    optional = [
        io.String.Input(
            "seeds",
            multiline=True,
            default="",
            optional=True,
            tooltip="Seeds of their own, one a line, in place of seed; segments beyond the last line count on from it.",
        ),
        io.ClipVision.Input(
            "clip_vision",
            optional=True,
            tooltip="CLIP ViT-L/14: each segment that goes on from frames then also follows the content of the first of them.",
        ),
        io.Image.Input(
            "video",
            optional=True,
            tooltip="Frames of the video to extend, at least as many as overlap; its size is kept.",
        ),
        io.Image.Input(
            "start_image",
            optional=True,
            tooltip="First frame of a new video, instead of video; other sizes are scaled and cropped. Without both the "
            "first segment is made from text alone.",
        ),
        io.Image.Input(
            "end_image",
            optional=True,
            tooltip="Last frame of the last segment. The video's own first frame closes it to a loop.",
        ),
    ]
    return required, optional
