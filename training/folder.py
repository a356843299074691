"""From trained stages to a checkpoint folder in the release's layout, and back."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from easyanimate_core.vae import SliceVAE

from . import encoders, models
from .clips import ClipError
from .loop import save_whole
from .whole import whole_file

_WEIGHTS = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "image_encoder": "model.safetensors",
}


def standardise(vae: SliceVAE, latents: torch.Tensor) -> None:
    """Change a trained VAE, without changing what it reconstructs, so that its scaled latents have mean 0 and variance 1.

    Both are absorbed by the 1x1x1 convolutions at the encoder's end and the decoder's beginning.

    Parameters
    ----------
    vae : SliceVAE
        Changed in place.
    latents : torch.Tensor
        Posterior means of many clips, ``[clips, 4, T, height, width]``, not scaled.
    """
    axes = (0, 2, 3, 4)
    mean = latents.double().mean(axes)
    scale = latents.double().std(axes) * vae.config.scaling_factor
    quant, post = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    with torch.no_grad():
        weight, bias = quant.weight.double(), quant.bias.double()
        weight[:channels] /= scale.view(-1, 1, 1, 1, 1)
        bias[:channels] = (bias[:channels] - mean) / scale
        bias[channels:] -= 2 * scale.log()
        quant.weight.copy_(weight)
        quant.bias.copy_(bias)
        weight = post.weight.double()
        post.bias.copy_(post.bias.double() + weight.flatten(1) @ mean)
        post.weight.copy_(weight * scale.view(1, -1, 1, 1, 1))


def write(
    folder: Path,
    transformer: Mapping[str, torch.Tensor],
    vae: Mapping[str, torch.Tensor],
    text: Mapping[str, torch.Tensor],
    image: Mapping[str, torch.Tensor],
    transformer_config: dict[str, Any] | None = None,
    vae_config: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint folder; needs the packages safetensors and sentencepiece.

    Parameters
    ----------
    folder : Path
        Folder to write, named so that its resolution is told (``...-64x64``).
    transformer, vae, text, image : mapping
        Tensors under the official names. The VAE is stored in float16 (its weights are small and its numbers fine), the
        rest in bfloat16.
    transformer_config, vae_config : dict, optional
        Their ``config.json``; nano's by default.
    """
    from safetensors.torch import save_file

    from .tokenizer import write_sentencepiece

    folder = Path(folder)
    parts = {
        "transformer": (transformer_config or models.transformer_config(), transformer, torch.bfloat16),
        "vae": (vae_config or models.vae_config(), vae, torch.float16),
        "text_encoder": (encoders.text_config(), text, torch.bfloat16),
        "image_encoder": (encoders.image_config(), image, torch.bfloat16),
    }
    for name, (config, tensors, dtype) in parts.items():
        _write_json(folder / name / "config.json", config)
        stored = {key: value.to(dtype).contiguous() for key, value in sorted(tensors.items())}
        with whole_file(folder / name / _WEIGHTS[name]) as partial:
            save_file(stored, partial, metadata={"format": "pt"})
    _write_json(folder / "image_encoder" / "preprocessor_config.json", encoders.preprocessor_config())
    _write_json(folder / "scheduler" / "scheduler_config.json", models.scheduler_config())
    write_sentencepiece(folder / "tokenizer" / "spiece.model")
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    _write_json(folder / "tokenizer" / "special_tokens_map.json", special)
    settings = {"tokenizer_class": "T5Tokenizer", "model_max_length": 512, "extra_ids": 0, "legacy": True}
    _write_json(folder / "tokenizer" / "tokenizer_config.json", {**special, **settings})
    _write_json(folder / "model_index.json", models.model_index())
    return folder


def read(folder: Path, component: str) -> dict[str, torch.Tensor]:
    """Return a component's tensors in float32; needs the package safetensors."""
    from easyanimate_core.checkpoint import read_state_dict

    return {name: tensor.float() for name, tensor in read_state_dict(Path(folder) / component).items()}


def unpack(checkpoint: Path, run: Path) -> None:
    """Lay out a checkpoint folder as finished stages of a run, so that training can go on from it with torch alone.

    The configurations of transformer and VAE come along, which give their sizes.

    Raises
    ------
    ClipError
        If something was trained in the run already.
    """
    if begun := sorted(Path(run).glob("*/state.pt")):
        raise ClipError(f"{begun[0].parent} was trained already: unpack into another run's folder.")
    stages = {
        "vae": read(checkpoint, "vae"),
        "encoders": {
            **{f"text.{name}": tensor for name, tensor in read(checkpoint, "text_encoder").items()},
            **{f"image.{name}": tensor for name, tensor in read(checkpoint, "image_encoder").items()},
        },
        "dit": read(checkpoint, "transformer"),
    }
    for stage, tensors in stages.items():
        save_whole(Path(run) / stage / "weights.pt", tensors)
    for stage, component in (("vae", "vae"), ("dit", "transformer")):
        with whole_file(Path(run) / stage / "config.json") as partial:
            shutil.copyfile(Path(checkpoint) / component / "config.json", partial)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
