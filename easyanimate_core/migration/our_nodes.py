"""Inputs, widgets and outputs of the nodes that a converted workflow uses, as the UI saves them."""

from typing import Any, NamedTuple

Slots = tuple[tuple[str, str], ...]


class Widget(NamedTuple):
    """A widget, with the value that it has where the old workflow gives none."""

    name: str
    type: str
    default: Any
    optional: bool = False


class Layout(NamedTuple):
    """One node type: slots (name and type) in the UI's order, and a size that holds all of them."""

    inputs: Slots
    widgets: tuple[Widget, ...]
    outputs: Slots
    size: tuple[int, int]
    optional: Slots = ()


def _slots(text: str) -> Slots:
    """Return slots that are written as ``name:TYPE``; a type alone is its own name."""
    return tuple((slot.split(":")[0], slot.split(":")[-1]) for slot in text.split())


LOADER, LORA = "EasyAnimateV3Loader", "EasyAnimateV3LoraLoader"
TRANSFORMER, VAE = "EasyAnimateV3TransformerLoader", "EasyAnimateV3VAELoader"
CLIP_VISION, CLIP = "CLIPVisionLoader", "CLIPLoader"
TEXT, IMAGE = "EasyAnimateV3TextEncode", "EasyAnimateV3ImageEncode"
BUCKET, VIDEO, SAMPLER = "EasyAnimateV3ResizeToBucket", "EasyAnimateV3ImageToVideo", "EasyAnimateV3Sampler"
ENCODE, DECODE, SAVE = "EasyAnimateV3VAEEncode", "EasyAnimateV3VAEDecode", "EasyAnimateV3SaveVideo"
FIRST_FRAMES, SIZE = "ImageFromBatch", "GetImageSize"

_WEIGHT_DTYPE = Widget("weight_dtype", "COMBO", "default")
_CLIP_NAME = Widget("clip_name", "COMBO", "")

LAYOUTS: dict[str, Layout] = {
    LOADER: Layout(
        (),
        (Widget("checkpoint", "COMBO", ""), _WEIGHT_DTYPE),
        _slots("MODEL CLIP VAE CLIP_VISION"),
        (340, 142),
    ),
    TRANSFORMER: Layout(
        (), (Widget("transformer_name", "COMBO", ""), _WEIGHT_DTYPE), _slots("MODEL"), (420, 82)
    ),
    VAE: Layout((), (Widget("vae_name", "COMBO", ""),), _slots("VAE"), (420, 58)),
    CLIP_VISION: Layout((), (_CLIP_NAME,), _slots("CLIP_VISION"), (340, 58)),
    CLIP: Layout(
        (),
        (_CLIP_NAME, Widget("type", "COMBO", "pixart"), Widget("device", "COMBO", "default", optional=True)),
        _slots("CLIP"),
        (400, 106),
    ),
    LORA: Layout(
        _slots("model:MODEL"),
        (
            Widget("lora_name", "COMBO", ""),
            Widget("strength_model", "FLOAT", 1),
            Widget("strength_clip", "FLOAT", 1),
        ),
        _slots("MODEL CLIP"),
        (340, 126),
        _slots("clip:CLIP"),
    ),
    TEXT: Layout(
        _slots("clip:CLIP"),
        (Widget("text", "STRING", ""), Widget("clean", "BOOLEAN", True)),
        _slots("CONDITIONING"),
        (330, 160),
    ),
    IMAGE: Layout(_slots("clip_vision:CLIP_VISION image:IMAGE"), (), _slots("CLIP_VISION_OUTPUT"), (290, 46)),
    BUCKET: Layout(
        _slots("image:IMAGE"),
        (Widget("base", "INT", 512),),
        _slots("image:IMAGE width:INT height:INT"),
        (290, 98),
    ),
    VIDEO: Layout(
        _slots("positive:CONDITIONING negative:CONDITIONING vae:VAE"),
        (
            Widget("width", "INT", 672),
            Widget("height", "INT", 384),
            Widget("length", "INT", 144),
            Widget("batch_size", "INT", 1),
            Widget("clip_mix", "FLOAT", 0.5, optional=True),
        ),
        _slots("positive:CONDITIONING negative:CONDITIONING latent:LATENT"),
        (290, 274),
        _slots(
            "start_image:IMAGE end_image:IMAGE "
            "clip_vision_output:CLIP_VISION_OUTPUT clip_vision_output_end:CLIP_VISION_OUTPUT"
        ),
    ),
    SAMPLER: Layout(
        _slots("model:MODEL positive:CONDITIONING negative:CONDITIONING latent_image:LATENT"),
        (
            Widget("seed", "INT", 43),
            Widget("steps", "INT", 25),
            Widget("cfg", "FLOAT", 7),
            Widget("sampler_name", "COMBO", "Euler"),
            Widget("denoise", "FLOAT", 1),
            Widget("clip_apply_ratio", "FLOAT", 0.5),
            Widget("clip_sample", "BOOLEAN", True, optional=True),
        ),
        _slots("LATENT"),
        # Room for the preview while it samples.
        (290, 476),
    ),
    ENCODE: Layout(
        _slots("pixels:IMAGE vae:VAE"), (Widget("tiling", "BOOLEAN", True),), _slots("LATENT"), (290, 78)
    ),
    DECODE: Layout(
        _slots("samples:LATENT vae:VAE"),
        (Widget("smoothing", "BOOLEAN", True), Widget("tiling", "BOOLEAN", True)),
        _slots("IMAGE"),
        (290, 102),
    ),
    SAVE: Layout(
        _slots("images:IMAGE"),
        (
            Widget("filename_prefix", "STRING", "video/EasyAnimateV3"),
            Widget("fps", "FLOAT", 24),
            Widget("crf", "INT", 17),
        ),
        (),
        (350, 336),
    ),
    FIRST_FRAMES: Layout(
        _slots("image:IMAGE"),
        (Widget("batch_index", "INT", 0), Widget("length", "INT", 1)),
        _slots("IMAGE"),
        (290, 82),
    ),
    SIZE: Layout(_slots("image:IMAGE"), (), _slots("width:INT height:INT batch_size:INT"), (290, 124)),
}
