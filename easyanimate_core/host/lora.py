"""LoRA files on the host's models: the release's own format, and whatever the host reads by itself."""

from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
import torch

from ..checkpoint import CheckpointError, read_state_dict
from ..checkpoint.lora import TEXT_PART, check_shapes, is_release_lora, to_native_names, with_host_prefix
from .internals import launch_option
from .model import EasyAnimateV3Model
from .text_encoder import T5_NAME

FOLDER_KEY = "loras"
PACK_LORAS = Path(__file__).resolve().parents[2] / "assets" / "loras"
# What names of the text encoder's tensors start with, in all formats of the host.
_TEXT_NAMES = (TEXT_PART, "text_encoder")


def register_loras() -> None:
    """Make the pack's LoRA folder one of the host's, after the user's own."""
    folder_paths.add_model_folder_path(FOLDER_KEY, str(PACK_LORAS))


def lora_path(name: str) -> str:
    """Return the full path of a file of the ``loras`` folders.

    Raises
    ------
    CheckpointError
        If it is not there.
    """
    path = folder_paths.get_full_path(FOLDER_KEY, name)
    if path is None:
        places = " or ".join(folder_paths.get_folder_paths(FOLDER_KEY))
        raise CheckpointError(
            f"There is no file {name!r} in {places}: put the LoRA there, or choose another one."
        )
    return path


def apply_lora(
    model: Any, clip: Any, path: str, strength_model: float, strength_clip: float
) -> tuple[Any, Any, str | None]:
    """Apply a LoRA file to a MODEL and, where given, to a CLIP.

    Parameters
    ----------
    model : comfy.model_patcher.ModelPatcher
        Transformer.
    clip : comfy.sd.CLIP or None
        T5 encoder.
    path : str
        The LoRA file. Its tensors are mapped, so reading it again for another strength costs next to nothing.
    strength_model, strength_clip : float
        Multipliers of the two parts.

    Returns
    -------
    tuple
        Patched copies of both (None where no CLIP was given), and a sentence on what of the file is not used, or None.

    Raises
    ------
    CheckpointError
        If the file cannot be read, or could run code.
    ValueError
        If the LoRA belongs to another model.
    """
    lora = read_state_dict(path)
    if launch_option("disable_mmap"):
        lora = {name: tensor.clone() for name, tensor in lora.items()}
    name = Path(path).name
    in_text = [key.startswith(_TEXT_NAMES) for key in lora]
    has_text, has_model = any(in_text), not all(in_text)
    if is_release_lora(lora):
        native = _native(model, clip if has_text else None, lora, name)
    elif isinstance(getattr(model, "model", None), EasyAnimateV3Model):
        native = with_host_prefix(lora)
    else:
        native = lora
    patched, patched_clip = comfy.sd.load_lora_for_models(model, clip, native, strength_model, strength_clip)
    if has_model:
        fits = _patch_count(patched) > _patch_count(model)
    else:
        fits = bool(lora) and (
            clip is None or _patch_count(patched_clip.patcher) > _patch_count(clip.patcher)
        )
    if not fits:
        raise ValueError(
            f"{name} fits nothing in this model (its first tensor is {next(iter(lora), None)!r}): use a LoRA trained for "
            "EasyAnimateV3."
        )
    note = None
    if has_text and clip is None and strength_clip:
        note = f"{name} also changes the text encoder, which is not connected: connect CLIP to use that part."
    return patched, patched_clip, note


def _native(model: Any, clip: Any, lora: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Check a LoRA of the release's format against both models and give it the names that the host knows."""
    base = getattr(model, "model", None)
    if not isinstance(base, EasyAnimateV3Model):
        raise ValueError(
            f"{name} has the format of EasyAnimateV3's LoRAs, but this MODEL is another one's: connect the MODEL of "
            "EasyAnimateV3Loader or EasyAnimateV3TransformerLoader."
        )
    shapes = _shapes(base.diffusion_model)
    check_shapes(lora, shapes)
    if clip is None:
        return to_native_names(lora, shapes)
    prefix = f"{T5_NAME}.transformer."
    text_shapes = {
        key.removeprefix(prefix): shape
        for key, shape in _shapes(clip.cond_stage_model).items()
        if key.startswith(prefix)
    }
    if not text_shapes:
        raise ValueError(
            f"{name} changes T5, but this CLIP has no T5 encoder: take EasyAnimateV3Loader's CLIP, or CLIPLoader with a "
            "t5xxl file and type pixart."
        )
    check_shapes(lora, text_shapes, TEXT_PART)
    return to_native_names(lora, shapes, text_shapes)


def _shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _patch_count(patcher: Any) -> int:
    return sum(len(patches) for patches in patcher.patches.values())
