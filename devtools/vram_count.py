"""What the released checkpoints take of a GPU's memory, counted from shapes by the functions that ComfyUI asks.

Needs no GPU and no weights: models are built on torch's meta device. Import this module first in a process, since it
starts ComfyUI's modules.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from .environment import ROOT, host_path

sys.path.insert(0, str(host_path()))
_own_argv, sys.argv = sys.argv, ["main.py", "--cpu"]
import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.cli_args  # noqa: E402

# Before the host's `nodes`, which puts comfy/ first on sys.path, where comfy/utils.py shadows this package.
import utils.extra_config  # noqa: E402, F401

sys.argv = _own_argv
import comfy.clip_model  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.text_encoders.t5  # noqa: E402

from easyanimate_core.host.model import SPARE_BYTES, EasyAnimateV3Config, EasyAnimateV3Model  # noqa: E402
from easyanimate_core.host.vae import EasyAnimateV3VAE  # noqa: E402
from easyanimate_core.transformer import TransformerConfig  # noqa: E402
from easyanimate_core.transformer.memory import SKIPS, MemoryPlan, choose_plan  # noqa: E402
from easyanimate_core.vae import SPACE_FACTOR, SliceVAE, SliceVAEConfig, latent_frames  # noqa: E402

GB = 1e9
CARDS = (8, 12, 16, 24, 48)
# Width and height that each checkpoint is meant for.
SIZES = {512: (672, 384), 768: (1008, 576), 960: (1248, 720)}
LENGTHS = (72, 144)
# The transformer's memory plans, the fastest first.
PLANS = ("whole", "chunks", "parked")
WEIGHTS = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
# What ComfyUI leaves free for others: 400 MiB, on Windows 600, and 700 there on cards of 16 GB and more.
RESERVED_BYTES = 700 * 1024**2
# Both sides of CFG run together where so many times what they ask for is free (`calc_cond_batch` of ComfyUI).
TOGETHER = 1.5
_MANIFESTS = ROOT / "tests" / "golden" / "misc"


def latent_shape(width: int, height: int, frames: int, rows: int = 1) -> tuple[int, ...]:
    """Return the shape of a clip's latent, ``rows`` times."""
    return rows, 4, latent_frames(frames), height // SPACE_FACTOR, width // SPACE_FACTOR


def _manifest(kind: str) -> dict[str, Any]:
    return json.loads((_MANIFESTS / f"{kind}_manifest.json").read_text(encoding="utf-8"))


@cache
def transformer(weights: str) -> EasyAnimateV3Model:
    """Return the full-size model with weights of one of :data:`WEIGHTS`, without their values."""
    config = EasyAnimateV3Config(TransformerConfig.from_dict(_manifest("transformer")["config"]))
    dtype = WEIGHTS[weights]
    config.set_inference_dtype(dtype, None if dtype == torch.bfloat16 else torch.bfloat16)
    return config.get_model({}, device="meta")


def transformer_bytes(weights: str) -> int:
    """Return the size of the transformer's weights."""
    return comfy.model_management.module_size(transformer(weights).diffusion_model)


@cache
def _vae(tiled: bool) -> EasyAnimateV3VAE:
    manifest = _manifest("vae")
    config = replace(SliceVAEConfig.from_dict(manifest["config"]), use_tiling=tiled)
    return EasyAnimateV3VAE(
        config, {name: torch.empty(shape, device="meta") for name, shape in manifest["tensors"].items()}
    )


def decode_bytes(width: int, height: int, tiled: bool = True) -> float:
    """Return what ComfyUI is asked for before a clip is decoded in bfloat16; the length does not count."""
    return _vae(tiled).memory_used_decode(latent_shape(width, height, 8), torch.bfloat16)


def encode_bytes(width: int, height: int, frames: int) -> float:
    """Return what ComfyUI is asked for before a clip is encoded in bfloat16, in tiles."""
    return _vae(True).memory_used_encode((1, 3, frames, height, width), torch.bfloat16)


