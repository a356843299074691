"""The original release's side of the benchmark: its own code, imported from a checkout and called as its scripts do.

The checkout is of aigc-apps/EasyAnimate at commit b54412c, where EasyAnimateV3 was new.
"""

import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from . import cases, inputs
from .cases import Case
from .stages import RunClock, Stage

# The mode that the release's pipeline runs in.
gradient_mode = torch.no_grad

DIFFUSERS = "0.30"
# Imported by the release's modules, but not used by anything that is measured.
_STAND_INS = ("pytorch_lightning", "torchvision", "decord")
_SCHEDULE = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "steps_offset": 1}


class MissingReleaseError(RuntimeError):
    """The release's code cannot be imported; the message says what is missing."""


class _StandIn(ModuleType):
    """A module in which every name is an empty class."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def open_checkout(folder: Path) -> None:
    """Make the release's code in ``folder`` importable.

    Raises
    ------
    MissingReleaseError
        When it is no checkout of the release, or this Python has not the packages that the release needs.
    """
    if not (folder / "easyanimate" / "models" / "transformer3d.py").is_file():
        raise MissingReleaseError(f"{folder} is no checkout of EasyAnimate: easyanimate/models is not in it.")
    sys.path.insert(0, str(folder))
    needed = f"the release needs diffusers {DIFFUSERS}.x and the rest of devtools/requirements-reference.txt"
    try:
        # Both look for optional packages as they are imported, and must not find a stand-in.
        diffusers, _ = importlib.import_module("diffusers"), importlib.import_module("transformers")
    except ImportError as error:
        raise MissingReleaseError(f"{sys.executable} cannot import {error.name}: {needed}.") from error
    if not diffusers.__version__.startswith(f"{DIFFUSERS}."):
        raise MissingReleaseError(f"{sys.executable} has diffusers {diffusers.__version__}: {needed}.")
    for name in _STAND_INS:
        module = _StandIn(name)
        module.__spec__ = ModuleSpec(name, None)
        sys.modules[name] = module
    if not torch.cuda.is_available():
        # The release's pipeline calls it after every run.
        torch.cuda.ipc_collect = lambda: None


def make_transformer(case: Case, device: torch.device) -> Any:
    """Return the release's ``Transformer3DModel`` with the case's weights."""
    from easyanimate.models.transformer3d import Transformer3DModel

    with torch.device(device):
        model = Transformer3DModel.from_config(cases.transformer_config(case.transformer))
    return _filled(model, case, inputs.transformer_weights, device)


def make_vae(case: Case, device: torch.device) -> Any:
    """Return the release's ``AutoencoderKLMagvit`` with the case's weights."""
    from easyanimate.models.autoencoder_magvit import AutoencoderKLMagvit

    config = cases.vae_config(case.vae)
    # The pipeline reads this entry of the published configuration, which has no other use.
    config["block_out_channels"] = [config["ch"] * factor for factor in config["ch_mult"]]
    with torch.device(device):
        model = AutoencoderKLMagvit.from_config(config)
    return _filled(model, case, inputs.weights, device)


def _filled(model: Any, case: Case, weights: Callable[..., Any], device: torch.device) -> Any:
    # The release's own loaders cast every tensor, norms and tables too.
    model = model.to(device, getattr(torch, case.dtype))
    # Names that end so are tables of sinusoids, which are computed.
    shapes = {name: t.shape for name, t in model.state_dict().items() if not name.endswith(".pe")}
    model.load_state_dict(weights(case, shapes, device), strict=False)
    return model.eval().requires_grad_(False)


def prepare(case: Case, device: torch.device) -> Stage:
    """Return the case's stage with the release's models and the inputs on ``device``."""
    transformer = make_transformer(case, device) if case.stage in ("step", "pipeline") else None
    vae = make_vae(case, device) if case.stage != "step" else None
    if case.stage == "step":
        return Stage(_step(case, device, transformer))
    if case.stage == "decode" and not case.smoothing:
        return Stage(_decode(case, device, vae))
    pipeline = _make_pipeline(transformer, vae)
    if case.stage == "decode":
        return Stage(_smoothed_decode(case, device, pipeline))
    if case.stage == "encode":
        return Stage(_encode(case, device, pipeline))
    return Stage(_pipeline(case, device, pipeline), RunClock(transformer, device, case.steps))


def _make_pipeline(transformer: Any, vae: Any) -> Any:
    from diffusers import EulerDiscreteScheduler
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
    from easyanimate.pipeline.pipeline_easyanimate_inpaint import EasyAnimateInpaintPipeline

    # Noise would hide whether both sides agree.
    DiagonalGaussianDistribution.sample = lambda self, generator=None: self.mean
    pipeline = EasyAnimateInpaintPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=transformer,
        scheduler=EulerDiscreteScheduler(**_SCHEDULE),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _step(case: Case, device: torch.device, transformer: Any) -> Callable[[], torch.Tensor]:
    dtype, rows = getattr(torch, case.dtype), len(cases.TEXT_LENGTHS)
    text = inputs.text(case, transformer.config.caption_channels, device)
    options = {
        "hidden_states": inputs.normal(case, "latent", case.latent_shape(rows), device).to(dtype),
        "inpaint_latents": inputs.normal(case, "inpaint", case.latent_shape(rows, 8), device).to(dtype),
        "encoder_hidden_states": text.states,
        "encoder_attention_mask": text.mask,
        "timestep": torch.full((rows,), 500.0, device=device),
        "clip_encoder_hidden_states": inputs.clip_embedding(case, rows, device),
        "clip_attention_mask": torch.ones(rows, cases.CLIP_TOKENS, device=device, dtype=dtype),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        "return_dict": False,
    }
    return lambda: transformer(**options)[0].float()


def _given(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the clip ``[1, 3, frames, height, width]`` in [0, 1] and its mask, 0 where a frame is given, else 1."""
    video = torch.zeros(1, 3, case.frames, case.height, case.width)
    mask = torch.ones_like(video[:, :1])
    start = inputs.start_frame(case)
    if start is not None:
        video[0, :, 0] = start[0].permute(2, 0, 1)
        mask[:, :, 0] = 0
    return video, mask


