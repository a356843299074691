"""The release's samplers as a ComfyUI SAMPLER."""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch

from ..sampling import SAMPLER_FUNCTIONS, initial_noise_scale, model_call_count, release_sigmas
from ..sampling.schedule import STEP_RANGES
from .clip_schedule import CALL_OPTION
from .conditioning import set_clip_apply_ratio


class _CountedModel:
    """Tells the transformer which model call of the run is under way, and stops at the user's cancel."""

    def __init__(self, model: Callable[..., torch.Tensor], calls: int) -> None:
        self.model = model
        self.calls = calls
        self.index = 0

    def __call__(
        self, x: torch.Tensor, sigma: torch.Tensor, model_options: dict[str, Any], **kwargs: Any
    ) -> Any:
        comfy.model_management.throw_exception_if_processing_interrupted()
        options = {**model_options.get("transformer_options", {}), CALL_OPTION: (self.index, self.calls)}
        self.index += 1
        return self.model(x, sigma, model_options={**model_options, "transformer_options": options}, **kwargs)


class ReleaseSampler(comfy.samplers.KSAMPLER):
    """One of ``Euler``, ``Euler A``, ``DPM++``, ``PNDM`` and ``DDIM`` as diffusers 0.30 runs them.

    Parameters
    ----------
    name : str
        One of :data:`..sampling.SAMPLERS`.
    clip_sample : bool
        DDIM only: clamp each predicted clean latent to [-1, 1], as the release does.
    whole_run : bool
        Whether the run starts from pure noise (denoise 1).
    batch_index : list of int, optional
        Euler A only: place of each clip in the batch that it comes from, as the host's LATENT has it.
    """

    def __init__(
        self,
        name: str,
        clip_sample: bool = True,
        whole_run: bool = True,
        batch_index: list[int] | None = None,
    ) -> None:
        self.name = name
        self.whole_run = whole_run
        options = {"DDIM": {"clip_sample": clip_sample}, "Euler A": {"batch_index": batch_index}}
        super().__init__(self._run, options.get(name, {}))

    def max_denoise(self, model_wrap: Any, sigmas: torch.Tensor) -> bool:
        """Tell whether unit noise is scaled by sqrt(1 + sigma^2), which DPM++, PNDM and DDIM start a whole run from."""
        return self.whole_run and initial_noise_scale(self.name, 1.0) != 1.0

    def _run(
        self,
        model: Callable[..., torch.Tensor],
        x: torch.Tensor,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        counted = _CountedModel(model, model_call_count(self.name, len(sigmas) - 1))
        return SAMPLER_FUNCTIONS[self.name](counted, x, sigmas, extra_args=extra_args, **kwargs)


def denoised_sigmas(name: str, steps: int, denoise: float = 1.0) -> torch.Tensor:
    """Return the release's noise levels, cut to their last ``steps`` of ``steps / denoise`` as KSampler cuts them.

    Parameters
    ----------
    name : str
        One of :data:`..sampling.SAMPLERS`.
    steps : int
        Steps to run.
    denoise : float
        In [0, 1]; 0 gives no noise level at all.
    """
    if denoise <= 0:
        return torch.empty(0)
    fewest, most = STEP_RANGES[name]
    # A tiny denoise would make it infinite.
    total = max(int(min(steps / denoise, 1e9)), steps)
    if total > most >= steps:
        fitting = int(most * denoise)
        advice = f"at most {fitting} steps or a higher denoise" if fitting >= fewest else "a higher denoise"
        raise ValueError(
            f"{steps} steps at denoise {denoise:g} are the end of a schedule of {total} steps, and {name} has at most "
            f"{most}: take {advice}."
        )
    return release_sigmas(name, total)[-(steps + 1) :]


def sample_latent(
    model: Any,
    positive: list,
    negative: list,
    latent: torch.Tensor,
    *,
    seed: int,
    sigmas: torch.Tensor,
    cfg: float,
    sampler_name: str,
    clip_apply_ratio: float,
    callback: Callable[..., None] | None = None,
    clip_sample: bool = True,
    whole_run: bool = True,
    batch_index: list[int] | None = None,
    noise_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sample a clip with one of the release's samplers on the host's MODEL.

    Parameters
    ----------
    model : comfy.model_patcher.ModelPatcher
        Transformer.
    positive, negative : list
        CONDITIONING with the inpainting latents.
    latent : torch.Tensor
        ``[batch, 4, frames, height, width]`` to start from; zeros for a new clip.
    seed : int
        Of the noise.
    sigmas : torch.Tensor
        Noise levels of :func:`denoised_sigmas`.
    cfg : float
        Scale of classifier-free guidance.
    sampler_name : str
        One of :data:`..sampling.SAMPLERS`.
    clip_apply_ratio : float
        Share of the model calls, at the end, that use CLIP tokens.
    callback : callable, optional
        Called with step, clean latent, latent and number of steps after each step.
    clip_sample, whole_run : bool
        As :class:`ReleaseSampler` takes them.
    batch_index, noise_mask : optional
        Entries of the host's LATENT.

    Returns
    -------
    torch.Tensor
        The sampled latent, of the shape of ``latent``.
    """
    return comfy.sample.sample_custom(
        model,
        comfy.sample.prepare_noise(latent, seed, batch_index),
        cfg,
        ReleaseSampler(sampler_name, clip_sample, whole_run, batch_index),
        sigmas,
        set_clip_apply_ratio(positive, clip_apply_ratio),
        set_clip_apply_ratio(negative, clip_apply_ratio),
        latent,
        noise_mask=noise_mask,
        callback=callback,
        seed=seed,
    )
