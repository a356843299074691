"""Noise schedule and samplers of the EasyAnimateV3 release, in the k-diffusion calling convention."""

from .samplers import (
    SAMPLER_FUNCTIONS,
    sample_ddim,
    sample_dpmpp_2m,
    sample_euler,
    sample_euler_ancestral,
    sample_pndm,
)
from .schedule import (
    SAMPLERS,
    NoiseSchedule,
    clip_tokens_active,
    initial_noise_scale,
    model_call_count,
    release_sigmas,
    release_timesteps,
)

__all__ = [
    "SAMPLERS",
    "SAMPLER_FUNCTIONS",
    "NoiseSchedule",
    "clip_tokens_active",
    "initial_noise_scale",
    "model_call_count",
    "release_sigmas",
    "release_timesteps",
    "sample_ddim",
    "sample_dpmpp_2m",
    "sample_euler",
    "sample_euler_ancestral",
    "sample_pndm",
]
