"""The CLIP image encoder of a checkpoint folder as a native ComfyUI CLIP_VISION."""

import json
import tempfile
from pathlib import Path
from typing import Any

import comfy.clip_vision
import torch

from ..conditioning.clip_image import CLIP_SIZE, clip_image

# Values that Hugging Face leaves out of config.json where they are CLIPVisionConfig's defaults.
_DEFAULTS = {
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "image_size": 224,
    "intermediate_size": 3072,
    "model_type": "clip_vision_model",
    "num_attention_heads": 12,
    "num_channels": 3,
    "num_hidden_layers": 12,
    "patch_size": 32,
    "projection_dim": 512,
}


def load_image_encoder(
    config: dict[str, Any], state_dict: dict[str, torch.Tensor]
) -> comfy.clip_vision.ClipVisionModel:
    """Build a CLIP_VISION of any size with projection.

    Parameters
    ----------
    config : dict
        ``image_encoder/config.json`` of the folder (Hugging Face's CLIPVisionConfig).
    state_dict : dict of str to torch.Tensor
        Weights under Hugging Face's names.

    Raises
    ------
    ValueError
        If tensors are missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        # The host's constructor takes a file, and the checkpoint's own one may leave defaults out.
        path = Path(folder) / "config.json"
        path.write_text(json.dumps({**_DEFAULTS, **config}), encoding="utf-8")
        model = comfy.clip_vision.ClipVisionModel(str(path))
    missing, _ = model.load_sd(state_dict)
    if missing:
        raise ValueError(f"image_encoder lacks the tensor {missing[0]}; take the folder of the release anew.")
    return model


def encode_image(clip_vision: Any, images: torch.Tensor) -> Any:
    """Embed the first of some images with the release's preprocessing.

    Parameters
    ----------
    clip_vision : comfy.clip_vision.ClipVisionModel
        CLIP ViT-L/14, or None where a loader found none.
    images : torch.Tensor
        ``[images, height, width, 3]`` in [0, 1].

    Returns
    -------
    comfy.clip_vision.Output
        The host's CLIP_VISION_OUTPUT.

    Raises
    ------
    ValueError
        Without a model.
    """
    if clip_vision is None:
        raise ValueError("there is no CLIP vision model: the loader that it comes from did not find one.")
    size = getattr(clip_vision, "image_size", CLIP_SIZE)
    return clip_vision.encode_image(clip_image(images[:1], size))
