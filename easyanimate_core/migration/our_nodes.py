"""Inputs, widgets and outputs of the nodes that a converted workflow uses, as the UI saves them."""

from typing import Any, NamedTuple


class Widget(NamedTuple):
    """A widget, with the value that it has where the old workflow gives none."""

    name: str
    type: str
    default: Any
    optional: bool = False


class Layout(NamedTuple):
    """One node type: slots in the UI's order, and a size that holds all of them."""

    inputs: tuple[tuple[str, str], ...]
    widgets: tuple[Widget, ...]
    outputs: tuple[tuple[str, str], ...]
    size: tuple[int, int]
    optional: tuple[tuple[str, str], ...] = ()


LOADER, LORA = "EasyAnimateV3Loader", "EasyAnimateV3LoraLoader"
TRANSFORMER, VAE = "EasyAnimateV3TransformerLoader", "EasyAnimateV3VAELoader"
CLIP_VISION, CLIP = "CLIPVisionLoader", "CLIPLoader"
TEXT, IMAGE = "EasyAnimateV3TextEncode", "EasyAnimateV3ImageEncode"
BUCKET, VIDEO, SAMPLER = "EasyAnimateV3ResizeToBucket", "EasyAnimateV3ImageToVideo", "EasyAnimateV3Sampler"
ENCODE, DECODE, SAVE = "EasyAnimateV3VAEEncode", "EasyAnimateV3VAEDecode", "EasyAnimateV3SaveVideo"
FIRST_FRAMES, SIZE = "ImageFromBatch", "GetImageSize"

_WEIGHT_DTYPE = Widget("weight_dtype", "COMBO", "default")
_SIDES = (Widget("width", "INT", 672), Widget("height", "INT", 384))

LAYOUTS: dict[str, Layout] = {
    LOADER: Layout(
        (),
        (Widget("checkpoint", "COMBO", ""), _WEIGHT_DTYPE),
        (("MODEL", "MODEL"), ("CLIP", "CLIP"), ("VAE", "VAE"), ("CLIP_VISION", "CLIP_VISION")),
        (340, 142),
    ),
    TRANSFORMER: Layout(
        (), (Widget("transformer_name", "COMBO", ""), _WEIGHT_DTYPE), (("MODEL", "MODEL"),), (420, 82)
    ),
    VAE: Layout((), (Widget("vae_name", "COMBO", ""),), (("VAE", "VAE"),), (420, 58)),
    CLIP_VISION: Layout(
        (), (Widget("clip_name", "COMBO", ""),), (("CLIP_VISION", "CLIP_VISION"),), (340, 58)
    ),
    CLIP: Layout(
        (),
        (
            Widget("clip_name", "COMBO", ""),
            Widget("type", "COMBO", "pixart"),
            Widget("device", "COMBO", "default", optional=True),
        ),
        (("CLIP", "CLIP"),),
        (400, 106),
    ),
    LORA: Layout(
        (("model", "MODEL"),),
        (
            Widget("lora_name", "COMBO", ""),
            Widget("strength_model", "FLOAT", 1),
            Widget("strength_clip", "FLOAT", 1),
        ),
        (("MODEL", "MODEL"), ("CLIP", "CLIP")),
        (340, 126),
        (("clip", "CLIP"),),
    ),
    TEXT: Layout(
        (("clip", "CLIP"),),
        (Widget("text", "STRING", ""), Widget("clean", "BOOLEAN", True)),
        (("CONDITIONING", "CONDITIONING"),),
        (330, 160),
    ),
    IMAGE: Layout(
        (("clip_vision", "CLIP_VISION"), ("image", "IMAGE")),
        (),
        (("CLIP_VISION_OUTPUT", "CLIP_VISION_OUTPUT"),),
        (290, 46),
    ),
    BUCKET: Layout(
        (("image", "IMAGE"),),
        (Widget("base", "INT", 512),),
        (("image", "IMAGE"), ("width", "INT"), ("height", "INT")),
        (290, 98),
    ),
    VIDEO: Layout(
        (("positive", "CONDITIONING"), ("negative", "CONDITIONING"), ("vae", "VAE")),
        (
            *_SIDES,
            Widget("length", "INT", 144),
            Widget("batch_size", "INT", 1),
            Widget("clip_mix", "FLOAT", 0.5, optional=True),
        ),
        (("positive", "CONDITIONING"), ("negative", "CONDITIONING"), ("latent", "LATENT")),
        (290, 274),
        (
            ("start_image", "IMAGE"),
            ("end_image", "IMAGE"),
            ("clip_vision_output", "CLIP_VISION_OUTPUT"),
            ("clip_vision_output_end", "CLIP_VISION_OUTPUT"),
        ),
    ),
    SAMPLER: Layout(
        (
            ("model", "MODEL"),
            ("positive", "CONDITIONING"),
            ("negative", "CONDITIONING"),
            ("latent_image", "LATENT"),
        ),
        (
            Widget("seed", "INT", 43),
            Widget("steps", "INT", 25),
            Widget("cfg", "FLOAT", 7),
            Widget("sampler_name", "COMBO", "Euler"),
            Widget("denoise", "FLOAT", 1),
            Widget("clip_apply_ratio", "FLOAT", 0.5),
            Widget("clip_sample", "BOOLEAN", True, optional=True),
        ),
        (("LATENT", "LATENT"),),
        # Room for the preview while it samples.
        (290, 476),
    ),
    ENCODE: Layout(
        (("pixels", "IMAGE"), ("vae", "VAE")),
        (Widget("tiling", "BOOLEAN", True),),
        (("LATENT", "LATENT"),),
        (290, 78),
    ),
    DECODE: Layout(
        (("samples", "LATENT"), ("vae", "VAE")),
        (Widget("smoothing", "BOOLEAN", True), Widget("tiling", "BOOLEAN", True)),
        (("IMAGE", "IMAGE"),),
        (290, 102),
    ),
    SAVE: Layout(
        (("images", "IMAGE"),),
        (
            Widget("filename_prefix", "STRING", "video/EasyAnimateV3"),
            Widget("fps", "FLOAT", 24),
            Widget("crf", "INT", 17),
        ),
        (),
        (350, 336),
    ),
    FIRST_FRAMES: Layout(
        (("image", "IMAGE"),),
        (Widget("batch_index", "INT", 0), Widget("length", "INT", 1)),
        (("IMAGE", "IMAGE"),),
        (290, 82),
    ),
    SIZE: Layout(
        (("image", "IMAGE"),),
        (),
        (("width", "INT"), ("height", "INT"), ("batch_size", "INT")),
        (290, 124),
    ),
}
