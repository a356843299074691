"""This pack's side of the benchmark."""

from collections.abc import Callable
from typing import Any

import torch

from devtools import reference_run
from easyanimate_core.conditioning.inpaint import encode_inpaint, mask_and_masked_video
from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig
from easyanimate_core.vae import SliceVAE, SliceVAEConfig

from . import cases, inputs
from .cases import Case
from .stages import RunClock, Stage

# The mode that ComfyUI runs its nodes in.
gradient_mode = torch.inference_mode


class PlacedVAE(SliceVAE):
    """The VAE used as the host uses it: the clip stays in main memory and visits the device slice by slice."""

    place: dict[str, Any]

    def encode(self, pixels: torch.Tensor, **options: Any) -> torch.Tensor:
        """Return the posterior mean, on the device."""
        return super().encode(pixels, **{**self.place, **options}).to(self.place["device"])

    def decode(self, z: torch.Tensor, **options: Any) -> torch.Tensor:
        """Return pixels, in main memory."""
        return super().decode(z.to("cpu", self.place["dtype"]), **{**self.place, **options})


def make_transformer(case: Case, device: torch.device | str) -> EasyAnimateTransformer3D:
    """Return the case's transformer; on the meta device without weights."""
    config = TransformerConfig.from_dict(cases.transformer_config(case.transformer))
    model = EasyAnimateTransformer3D(config, dtype=getattr(torch, case.dtype), device=device)
    return _filled(model, case, inputs.transformer_weights, device)


def make_vae(case: Case, device: torch.device | str) -> PlacedVAE:
    """Return the case's VAE; on the meta device without weights."""
    dtype = getattr(torch, case.dtype)
    model = PlacedVAE(SliceVAEConfig.from_dict(cases.vae_config(case.vae)), dtype=dtype, device=device)
    model.place = {"device": torch.device(device), "dtype": dtype}
    return _filled(model, case, inputs.weights, device)


def _filled(model: Any, case: Case, weights: Callable[..., Any], device: torch.device | str) -> Any:
    if torch.device(device).type != "meta":
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        model.load_state_dict(weights(case, shapes, device))
    return model.eval().requires_grad_(False)


def prepare(case: Case, device: torch.device) -> Stage:
    """Return the case's stage with its models and inputs on ``device``."""
    if device.type == "cuda":
        # A fraction of 1 is no cap.
        total = torch.cuda.get_device_properties(device).total_memory
        share = 1.0 if case.cap is None else min(case.cap * cases.GIB / total, 1.0)
        torch.cuda.set_per_process_memory_fraction(share, device)
    transformer = make_transformer(case, device) if case.stage in ("step", "pipeline") else None
    vae = make_vae(case, device) if case.stage != "step" else None
    return stage_of(case, device, transformer, vae)


def stage_of(
    case: Case,
    device: torch.device,
    transformer: EasyAnimateTransformer3D | None,
    vae: PlacedVAE | None,
) -> Stage:
    """Return the case's stage on models that are there, with inputs on ``device``."""
    if transformer is not None:
        _adapt(transformer, case, device)
    if case.stage == "step":
        return Stage(_step(case, device, transformer))
    if case.stage == "encode":
        return Stage(_encode(case, vae))
    if case.stage == "decode":
        return Stage(_decode(case, device, vae))
    clock = RunClock(transformer, device, case.steps)
    return Stage(_pipeline(case, device, transformer, vae), clock)


def _adapt(transformer: EasyAnimateTransformer3D, case: Case, device: torch.device) -> None:
    """Let the transformer take and return float32 as in the host, and tell it what memory a cap leaves."""
    dtype = getattr(torch, case.dtype)
    capped = case.cap is not None and device.type == "cuda"

    def free(device: torch.device) -> float:
        # A sixteenth is left for what kernels take for themselves and for gaps.
        return case.cap * cases.GIB * 15 / 16 - torch.cuda.memory_allocated(device)

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if capped:
            kwargs = {**kwargs, "memory_budget": free}
        return (args[0].to(dtype), *args[1:]), kwargs

    transformer.register_forward_pre_hook(before, with_kwargs=True)
    transformer.register_forward_hook(lambda _, args, output: output.float())


def _step(
    case: Case, device: torch.device, transformer: EasyAnimateTransformer3D
) -> Callable[[], torch.Tensor]:
    dtype, rows = getattr(torch, case.dtype), len(cases.TEXT_LENGTHS)
    latent = inputs.normal(case, "latent", case.latent_shape(rows), device).to(dtype)
    inpaint = inputs.normal(case, "inpaint", case.latent_shape(rows, 8), device).to(dtype)
    text = inputs.text(case, transformer.config.caption_channels, device)
    clip = inputs.clip_embedding(case, rows, device)
    timestep = torch.full((rows,), 500.0, device=device)
    return lambda: transformer(torch.cat([latent, inpaint], 1), timestep, text.states, text.lengths, clip)


def _encode(case: Case, vae: PlacedVAE) -> Callable[[], torch.Tensor]:
    start = inputs.start_frame(case)

    def run() -> torch.Tensor:
        # Every run counts as the first of its size.
        vae.forget_even_slices()
        mask, video = mask_and_masked_video(case.frames, case.height, case.width, start=start)
        return encode_inpaint(vae, mask, video)

    return run


def _decode(case: Case, device: torch.device, vae: PlacedVAE) -> Callable[[], torch.Tensor]:
    latent = inputs.normal(case, "latent", case.latent_shape(), device)

    def run() -> torch.Tensor:
        pixels = vae.decode(latent, smoothing=case.smoothing)
        # Of the release a plain decode is the VAE's own, a smoothed one goes on to a picture's range.
        return ((pixels / 2 + 0.5).clamp(0, 1) if case.smoothing else pixels).float()

    return run


def _pipeline(
    case: Case, device: torch.device, transformer: EasyAnimateTransformer3D, vae: PlacedVAE
) -> Callable[[], torch.Tensor]:
    text = inputs.text(case, transformer.config.caption_channels, device)
    negative, positive = (
        reference_run.Prompt(text.states[row : row + 1], [length]) for row, length in enumerate(text.lengths)
    )
    options = {
        "positive": positive,
        "negative": negative,
        "noise": inputs.normal(case, "noise", case.latent_shape(), device),
        "sampler": "Euler",
        "steps": case.steps,
        "cfg": cases.CFG,
        "frames": case.frames,
        "height": case.height,
        "width": case.width,
        "start": inputs.start_frame(case),
        "clip_embed": inputs.clip_embedding(case, 1, device),
        # As in the release, and in ComfyUI where memory reaches for it.
        "together": case.cap is None,
    }

    def run() -> torch.Tensor:
        vae.forget_even_slices()
        return reference_run.run(transformer, vae, **options).video.float()

    return run
