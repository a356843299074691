"""Whole runs composed from the core functions only, without ComfyUI: what the golden pipeline cases check."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from easyanimate_core.conditioning.inpaint import encode_inpaint, mask_and_masked_video
from easyanimate_core.sampling import (
    SAMPLER_FUNCTIONS,
    NoiseSchedule,
    clip_tokens_active,
    initial_noise_scale,
    model_call_count,
    release_sigmas,
)
from easyanimate_core.transformer import EasyAnimateTransformer3D
from easyanimate_core.vae import SliceVAE

Epsilon = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class EpsilonDenoiser:
    """Turns an epsilon prediction into the denoiser that the samplers call, and records every call.

    Parameters
    ----------
    epsilon : callable
        ``epsilon(u, timestep)`` for the scaled model input ``u`` (variance preserving) and ``timestep [batch]``.
    schedule : NoiseSchedule
        Gives the timestep of a sigma.

    Attributes
    ----------
    inputs : list of torch.Tensor
        ``x`` of each call, variance exploding.
    scaled_inputs : list of torch.Tensor
        ``u`` of each call, variance preserving.
    timesteps : list of float
        Timestep of each call.
    """

    def __init__(self, epsilon: Epsilon, schedule: NoiseSchedule) -> None:
        self._epsilon = epsilon
        self._schedule = schedule
        self.inputs: list[torch.Tensor] = []
        self.scaled_inputs: list[torch.Tensor] = []
        self.timesteps: list[float] = []

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **_: Any) -> torch.Tensor:
        """Return the prediction of the clean latent, ``x - sigma * eps``."""
        level = sigma.view(-1, *[1] * (x.ndim - 1))
        u = x / (1 + level.double() ** 2).sqrt().float()
        timestep = self._schedule.timestep(sigma)
        self.inputs.append(x)
        self.scaled_inputs.append(u)
        self.timesteps.append(float(timestep[0]))
        return x - level * self._epsilon(u, timestep)


@dataclass
class Prompt:
    """Text states of one prompt.

    Attributes
    ----------
    states : torch.Tensor
        T5 states ``[batch, tokens, caption_channels]``, valid tokens first.
    lengths : list of int
        Valid tokens of each row.
    """

    states: torch.Tensor
    lengths: list[int]

    @classmethod
    def from_mask(cls, states: torch.Tensor, mask: torch.Tensor) -> "Prompt":
        """Move the valid tokens of ``mask [batch, tokens]`` to the front of each row (order does not matter)."""
        order = torch.argsort(mask, dim=1, descending=True, stable=True)
        moved = torch.gather(states, 1, order[..., None].expand_as(states))
        return cls(moved, [int(n) for n in mask.sum(1).tolist()])


class GuidedEpsilon:
    """Classifier-free guidance on epsilon, as the release does it; also counts calls for the CLIP tokens.

    Parameters
    ----------
    transformer : EasyAnimateTransformer3D
        The model, with its weights.
    positive, negative : Prompt
        Text of both sides, one row each.
    inpaint : torch.Tensor or None
        Mask and masked-video latents ``[1, 8, frames, height, width]``; None for a 4-channel model.
    cfg : float
        Guidance scale.
    clip_embed : torch.Tensor or None
        CLIP image embedding ``[1, 768]`` of the positive side.
    call_count : int
        Model calls of the whole run.
    clip_ratio : float
        Share of the calls, at the end, that use CLIP tokens.
    together : bool
        Whether both sides go through the model as one batch, as in the release; their prompts then have to have
        equally many tokens, padding included.

    Attributes
    ----------
    clip_used : list of bool
        For each call, whether the positive side had CLIP tokens.
    """

    def __init__(
        self,
        transformer: EasyAnimateTransformer3D,
        positive: Prompt,
        negative: Prompt,
        *,
        inpaint: torch.Tensor | None,
        cfg: float,
        clip_embed: torch.Tensor | None,
        call_count: int,
        clip_ratio: float = 0.5,
        together: bool = False,
    ) -> None:
        self._together = together
        self._transformer = transformer
        self._positive = positive
        self._negative = negative
        self._inpaint = inpaint
        self._cfg = cfg
        self._clip_embed = clip_embed
        self._call_count = call_count
        self._clip_ratio = clip_ratio
        self.clip_used: list[bool] = []

    def __call__(self, u: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Return the guided epsilon ``[1, 4, frames, height, width]``."""
        use_clip = self._clip_embed is not None and clip_tokens_active(
            len(self.clip_used), self._call_count, self._clip_ratio
        )
        self.clip_used.append(use_clip)
        x = u if self._inpaint is None else torch.cat([u, self._inpaint], dim=1)
        if self._together:
            negative, positive = self._predict_both(x, timestep, use_clip)
        else:
            negative = self._predict(x, timestep, self._negative, None)
            positive = self._predict(x, timestep, self._positive, self._clip_embed if use_clip else None)
        # The release guides all 8 channels; the learned sigma is dropped either way.
        return (negative + self._cfg * (positive - negative))[:, : u.shape[1]]

    def _predict(
        self, x: torch.Tensor, timestep: torch.Tensor, prompt: Prompt, clip_embed: torch.Tensor | None
    ) -> torch.Tensor:
        return self._transformer(x, timestep, prompt.states, prompt.lengths, clip_embed)

    def _predict_both(
        self, x: torch.Tensor, timestep: torch.Tensor, use_clip: bool
    ) -> tuple[torch.Tensor, ...]:
        sides = self._negative, self._positive
        return self._transformer(
            torch.cat([x, x]),
            timestep.expand(2),
            torch.cat([side.states for side in sides]),
            [length for side in sides for length in side.lengths],
            self._clip_embed.expand(2, -1) if use_clip else None,
            [False, use_clip],
        ).chunk(2)


