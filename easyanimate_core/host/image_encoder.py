"""The CLIP image encoder of a checkpoint folder as a native ComfyUI CLIP_VISION."""

import json
import tempfile
from pathlib import Path
from typing import Any

import comfy.clip_vision
import torch

from ..conditioning.clip_image import CLIP_SIZE, clip_image
from ..values import ConfigValues
from .inputs import kind
from .loading import require_fit, require_plain
from .out_of_memory import say_what_to_lower

_SOURCE = "image_encoder/config.json"
RGB = 3
_ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh")
_EMBEDDINGS = "vision_model.embeddings."
_LAYERS = "vision_model.encoder.layers."
# Values that Hugging Face leaves out of config.json where they are CLIPVisionConfig's defaults.
_DEFAULTS = {
    "hidden_size": 768,
    "image_size": 224,
    "intermediate_size": 3072,
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
        If tensors are missing, or the configuration gives another model than theirs.
    """
    host_config = _host_config(config, state_dict)
    require_plain(state_dict)
    with tempfile.TemporaryDirectory() as folder:
        # The host's constructor takes a file, and the checkpoint's own one may leave defaults out.
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(host_config), encoding="utf-8")
        model = comfy.clip_vision.ClipVisionModel(str(path))
    for name, parameter in model.get_sd().items():
        if name not in state_dict:
            raise ValueError(f"image_encoder lacks the tensor {name}; take the folder of the release anew.")
        require_fit(name, state_dict[name], parameter)
    model.load_sd(state_dict)
    return model


def _host_config(config: dict[str, Any], state_dict: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return what the host's model reads, once it is sure that the model is no larger than its tensors."""
    read = ConfigValues(config, _SOURCE)
    values = {key: read.whole(key, default) for key, default in _DEFAULTS.items()}
    width, patch, channels = values["hidden_size"], values["patch_size"], values["num_channels"]
    expected = {
        f"{_EMBEDDINGS}patch_embedding.weight": (
            (width, channels, patch, patch),
            "hidden_size, num_channels, patch_size",
        ),
        f"{_EMBEDDINGS}position_embedding.weight": (
            ((values["image_size"] // patch) ** 2 + 1, width),
            "image_size",
        ),
        f"{_LAYERS}0.mlp.fc1.weight": ((values["intermediate_size"], width), "intermediate_size"),
        "visual_projection.weight": ((values["projection_dim"], width), "projection_dim"),
    }
    for name, (shape, keys) in expected.items():
        if name in state_dict and tuple(state_dict[name].shape) != shape:
            raise ValueError(
                f"image_encoder's tensor {name} has shape {list(state_dict[name].shape)[:8]}, but config.json gives "
                f"{list(shape)} ({keys}); take the folder of the release anew."
            )
    layers = len({name[len(_LAYERS) :].split(".", 1)[0] for name in state_dict if name.startswith(_LAYERS)})
    if layers != values["num_hidden_layers"]:
        raise ValueError(
            f"image_encoder has {layers} layers, but config.json gives {values['num_hidden_layers']} (num_hidden_layers); "
            "take the folder of the release anew."
        )
    if width % values["num_attention_heads"] or channels != RGB:
        raise ValueError(
            f"{_SOURCE} has num_attention_heads {values['num_attention_heads']} and num_channels {channels}, but a number "
            f"that divides hidden_size {width} and {RGB} are needed; take the file of the release."
        )
    return {
        **values,
        "hidden_act": read.one_of("hidden_act", "quick_gelu", _ACTIVATIONS),
        "model_type": read.one_of("model_type", "clip_vision_model", ("clip_vision_model",)),
    }


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
    if not hasattr(clip_vision, "encode_image"):
        raise ValueError(
            f"clip_vision is {kind(clip_vision)}, and no CLIP vision model: connect the CLIP_VISION of "
            "EasyAnimateV3Loader or CLIPVisionLoader."
        )
    size = getattr(clip_vision, "image_size", CLIP_SIZE)
    return say_what_to_lower(
        lambda: clip_vision.encode_image(clip_image(images[:1], size)),
        f"encode an image of {images.shape[2]}x{images.shape[1]} pixels with CLIP",
        "give a smaller image, or unload other models",
    )
