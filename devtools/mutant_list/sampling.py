"""Mutants of the noise schedule and the samplers."""

from .mutant import mutants_of

SAMPLING_TESTS = "tests/test_sampling.py::"


def _trajectory(*names: str) -> tuple[str, ...]:
    return tuple(f"{SAMPLING_TESTS}test_trajectory[{name}]" for name in names)


SAMPLING = [
    *mutants_of(
        "sampling/schedule.py",
        _trajectory("euler_4"),
        (
            "betas-scaled-linear",
            "betas linear in their roots",
            "torch.linspace(1e-4, 0.02, TRAINING_STEPS, dtype=torch.float32)",
            "torch.linspace(0.01, 0.02**0.5, TRAINING_STEPS, dtype=torch.float32) ** 2",
        ),
        (
            "sigma-without-root",
            "sigma is a variance",
            "((1.0 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()",
            "(1.0 - self.alphas_cumprod) / self.alphas_cumprod",
        ),
        (
            "euler-spacing",
            "Euler's last timestep is not 0",
            "np.linspace(0, last, steps, dtype=np.float32)",
            "np.linspace(0, last, steps + 1, dtype=np.float32)[1:]",
        ),
        (
            "steps-offset",
            "PNDM and DDIM without their offset of one timestep",
            "_STEPS_OFFSET = 1",
            "_STEPS_OFFSET = 0",
            *_trajectory("ddim_4"),
        ),
        (
            "dpm-spacing",
            "DPM++ goes down to timestep 0",
            "np.linspace(0, last, steps + 1).round()[1:]",
            "np.linspace(0, last, steps).round()",
            *_trajectory("dpmpp_4"),
        ),
        (
            "last-sigma-of-pndm",
            "PNDM goes down to sigma 0",
            'last = schedule.sigma(0.0) if sampler == "PNDM" else torch.tensor(0.0)',
            "last = torch.tensor(0.0)",
            *_trajectory("pndm_4"),
        ),
        (
            "initial-noise",
            "all samplers start from noise times sigma",
            'return sigma if sampler in ("Euler", "Euler A") else (1 + sigma**2) ** 0.5',
            "return sigma",
            *_trajectory("pndm_4"),
        ),
        (
            "sigma-between-timesteps",
            "sigmas between two timesteps interpolated from the far one",
            "self.sigmas[low + 1], t - low)",
            "self.sigmas[low + 1], 1 - (t - low))",
        ),
        (
            "clip-apply-ratio",
            "CLIP tokens in the first part of the calls",
            "return call_index >= call_count * (1 - ratio)",
            "return call_index < call_count * ratio",
            f"{SAMPLING_TESTS}test_clip_apply_ratio_is_the_share_of_calls_with_clip_at_the_end",
        ),
        (
            "clip-one-call-late",
            "CLIP tokens one call late where half of the calls is a whole number",
            "return call_index >= call_count",
            "return call_index > call_count",
            f"{SAMPLING_TESTS}test_clip_tokens_are_used_from_half_of_the_calls_on",
        ),
        (
            "calls-of-pndm",
            "a Runge-Kutta step counts as three model calls",
            "_CALLS_PER_RUNGE_KUTTA_STEP = 4",
            "_CALLS_PER_RUNGE_KUTTA_STEP = 3",
            *_trajectory("pndm_4"),
        ),
    ),
    *mutants_of(
        "sampling/samplers.py",
        _trajectory("euler_4"),
        (
            "euler-sign",
            "Euler steps away from the prediction",
            "x = x + (x - denoised) / sigma * (following - sigma)",
            "x = x - (x - denoised) / sigma * (following - sigma)",
        ),
        (
            "ancestral-target",
            "Euler A steps to the next sigma and adds noise on top",
            "target = math.sqrt(following**2 - added**2)",
            "target = following",
            *_trajectory("euler_a_4"),
        ),
        (
            "ancestral-noise",
            "Euler A adds noise of the next sigma",
            "noise_sampler(sigmas[i], sigmas[i + 1]) * added",
            "noise_sampler(sigmas[i], sigmas[i + 1]) * following",
            *_trajectory("euler_a_4"),
        ),
        (
            "ancestral-seed",
            "Euler A adds its initial noise again",
            "(seeds[index])\n            torch.randn(x.shape[1:], generator=generator)\n",
            "(seeds[index])\n",
            f"{SAMPLING_TESTS}test_ancestral_noise_follows_the_seed_after_the_initial_noise",
        ),
        (
            "dpm-extrapolation",
            "DPM++ weighs its last prediction by the wrong ratio of steps",
            "(0.5 * width / previous_width)",
            "(0.5 * previous_width / width)",
            *_trajectory("dpmpp_4"),
        ),
        (
            "dpm-first-order",
            "DPM++ of first order",
            "estimate = denoised + (denoised - previous) * (0.5 * width / previous_width)",
            "estimate = denoised",
            *_trajectory("dpmpp_4"),
        ),
        (
            "ddim-without-clamp",
            "DDIM does not clamp its prediction",
            "(denoised.clamp(-1, 1) if clip_sample else denoised)",
            "denoised",
            *_trajectory("ddim_4"),
        ),
        (
            "ddim-direction-of-the-clamped",
            "DDIM's direction from the clamped prediction",
            "        eps = (x - denoised) / sigma\n        x = (denoised",
            "        eps = (x - denoised.clamp(-1, 1)) / sigma\n        x = (denoised",
            *_trajectory("ddim_4"),
        ),
        (
            "multistep-order",
            "PNDM weighs its oldest prediction as its newest",
            "zip(weights, reversed(history), strict=True)",
            "zip(weights, history, strict=True)",
            *_trajectory("pndm_25"),
        ),
        (
            "multistep-weight",
            "wrong sign of PNDM's last weight",
            "37 / 24, -9 / 24)",
            "37 / 24, 9 / 24)",
            *_trajectory("pndm_25"),
        ),
        (
            "runge-kutta-weights",
            "PNDM's Runge-Kutta step as a plain average",
            "(eps1 + 2 * eps2 + 2 * eps3 + eps4) / 6",
            "(eps1 + eps2 + eps3 + eps4) / 4",
            *_trajectory("pndm_4"),
        ),
        (
            "odd-middle",
            "PNDM takes the middle of an odd number of timesteps as one place",
            "rescale = math.sqrt((1 + middle**2) / (1 + reached**2))",
            "rescale = 1.0",
            f"{SAMPLING_TESTS}test_pndm_with_an_odd_number_of_timesteps_between_steps",
        ),
        (
            "pndm-final-scale",
            "PNDM's final latent stays in the variance-exploding scale",
            "x = x / math.sqrt(1 + levels[-1] ** 2)",
            "x = x * 1.0",
            *_trajectory("pndm_4"),
        ),
    ),
]