def _encode(case: Case, device: torch.device, pipeline: Any) -> Callable[[], torch.Tensor]:
    def run() -> torch.Tensor:
        video, mask = _given(case)
        dtype = getattr(torch, case.dtype)
        masks, given = mask.expand(-1, 3, -1, -1, -1), video * 2 - 1
        latents = pipeline.prepare_mask_latents(
            masks, given, 1, case.height, case.width, dtype, device, None, True
        )
        return torch.cat(latents, 1)

    return run


def _decode(case: Case, device: torch.device, vae: Any) -> Callable[[], torch.Tensor]:
    latent = inputs.normal(case, "latent", case.latent_shape(), device).to(getattr(torch, case.dtype))
    return lambda: vae.decode(latent)[0].float().cpu()


def _smoothed_decode(case: Case, device: torch.device, pipeline: Any) -> Callable[[], torch.Tensor]:
    latent = inputs.normal(case, "latent", case.latent_shape(), device).to(getattr(torch, case.dtype))
    scaled = latent * pipeline.vae.config.scaling_factor
    return lambda: torch.from_numpy(pipeline.decode_latents(scaled))


def _pipeline(case: Case, device: torch.device, pipeline: Any) -> Callable[[], torch.Tensor]:
    video, mask = _given(case)
    dtype = getattr(torch, case.dtype)
    text = inputs.text(case, pipeline.transformer.config.caption_channels, device)
    clip = inputs.clip_embedding(case, 1, device)
    # Stand for CLIP's own two programs, whose result is given here.
    pipeline.clip_image_processor = lambda images, return_tensors: {"pixel_values": images}
    pipeline.clip_image_encoder = lambda pixel_values: SimpleNamespace(image_embeds=clip)
    options = {
        "prompt_embeds": text.states[1:],
        "prompt_attention_mask": text.mask[1:],
        "negative_prompt_embeds": text.states[:1],
        "negative_prompt_attention_mask": text.mask[:1],
        "negative_prompt": None,
        "latents": inputs.normal(case, "noise", case.latent_shape(), device).to(dtype),
        "video": video,
        "mask_video": mask,
        "clip_image": torch.zeros(1) if case.given else None,
        "video_length": case.frames,
        "height": case.height,
        "width": case.width,
        "num_inference_steps": case.steps,
        "guidance_scale": cases.CFG,
    }
    return lambda: pipeline(**options).videos