def sample(
    epsilon: Epsilon,
    sampler: str,
    steps: int,
    noise: torch.Tensor,
    step_noise: Sequence[torch.Tensor] | None = None,
) -> tuple[torch.Tensor, EpsilonDenoiser]:
    """Run one of the release's samplers from unit noise.

    Parameters
    ----------
    epsilon : callable
        Epsilon of the scaled input and the timestep.
    sampler : str
        One of ``easyanimate_core.sampling.SAMPLERS``.
    steps : int
        Number of sampling steps.
    noise : torch.Tensor
        Unit normal, before the initial sigma.
    step_noise : sequence of torch.Tensor, optional
        Noise of each step, for "Euler A".

    Returns
    -------
    (torch.Tensor, EpsilonDenoiser)
        The final latents and the record of the model calls.
    """
    schedule = NoiseSchedule()
    sigmas = release_sigmas(sampler, steps)
    denoiser = EpsilonDenoiser(epsilon, schedule)
    options: dict[str, Any] = {}
    if step_noise is not None:
        remaining = iter(step_noise)
        options["noise_sampler"] = lambda sigma, sigma_next: next(remaining)
    x = noise * initial_noise_scale(sampler, sigmas[0])
    return SAMPLER_FUNCTIONS[sampler](denoiser, x, sigmas, **options), denoiser


@dataclass
class RunOutput:
    """What a whole run gives.

    Attributes
    ----------
    inpaint_latents : torch.Tensor or None
        ``[1, 8, frames, height, width]``; None for a 4-channel model.
    final_latents : torch.Tensor
        ``[1, 4, frames, height, width]``, in the model's scaling.
    video : torch.Tensor
        ``[1, 3, frames, height, width]`` in [0, 1].
    clip_used : list of bool
        For each model call, whether the positive side had CLIP tokens.
    """

    inpaint_latents: torch.Tensor | None
    final_latents: torch.Tensor
    video: torch.Tensor
    clip_used: list[bool]


@torch.inference_mode()
def run(
    transformer: EasyAnimateTransformer3D,
    vae: SliceVAE,
    *,
    positive: Prompt,
    negative: Prompt,
    noise: torch.Tensor,
    sampler: str,
    steps: int,
    cfg: float,
    frames: int,
    height: int,
    width: int,
    start: torch.Tensor | None = None,
    end: torch.Tensor | None = None,
    clip_embed: torch.Tensor | None = None,
    step_noise: Sequence[torch.Tensor] | None = None,
    clip_ratio: float = 0.5,
    together: bool = False,
) -> RunOutput:
    """Run text- or image-to-video from noise to pixels.

    Parameters
    ----------
    transformer, vae : torch.nn.Module
        Core models with their weights.
    positive, negative : Prompt
        Text of both sides, one row each.
    noise : torch.Tensor
        Unit normal ``[1, 4, latent frames, height / 8, width / 8]``.
    sampler, steps, cfg : str, int, float
        Sampler of the release, its number of steps, guidance scale.
    frames, height, width : int
        Size of the clip in pixels.
    start, end : torch.Tensor, optional
        Given frames ``[k, height, width, 3]`` in [0, 1].
    clip_embed : torch.Tensor, optional
        CLIP embedding ``[1, 768]`` of the start image; not used without one.
    step_noise : sequence of torch.Tensor, optional
        Noise of each step, for "Euler A".
    clip_ratio : float
        Share of the model calls, at the end, that use CLIP tokens.
    together : bool
        Whether both sides of the guidance go through the transformer as one batch (:class:`GuidedEpsilon`).
    """
    scale = vae.config.scaling_factor
    inpaint = None
    if transformer.config.in_channels != noise.shape[1]:
        mask, masked_video = mask_and_masked_video(frames, height, width, start=start, end=end)
        inpaint = encode_inpaint(vae, mask, masked_video)
    epsilon = GuidedEpsilon(
        transformer,
        positive,
        negative,
        inpaint=inpaint,
        cfg=cfg,
        clip_embed=clip_embed if start is not None and inpaint is not None else None,
        call_count=model_call_count(sampler, steps),
        clip_ratio=clip_ratio,
        together=together,
    )
    latents, _ = sample(epsilon, sampler, steps, noise, step_noise)
    video = (vae.decode(latents / scale, smoothing=True) / 2 + 0.5).clamp(0, 1)
    return RunOutput(inpaint, latents, video, epsilon.clip_used)
