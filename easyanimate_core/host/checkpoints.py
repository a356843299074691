"""From what lies on disk to native MODEL, CLIP, VAE and CLIP_VISION."""

from pathlib import Path
from typing import NamedTuple

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import folder_paths
import safetensors
import torch

from ..checkpoint import (
    CheckpointError,
    OfficialFolder,
    drop_persistent_tables,
    find_checkpoint_folder,
    list_checkpoint_folders,
    published_as,
    read_state_dict,
    readable_config,
    require_kind,
    strip_prefix,
    take_config,
    trained_resolution,
)
from ..transformer import TransformerConfig
from ..vae import SliceVAEConfig
from .image_encoder import load_image_encoder
from .loading import build_model
from .out_of_memory import say_what_to_lower
from .text_encoder import load_text_encoder
from .vae import EasyAnimateV3VAE

FOLDER_KEY = "EasyAnimate"
_SMALLER = "choose fp8 in weight_dtype"
PACK_CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"

# Choices of the host's own UNETLoader: dtype to keep the weights in, and whether to multiply in fp8.
WEIGHT_DTYPES: dict[str, tuple[torch.dtype | None, bool]] = {
    "default": (None, False),
    "fp8_e4m3fn": (torch.float8_e4m3fn, False),
    "fp8_e4m3fn_fast": (torch.float8_e4m3fn, True),
    "fp8_e5m2": (torch.float8_e5m2, False),
}


class LoadedFolder(NamedTuple):
    """The four models of an official checkpoint folder."""

    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP
    vae: EasyAnimateV3VAE
    clip_vision: comfy.clip_vision.ClipVisionModel


def register_folder() -> None:
    """Make ``models/EasyAnimate`` and then the pack's own folder model folders, after extra_model_paths.yaml's."""
    for folder in (Path(folder_paths.models_dir) / FOLDER_KEY, PACK_CHECKPOINTS):
        folder_paths.add_model_folder_path(FOLDER_KEY, str(folder))


def checkpoint_folders() -> list[str]:
    """Return the names of the official folders that are there now."""
    return list_checkpoint_folders(folder_paths.get_folder_paths(FOLDER_KEY))


def load_folder(name: str, weight_dtype: str = "default") -> LoadedFolder:
    """Load a folder in the release's layout.

    Parameters
    ----------
    name : str
        One of :func:`checkpoint_folders`.
    weight_dtype : str
        One of :data:`WEIGHT_DTYPES`, for the transformer.

    Raises
    ------
    CheckpointError
        If a component is missing, damaged or another model's; nothing is loaded then.
    """
    folder = OfficialFolder(find_checkpoint_folder(folder_paths.get_folder_paths(FOLDER_KEY), name))
    return say_what_to_lower(lambda: _load(folder, weight_dtype), f"load {name}", _SMALLER)


def _load(folder: OfficialFolder, weight_dtype: str) -> LoadedFolder:
    # Look at every component first: a half folder should fail before gigabytes are read.
    tokenizer = folder.tokenizer()
    for component in ("transformer", "vae", "text_encoder", "image_encoder"):
        folder.config(component)
        folder.weights(component)
    resolution = folder.trained_resolution()
    tensors = strip_prefix(folder.state_dict("transformer"))
    # Of a file that ModelSave wrote; the folder has a config.json of its own.
    take_config(tensors)
    transformer = _weights("transformer", tensors, folder.component("transformer"))
    slices = _weights("vae", folder.state_dict("vae"), folder.component("vae"))
    text, image = folder.state_dict("text_encoder"), folder.state_dict("image_encoder")
    require_kind("t5", text, folder.component("text_encoder"))
    require_kind("clip_vision", image, folder.component("image_encoder"))
    # What is wrong with a configuration shows before the first model is built.
    config = TransformerConfig.from_dict(folder.config("transformer"))
    slice_config = SliceVAEConfig.from_dict(folder.config("vae"))
    dtype, fp8_matmul = WEIGHT_DTYPES[weight_dtype]
    model = build_model(
        config,
        transformer,
        dtype=dtype,
        fp8_matmul=fp8_matmul,
        trained_resolution=resolution,
    )
    comfy.model_management.throw_exception_if_processing_interrupted()
    clip = load_text_encoder(folder.config("text_encoder"), text, tokenizer)
    comfy.model_management.throw_exception_if_processing_interrupted()
    vae = EasyAnimateV3VAE(slice_config, slices, resolution)
    return LoadedFolder(model, clip, vae, load_image_encoder(folder.config("image_encoder"), image))


def load_transformer_file(path: str, weight_dtype: str = "default") -> comfy.model_patcher.ModelPatcher:
    """Load the transformer from a single file of the ``diffusion_models`` folders.

    The configuration comes from what the host's ModelSave wrote of it, from a ``config`` entry of the file's
    metadata, or from the tensors' shapes.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or another model's.
    """
    return say_what_to_lower(
        lambda: _load_transformer(path, weight_dtype), f"load {Path(path).name}", _SMALLER
    )


def _load_transformer(path: str, weight_dtype: str) -> comfy.model_patcher.ModelPatcher:
    tensors = strip_prefix(read_state_dict(path))
    stored = take_config(tensors) or _stored_config(path)
    weights = _weights("transformer", tensors, path)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    config = TransformerConfig.from_dict(stored) if stored else TransformerConfig.from_shapes(shapes)
    dtype, fp8_matmul = WEIGHT_DTYPES[weight_dtype]
    return build_model(
        config,
        weights,
        dtype=dtype,
        fp8_matmul=fp8_matmul,
        trained_resolution=trained_resolution(Path(path).name, stored),
    )


def load_vae_file(path: str) -> EasyAnimateV3VAE:
    """Load the Slice VAE from a single file of the ``vae`` folders.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or another model's.
    """
    return say_what_to_lower(lambda: _load_vae(path), f"load {Path(path).name}", "unload other models")


def _load_vae(path: str) -> EasyAnimateV3VAE:
    weights = _weights("vae", read_state_dict(path), path)
    stored = _stored_config(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    config = SliceVAEConfig.from_dict(stored) if stored else SliceVAEConfig.from_state_dict(shapes)
    return EasyAnimateV3VAE(config, weights)


def model_file_path(kind: str, name: str) -> str:
    """Return the full path of a file of one of the host's model folders.

    Raises
    ------
    CheckpointError
        If it is not there: says which folders were searched and where the release publishes it.
    """
    path = folder_paths.get_full_path(kind, name)
    if path is None:
        places = " or ".join(folder_paths.get_folder_paths(kind))
        raise CheckpointError(
            f"There is no file {name!r} in {places}: download it from {published_as(name)}."
        )
    return path


def _weights(kind: str, state_dict: dict[str, torch.Tensor], path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors that belong in the model, or raise where the file is of another kind."""
    weights = drop_persistent_tables(strip_prefix(state_dict))
    require_kind(kind, weights, path)
    return weights


def _stored_config(path: str | Path) -> dict | None:
    """Return the configuration that a safetensors file carries in its metadata, if any."""
    if not str(path).endswith(".safetensors"):
        return None
    with safetensors.safe_open(path, framework="pt") as file:
        return readable_config((file.metadata() or {}).get("config"))