def other_weights() -> dict[str, int]:
    """Return the sizes of the models beside the transformer, by name and dtype."""
    t5_file = Path(comfy.text_encoders.t5.__file__).with_name("t5_config_xxl.json")
    clip_file = Path(comfy.clip_model.__file__).with_name("clip_vision_config_vitl.json")
    t5_config, clip_config = (json.loads(file.read_text(encoding="utf-8")) for file in (t5_file, clip_file))
    place = ("meta", comfy.ops.manual_cast)
    models = {
        "T5 XXL, bf16": comfy.text_encoders.t5.T5(t5_config, torch.bfloat16, *place),
        "T5 XXL, fp8": comfy.text_encoders.t5.T5(t5_config, torch.float8_e4m3fn, *place),
        "CLIP ViT-L/14, fp16": comfy.clip_model.CLIPVisionModelProjection(clip_config, torch.float16, *place),
        "Slice VAE, bf16": SliceVAE(_vae(True).config, dtype=torch.bfloat16, device="meta"),
    }
    return {name: comfy.model_management.module_size(model) for name, model in models.items()}


def plans(width: int, height: int, frames: int, rows: int) -> dict[str, MemoryPlan]:
    """Return the memory plans of a forward by name; a clip that is too small to be cut has the first alone."""
    found = transformer("bf16").memory_plans(latent_shape(width, height, frames, rows))
    return dict(zip(PLANS, found, strict=False))


def parked_bytes(found: dict[str, MemoryPlan]) -> int:
    """Return the pinned main memory of parked skips, each rounded up to a power of two as torch does it.

    Parameters
    ----------
    found : dict
        Of :func:`plans`.
    """
    skip = (found["chunks"].bytes - found["parked"].bytes) // SKIPS
    return SKIPS * (1 << (skip - 1).bit_length())


@contextmanager
def _card(size: float) -> Iterator[None]:
    """Let ComfyUI see a GPU of so many bytes."""
    queries = {
        "get_torch_device": lambda: torch.device("cuda"),
        "get_total_memory": lambda device=None: size,
        "extra_reserved_memory": lambda: RESERVED_BYTES,
    }
    with mock.patch.multiple(comfy.model_management, **queries):
        yield


@dataclass(frozen=True)
class Sampling:
    """How a forward runs on a card.

    Attributes
    ----------
    together : bool
        Whether both sides of CFG run in one forward, or one after the other.
    plan : str
        Name of the memory plan.
    bytes : float
        Weights, activations, what arrives later, and what ComfyUI leaves free.
    fits : bool
        Whether all weights stay on the card.
    """

    together: bool
    plan: str
    bytes: float
    fits: bool


def needed(weights: str, activations: float) -> float:
    """Return what a card must have for a forward with all weights on it."""
    return transformer_bytes(weights) + activations + SPARE_BYTES + RESERVED_BYTES


def sampling(gigabytes: float, weights: str, width: int, height: int, frames: int) -> Sampling:
    """Return what ComfyUI and the transformer choose on a card that has nothing else on it."""
    model, card = transformer(weights), gigabytes * GB
    free = card - transformer_bytes(weights)
    with _card(card):
        asked = model.memory_required(list(latent_shape(width, height, frames, 2)))
    together = asked * TOGETHER < free
    found = plans(width, height, frames, 2 if together else 1)
    plan = choose_plan(list(found.values()), free - SPARE_BYTES - RESERVED_BYTES)
    name = next(name for name, other in found.items() if other == plan)
    total = needed(weights, plan.bytes)
    return Sampling(together, name, total, total <= card)


def smallest_card(
    weights: str, width: int, height: int, frames: int, least: str, together: bool
) -> int | None:
    """Return the smallest of :data:`CARDS` whose sampling runs at least as ``least`` says, or None.

    Parameters
    ----------
    least : str
        Slowest plan that is good enough: "whole", "chunks" or "parked".
    together : bool
        Whether both sides of CFG must run in one forward.
    """
    for card in CARDS:
        found = sampling(card, weights, width, height, frames)
        good = PLANS.index(found.plan) <= PLANS.index(least) and (found.together or not together)
        if found.fits and good:
            return card
    return None
