"""LoRA files on the host's models: the release's own format, and whatever the host reads by itself."""

from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
import torch

from ..checkpoint import CheckpointError, read_state_dict
from ..checkpoint.lora import (
    TEXT_PART,
    check_shapes,
    check_values,
    is_release_lora,
    to_native_names,
    with_host_prefix,
)
from ..out_of_memory import exhausted_memory
from ..values import shown
from .inputs import kind
from .internals import launch_option
from .model import EasyAnimateV3Model
from .text_encoder import T5_NAME

FOLDER_KEY = "loras"
PACK_LORAS = Path(__file__).resolve().parents[2] / "assets" / "loras"
# What names of the text encoder's tensors start with, in all formats of the host.
_TEXT_NAMES = (TEXT_PART, "text_encoder")
# Updates whose shape shows without their values.
_SHAPES_ALONE = ("lora", "loha", "lokr", "glora")


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
    if not hasattr(model, "patches"):
        raise ValueError(f"model is {kind(model)}, and no MODEL: connect the MODEL of EasyAnimateV3Loader.")
    if clip is not None and not hasattr(clip, "cond_stage_model"):
        raise ValueError(f"clip is {kind(clip)}, and no CLIP: connect the CLIP of EasyAnimateV3Loader.")
    lora = read_state_dict(path)
    if launch_option("disable_mmap"):
        lora = {name: tensor.clone() for name, tensor in lora.items()}
    name = Path(path).name
    in_text = [key.startswith(_TEXT_NAMES) for key in lora]
    has_text, has_model = any(in_text), not all(in_text)
    ours = isinstance(getattr(model, "model", None), EasyAnimateV3Model)
    if ours:
        check_values(lora)
    if is_release_lora(lora):
        native = _native(model, clip if has_text else None, lora, name)
    elif ours:
        native = with_host_prefix(lora)
    else:
        native = lora
    patched, patched_clip = _load(model, clip, native, strength_model, strength_clip, name)
    if ours:
        _require_applies(patched, model, name)
        if clip is not None:
            _require_applies(patched_clip.patcher, clip.patcher, name)
    if has_model:
        fits = _patch_count(patched) > _patch_count(model)
    else:
        fits = bool(lora) and (
            clip is None or _patch_count(patched_clip.patcher) > _patch_count(clip.patcher)
        )
    if not fits:
        raise ValueError(
            f"{name} fits nothing in this model (its first tensor is {shown(next(iter(lora), None))}): use a LoRA trained for "
            "EasyAnimateV3."
        )
    note = None
    if has_text and clip is None and strength_clip:
        note = f"{name} also changes the text encoder, which is not connected: connect CLIP to use that part."
    return patched, patched_clip, note


def _load(
    model: Any,
    clip: Any,
    lora: dict[str, torch.Tensor],
    strength_model: float,
    strength_clip: float,
    name: str,
) -> tuple[Any, Any]:
    """Let the host apply a LoRA, whose errors of a damaged file say only what Python did not find."""
    try:
        return comfy.sd.load_lora_for_models(model, clip, lora, strength_model, strength_clip)
    except KeyError as missing:
        raise ValueError(
            f"{name} lacks the tensor {shown(missing.args[0])}, so a module of it is incomplete: download it again."
        ) from missing
    except (AttributeError, IndexError, TypeError, RuntimeError, ValueError) as error:
        if exhausted_memory(error):
            raise
        raise ValueError(
            f"{name} has tensors of shapes that no LoRA has: download it again, or use another one."
        ) from error


def _require_applies(patcher: Any, before: Any, name: str) -> None:
    """Check each new update on its weight, since the host only logs it when it leaves one out.

    Raises
    ------
    ValueError
        If an update does not fit.
    """
    weights = _shapes(patcher.model)
    for key, patches in patcher.patches.items():
        for patch in patches[len(before.patches.get(key, ())) :]:
            if not _applies(patch, weights[key], key):
                raise ValueError(
                    f"{name} has an update of {key} that does not fit the weight's shape {list(weights[key])}: use a LoRA "
                    "trained for EasyAnimateV3."
                )


def _applies(patch: tuple, shape: torch.Size, key: str) -> bool:
    """Tell whether one of the host's patches changes a weight of this shape, without the weight."""
    _, update, _, offset, _ = patch
    device = "meta" if getattr(update, "name", None) in _SHAPES_ALONE else "cpu"
    weight = torch.zeros(shape, device=device)
    if offset is not None:
        weight = weight.narrow(*offset)
    if not hasattr(update, "calculate_weight"):
        return update[-1][0].shape == weight.shape
    applied = []

    def note(change: torch.Tensor) -> torch.Tensor:
        applied.append(change.shape)
        return change

    if not _scales(update, shape):
        return False
    try:
        result = update.calculate_weight(weight, key, 1.0, 1.0, offset, note, torch.float32, None)
    except Exception:
        return False
    return applied == [weight.shape] and result.shape == weight.shape


def _scales(update: Any, shape: torch.Size) -> bool:
    """Tell whether an update's DoRA scale, if it has one, fits; the host notices that only after its change."""
    if getattr(update, "name", None) not in _SHAPES_ALONE:
        return True
    scale = update.weights[4 if update.name == "lora" else -1]
    if not torch.is_tensor(scale):
        return True
    fits = (one in (1, side) for one, side in zip(scale.shape, shape, strict=False))
    return scale.ndim == len(shape) and all(fits)


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
