"""The five samplers of the EasyAnimateV3 release, with the calling convention of k-diffusion and ComfyUI.

All take ``(model, x, sigmas, extra_args=None, callback=None, disable=None)``:

* ``model(x, sigma, **extra_args)`` returns the denoised latent (prediction of x0) for a float32 ``sigma`` of
  shape ``[batch]``;
* ``x`` is the noised latent, batch first, in the variance-exploding scale, which is ``sqrt(1 + sigma^2)`` times
  the variance-preserving scale that diffusers' PNDM, DDIM and DPM-Solver use;
* ``sigmas`` is a descending 1-D tensor of the borders of the steps. It may start and stop anywhere;
* ``callback`` is called once a step, before the update, with a dict of ``i``, ``denoised``, ``x``, ``sigma`` and
  ``sigma_hat``;
* ``disable`` belongs to the convention (it hides k-diffusion's progress bar) and is ignored.

In this scale the transfer step that diffusers' DDIM and PNDM share is ``x + (sigma_next - sigma) * eps``.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

from .schedule import NoiseSchedule, runge_kutta_steps

Model = Callable[..., torch.Tensor]
StepCallback = Callable[[dict[str, Any]], None]
NoiseSampler = Callable[[Any, Any], torch.Tensor]


class _Run:
    """The model, its arguments and the callback of one sampling run."""

    def __init__(
        self, model: Model, extra_args: dict[str, Any] | None, callback: StepCallback | None
    ) -> None:
        self._model = model
        self._extra_args = extra_args or {}
        self._callback = callback

    def denoise(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        batch_sigma = torch.full((x.shape[0],), sigma, dtype=torch.float32, device=x.device)
        return self._model(x, batch_sigma, **self._extra_args)

    def report(self, index: int, x: torch.Tensor, sigma: torch.Tensor, denoised: torch.Tensor) -> None:
        if self._callback is not None:
            self._callback({"i": index, "denoised": denoised, "x": x, "sigma": sigma, "sigma_hat": sigma})


def sample_euler(
    model: Model,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: StepCallback | None = None,
    disable: bool | None = None,
) -> torch.Tensor:
    """Sample with Euler steps (Karras et al. 2022, without churn); see the module for the parameters.

    Returns
    -------
    torch.Tensor
        Latent of the shape of ``x``, in the variance-exploding scale of the last sigma.
    """
    run, levels = _Run(model, extra_args, callback), sigmas.tolist()
    for i, (sigma, following) in enumerate(pairwise(levels)):
        denoised = run.denoise(x, sigma)
        run.report(i, x, sigmas[i], denoised)
        x = x + (x - denoised) / sigma * (following - sigma)
    return x


# Any odd number far from small ones, so that the clips of neighbouring seeds have noise of their own.
_CLIP_STRIDE = 0x9E3779B97F4A7C15


def _clip_seeds(seed: int, clips: Sequence[int]) -> list[int]:
    """Return a seed for the step noise of each clip, by its place in the batch; the first has the seed itself."""
    return [(seed + clip * _CLIP_STRIDE) % 2**64 for clip in clips]


def _continued_noise(x: torch.Tensor, seeds: Sequence[int] | None) -> NoiseSampler:
    """Return a noise source for each clip that goes on where its seed's first latent, the initial noise, ends."""
    generators = [torch.Generator() for _ in x]
    for index, generator in enumerate(generators):
        if seeds is None:
            generator.seed()
        else:
            generator.manual_seed(seeds[index])
            torch.randn(x.shape[1:], generator=generator)

    def noise(sigma: Any, sigma_next: Any) -> torch.Tensor:
        return torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in generators]).to(x)

    return noise


def sample_euler_ancestral(
    model: Model,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: StepCallback | None = None,
    disable: bool | None = None,
    *,
    noise_sampler: NoiseSampler | None = None,
    batch_index: Sequence[int] | None = None,
) -> torch.Tensor:
    """Sample with ancestral Euler steps (the release's "Euler A"); see the module for the common parameters.

    Parameters
    ----------
    noise_sampler : callable, optional
        ``noise_sampler(sigma, sigma_next)`` returns unit normal noise of the shape of ``x``, once for each step
        that does not end at sigma 0. By default a CPU generator for each clip, so that its neighbours do not matter,
        seeded from ``extra_args["seed"]``. Its first draw is skipped: it is the initial noise of the first clip, and
        step noise equal to it would be correlated with ``x``.
    batch_index : sequence of int, optional
        Place of each clip in the batch that it comes from, which picks its noise; 0, 1, ... by default, and where
        there are not as many as clips.

    Returns
    -------
    torch.Tensor
        Latent of the shape of ``x``, in the variance-exploding scale of the last sigma.
    """
    run, levels = _Run(model, extra_args, callback), sigmas.tolist()
    if noise_sampler is None:
        seed = (extra_args or {}).get("seed")
        clips = batch_index if batch_index is not None and len(batch_index) == len(x) else range(len(x))
        noise_sampler = _continued_noise(x, None if seed is None else _clip_seeds(seed, clips))
    for i, (sigma, following) in enumerate(pairwise(levels)):
        denoised = run.denoise(x, sigma)
        run.report(i, x, sigmas[i], denoised)
        added = following * math.sqrt(sigma**2 - following**2) / sigma
        target = math.sqrt(following**2 - added**2)
        x = x + (x - denoised) / sigma * (target - sigma)
        if following > 0:
            x = x + noise_sampler(sigmas[i], sigmas[i + 1]) * added
    return x


