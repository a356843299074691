"""What a state dict is, told by its tensors' names and shapes, so that a wrong file gets a clear error."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..errors import CheckpointError
from ..values import MAX_NUMBER, shown

T = TypeVar("T")
Shapes = Mapping[str, tuple[int, ...]]

TRAINED_RESOLUTIONS = (512, 768, 960)
CLIP_EMBED_WIDTH = 768

_WRAPPERS = ("model.diffusion_model.", "diffusion_model.", "module.")
_SD_OF_CONTEXT = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
_UMT5_VOCABULARY = 200_000

_DESCRIPTIONS = {
    "transformer": "an EasyAnimate transformer",
    "vae": "an EasyAnimateV3 Slice VAE",
    "t5": "a T5 text encoder",
    "clip_vision": "a CLIP vision model",
    "clip_vision_other": f"a CLIP vision model whose embeddings do not have {CLIP_EMBED_WIDTH} values",
    "umt5": "a multilingual T5 (UMT5) text encoder",
    "clip_text": "a CLIP text encoder",
    "lora": "a LoRA file",
    "pixart": "an image transformer of the PixArt family, without a motion module",
    "image_vae": "an image VAE",
    "video_vae_other": "a video VAE of another model",
    "sd15": "a Stable Diffusion 1.x model",
    "sd2": "a Stable Diffusion 2.x model",
    "sdxl": "a Stable Diffusion XL model",
    "unet": "a U-Net of another model",
    "animatediff": "an AnimateDiff motion module",
    "empty": "a file without tensors",
    "unknown": "a file of an unknown kind",
}

_NEEDED = {
    "transformer": "the EasyAnimateV3 transformer is needed: choose the file from `transformer/` of the official "
    "folder or a copy of it",
    "vae": "the EasyAnimateV3 Slice VAE is needed: choose the file from `vae/` of the official folder or a copy of it",
    "t5": "the T5-v1.1-XXL text encoder is needed: choose the official `text_encoder/` or a t5xxl file",
    "clip_vision": "the CLIP ViT-L/14 vision model is needed: choose the official `image_encoder/` or a "
    "clip_vision_l file",
    "lora": "a LoRA file is needed: choose one trained for EasyAnimateV3",
}


def strip_prefix(sd: Mapping[str, T]) -> dict[str, T]:
    """Return the entries without the wrapper names that every one of them starts with.

    Wrappers are ``model.diffusion_model.``, ``diffusion_model.`` and ``module.``; a file where only some names
    have one (a full Stable Diffusion checkpoint) stays as it is.
    """
    result = dict(sd)
    while prefix := next((p for p in _WRAPPERS if result and all(k.startswith(p) for k in result)), None):
        result = {name.removeprefix(prefix): value for name, value in result.items()}
    return result


def drop_persistent_tables(sd: Mapping[str, T]) -> dict[str, T]:
    """Return the entries without ``*.pos_encoder.pe`` (a fixed table, computed instead) and ``loss.*`` (training)."""
    return {
        name: value
        for name, value in sd.items()
        if not (name.endswith("pos_encoder.pe") or name.startswith("loss."))
    }


def checkpoint_kind(sd: Mapping[str, Any]) -> str:
    """Tell what a state dict is.

    Parameters
    ----------
    sd : Mapping
        Names to tensors, or to shapes; wrapper prefixes may still be there.

    Returns
    -------
    str
        ``transformer``, ``vae``, ``t5``, ``clip_vision`` (what EasyAnimateV3 needs), ``lora``, or one of the
        kinds that are recognised for errors only; ``unknown`` if nothing fits, ``empty`` without entries.
    """
    shapes = {name: tuple(getattr(value, "shape", value)) for name, value in strip_prefix(sd).items()}
    if not shapes:
        return "empty"
    return next((found for test in _TESTS if (found := test(shapes))), "unknown")


def describe_kind(kind: str) -> str:
    """Return the words for a kind, with article, as they stand in an error."""
    return _DESCRIPTIONS.get(kind, _DESCRIPTIONS["unknown"])


def require_kind(wanted: str, sd: Mapping[str, Any], path: str | Path) -> None:
    """Check that a state dict is of the wanted kind.

    Raises
    ------
    CheckpointError
        If it is not: one sentence with the path, what the file is and which one to choose.
    """
    found = checkpoint_kind(sd)
    if found == wanted:
        return
    detail = f" (its first tensor is {shown(next(iter(sd)))})" if found == "unknown" else ""
    raise CheckpointError(f"{path} is {describe_kind(found)}{detail}, but {_NEEDED[wanted]}.")


def trained_resolution(name: str | Path, config: Mapping[str, Any] | None = None) -> int | None:
    """Return the base resolution that a checkpoint was trained on, or None if nothing tells.

    Parameters
    ----------
    name : str or Path
        Name of the file or of the folder, such as ``EasyAnimateV3-XL-2-InP-768x768`` or
        ``easyanimate_v3_960.safetensors``; the last part counts first, then the folders above it.
    config : Mapping, optional
        The transformer's config: ``trained_resolution`` where this pack wrote it; all official ones say
        ``sample_size`` 64 whatever they were trained on, so only another value counts.

    Returns
    -------
    int or None
        Pixels of the square base size.
    """
    for part in reversed(re.split(r"[\\/]+", str(name))):
        found = {int(number) for number in re.findall(r"(?<!\d)(?:512|768|960)(?!\d)", part)}
        if len(found) == 1:
            return found.pop()
    config = config or {}
    if _is_size(config.get("trained_resolution")):
        return config["trained_resolution"]
    sample_size = config.get("sample_size")
    return sample_size * 8 if _is_size(sample_size) and sample_size != 64 else None


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_NUMBER


def _rank(shapes: Shapes, name: str) -> int:
    return len(shapes.get(name, ()))


def _any_name(shapes: Shapes, *parts: str) -> bool:
    return any(part in name for name in shapes for part in parts)


def _is_lora(shapes: Shapes) -> str | None:
    # Half of the names at least, since a model may carry adapters of its own.
    marks = (
        ".lora_down.",
        ".lora_up.",
        ".lora_A.",
        ".lora_B.",
        ".lora.down.",
        ".lora.up.",
        "lora_unet_",
        "lora_te",
    )
    hits = sum(any(mark in name for mark in marks) for name in shapes)
    return "lora" if hits * 2 >= len(shapes) else None


def _is_pixel_transformer(shapes: Shapes) -> str | None:
    if "adaln_single.linear.weight" in shapes and _rank(shapes, "pos_embed.proj.weight") == 4:
        return "transformer" if _any_name(shapes, ".attn_temporal.temporal_transformer.") else "pixart"
    return "pixart" if {"x_embedder.proj.weight", "t_block.1.weight"} <= shapes.keys() else None


def _is_stable_diffusion(shapes: Shapes) -> str | None:
    unet = {k.removeprefix("model.diffusion_model."): v for k, v in shapes.items()}
    ldm = "input_blocks.0.0.weight" in unet
    diffusers = "conv_in.weight" in unet and _any_name(unet, "mid_block.resnets.")
    if not (ldm or diffusers):
        return None
    widths = [v[1] for k, v in unet.items() if k.endswith("attn2.to_k.weight") and len(v) == 2]
    return _SD_OF_CONTEXT.get(widths[0], "unet") if widths else "unet"


def _is_vae(shapes: Shapes) -> str | None:
    shapes = {k.removeprefix("first_stage_model.").removeprefix("vae."): v for k, v in shapes.items()}
    rank = max(
        _rank(shapes, f"{side}.{name}.weight")
        for side in ("encoder", "decoder")
        for name in ("conv_in", "conv1")
    )
    if rank == 5:
        slices = _any_name(shapes, "encoder.down_blocks.0.convs.", "decoder.up_blocks.0.convs.")
        return "vae" if slices and "quant_conv.weight" in shapes else "video_vae_other"
    if rank == 4:
        return "image_vae"
    return "video_vae_other" if _rank(shapes, "encoder.conv_in.conv.weight") == 5 else None


def _is_text_encoder(shapes: Shapes) -> str | None:
    if _any_name(shapes, "block.0.layer.0.SelfAttention.q.weight"):
        embedding = shapes.get("shared.weight") or shapes.get("encoder.embed_tokens.weight") or (0,)
        return "umt5" if embedding[0] > _UMT5_VOCABULARY else "t5"
    return None


def _is_clip(shapes: Shapes) -> str | None:
    if "visual_projection.weight" in shapes:
        width = shapes["visual_projection.weight"][:1]
        return "clip_vision" if width == (CLIP_EMBED_WIDTH,) else "clip_vision_other"
    if "visual.proj" in shapes:
        width = shapes["visual.proj"][-1:]
        return "clip_vision" if width == (CLIP_EMBED_WIDTH,) else "clip_vision_other"
    if _any_name(shapes, "vision_model.encoder.layers.0.", "visual.transformer.resblocks.0."):
        return "clip_vision_other"
    return (
        "clip_text" if _any_name(shapes, "text_model.encoder.layers.0.", "transformer.resblocks.0.") else None
    )


def _is_animatediff(shapes: Shapes) -> str | None:
    return "animatediff" if _any_name(shapes, ".motion_modules.") else None


# In order: a full checkpoint also holds a VAE and a CLIP, so the whole is tested before its parts.
_TESTS: tuple[Callable[[Shapes], str | None], ...] = (
    _is_lora,
    _is_pixel_transformer,
    _is_animatediff,
    _is_stable_diffusion,
    _is_vae,
    _is_text_encoder,
    _is_clip,
)