def sample_dpmpp_2m(
    model: Model,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: StepCallback | None = None,
    disable: bool | None = None,
) -> torch.Tensor:
    """Sample with second-order multistep DPM-Solver++ (Lu et al. 2022, midpoint); see the module for the parameters.

    The first step and a step to sigma 0 are first order.

    Returns
    -------
    torch.Tensor
        Latent of the shape of ``x``, in the variance-exploding scale of the last sigma.
    """
    run, levels = _Run(model, extra_args, callback), sigmas.tolist()
    previous, previous_width = None, 0.0
    for i, (sigma, following) in enumerate(pairwise(levels)):
        denoised = run.denoise(x, sigma)
        run.report(i, x, sigmas[i], denoised)
        width = math.log(sigma / following) if following > 0 else math.inf
        estimate = denoised
        # A width of 0 is a repeated sigma: rounding makes one in a list of a thousand steps.
        if previous is not None and previous_width > 0 and following > 0:
            estimate = denoised + (denoised - previous) * (0.5 * width / previous_width)
        x = x * (following / sigma) + estimate * (1 - following / sigma)
        previous, previous_width = denoised, width
    return x


def sample_ddim(
    model: Model,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: StepCallback | None = None,
    disable: bool | None = None,
    *,
    clip_sample: bool = True,
) -> torch.Tensor:
    """Sample with deterministic DDIM (Song et al. 2020, eta 0); see the module for the common parameters.

    Parameters
    ----------
    clip_sample : bool, optional
        Clamp the predicted latent to [-1, 1] in every step, as the release does. It washes colours out; switch
        it off for better images.

    Returns
    -------
    torch.Tensor
        Latent of the shape of ``x``. At a last sigma of 0 both scales agree; otherwise variance-exploding.
    """
    run, levels = _Run(model, extra_args, callback), sigmas.tolist()
    for i, (sigma, following) in enumerate(pairwise(levels)):
        denoised = run.denoise(x, sigma)
        run.report(i, x, sigmas[i], denoised)
        # The direction keeps the unclamped prediction, as diffusers does by default.
        eps = (x - denoised) / sigma
        x = (denoised.clamp(-1, 1) if clip_sample else denoised) + eps * following
    return x


# Adams-Bashforth weights, newest first, by the number of predictions at hand.
_MULTISTEP_WEIGHTS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def _multistep(history: list[torch.Tensor]) -> torch.Tensor:
    weights = _MULTISTEP_WEIGHTS[len(history)]
    return sum(weight * eps for weight, eps in zip(weights, reversed(history), strict=True))


def sample_pndm(
    model: Model,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: StepCallback | None = None,
    disable: bool | None = None,
    *,
    schedule: NoiseSchedule | None = None,
) -> torch.Tensor:
    """Sample with PNDM (Liu et al. 2022, F-PNDM); see the module for the common parameters.

    The first three steps are Runge-Kutta steps of four model calls, the others linear multistep of fourth order.
    A list of fewer than four steps keeps its last step multistep, of the order that the history allows.

    Parameters
    ----------
    schedule : NoiseSchedule, optional
        Gives the sigmas half-way between two steps, which are half-way in timesteps; a new one by default.

    Returns
    -------
    torch.Tensor
        Latent of the shape of ``x``: variance-preserving (the release's final latent) when the run goes down to
        sigma(0) or below; still variance-exploding, ready for another sampler, when it stops earlier.
    """
    run, levels = _Run(model, extra_args, callback), sigmas.tolist()
    schedule = schedule or NoiseSchedule()
    timesteps = schedule.timestep(sigmas).tolist()
    first_multistep = runge_kutta_steps(len(levels) - 1)
    history: list[torch.Tensor] = []
    for i, (sigma, following) in enumerate(pairwise(levels)):
        denoised = run.denoise(x, sigma)
        run.report(i, x, sigmas[i], denoised)
        eps = (x - denoised) / sigma
        history = [*history[-3:], eps]
        if i < first_multistep:
            eps = _runge_kutta(run, schedule, x, eps, sigma, following, timesteps[i], timesteps[i + 1])
        else:
            eps = _multistep(history)
        x = x + eps * (following - sigma)
    if levels and levels[-1] <= float(schedule.sigma(0.0)):
        x = x / math.sqrt(1 + levels[-1] ** 2)
    return x


def _runge_kutta(
    run: _Run,
    schedule: NoiseSchedule,
    x: torch.Tensor,
    eps1: torch.Tensor,
    sigma: float,
    following: float,
    timestep: float,
    timestep_following: float,
) -> torch.Tensor:
    """Return the fourth-order estimate of eps for the step from ``sigma`` to ``following``."""
    half = (timestep - timestep_following) // 2
    # An odd number of timesteps has no middle: the release steps down half of it but evaluates half of it up.
    reached = float(schedule.sigma(timestep - half))
    middle = float(schedule.sigma(timestep_following + half))
    rescale = math.sqrt((1 + middle**2) / (1 + reached**2))

    x2 = (x + eps1 * (reached - sigma)) * rescale
    eps2 = (x2 - run.denoise(x2, middle)) / middle
    x3 = x + eps2 * (middle - sigma)
    eps3 = (x3 - run.denoise(x3, middle)) / middle
    x4 = x + eps3 * (following - sigma)
    eps4 = (x4 - run.denoise(x4, following)) / following
    return (eps1 + 2 * eps2 + 2 * eps3 + eps4) / 6


SAMPLER_FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "Euler": sample_euler,
    "Euler A": sample_euler_ancestral,
    "DPM++": sample_dpmpp_2m,
    "PNDM": sample_pndm,
    "DDIM": sample_ddim,
}
