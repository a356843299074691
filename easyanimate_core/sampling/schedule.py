"""Noise schedule of EasyAnimateV3 and the timesteps that its release visits with each sampler."""

from itertools import pairwise

import numpy as np
import torch

SAMPLERS = ("Euler", "Euler A", "DPM++", "PNDM", "DDIM")

TRAINING_STEPS = 1000
_RUNGE_KUTTA_STEPS = 3
_CALLS_PER_RUNGE_KUTTA_STEP = 4
_STEPS_OFFSET = 1
# Fewest and most steps. The 'leading' samplers would start at timestep 1000, one past the table, with a thousand steps.
STEP_RANGES = {
    "Euler": (1, 1000),
    "Euler A": (1, 1000),
    "DPM++": (1, 1000),
    "PNDM": (4, 999),
    "DDIM": (1, 999),
}
# A float32 sigma cannot tell timesteps apart that lie closer than this.
_TIMESTEP_TOLERANCE = 1e-4


class NoiseSchedule:
    """Tables of the noise schedule that EasyAnimateV3 was trained with: 1000 steps, betas linear in [1e-4, 0.02].

    diffusers calls this schedule ``linear``, ComfyUI ``sqrt_linear``. Sigmas are in the variance-exploding
    scale, ``sigma(t) = sqrt((1 - alpha) / alpha)`` with ``alpha`` the cumulative product of ``1 - beta``.

    Attributes
    ----------
    alphas_cumprod, sigmas : torch.Tensor
        Float64, shape ``[1000]``, by timestep; ``sigmas`` rises from 0.0100 to 157.407.
    """

    def __init__(self) -> None:
        # The release rounds these two steps to float32; the same rounding keeps sigma(0) equal to its own.
        betas = torch.linspace(1e-4, 0.02, TRAINING_STEPS, dtype=torch.float32)
        self.alphas_cumprod = torch.cumprod(1.0 - betas, dim=0).double()
        self.sigmas = ((1.0 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    def sigma(self, timestep: torch.Tensor | float) -> torch.Tensor:
        """Return the sigma at a timestep, between whole timesteps by linear interpolation of the sigma table.

        Parameters
        ----------
        timestep : torch.Tensor or float
            Any shape, values in [0, 999], whole or fractional; values outside are clamped.

        Returns
        -------
        torch.Tensor
            Float32, shape and device of the input.
        """
        timestep = torch.as_tensor(timestep)
        t = timestep.detach().cpu().double().clamp(0, TRAINING_STEPS - 1)
        low = t.floor().long().clamp(max=TRAINING_STEPS - 2)
        sigma = torch.lerp(self.sigmas[low], self.sigmas[low + 1], t - low)
        return sigma.to(timestep.device, torch.float32)

    def timestep(self, sigma: torch.Tensor | float) -> torch.Tensor:
        """Return the (fractional) timestep of a sigma, the inverse of :meth:`sigma`.

        Parameters
        ----------
        sigma : torch.Tensor or float
            Any shape; values below sigma(0), zero included, give 0 and values above sigma(999) give 999.

        Returns
        -------
        torch.Tensor
            Float32, shape and device of the input.

        Raises
        ------
        ValueError
            For NaN.
        """
        sigma = torch.as_tensor(sigma)
        # To the CPU before float64, which some accelerators do not have; the table is tiny.
        s = sigma.detach().cpu().double().clamp(self.sigmas[0], self.sigmas[-1])
        if s.isnan().any():
            raise ValueError("A noise level is NaN: choose another scheduler, or more steps.")
        low = (torch.searchsorted(self.sigmas, s.contiguous(), right=True) - 1).clamp(0, TRAINING_STEPS - 2)
        t = low + (s - self.sigmas[low]) / (self.sigmas[low + 1] - self.sigmas[low])
        t = torch.where((t - t.round()).abs() < _TIMESTEP_TOLERANCE, t.round(), t)
        return t.to(sigma.device, torch.float32)


def _check_sampler(sampler: str) -> None:
    if sampler not in SAMPLERS:
        raise ValueError(f"Unknown sampler {sampler!r}; choose one of {', '.join(SAMPLERS)}.")


def _check_steps(sampler: str, steps: int) -> None:
    _check_sampler(sampler)
    low, high = STEP_RANGES[sampler]
    if steps < low:
        raise ValueError(f"{sampler} needs at least {low} step{'s' if low > 1 else ''}, not {steps}.")
    if steps > high:
        raise ValueError(f"{sampler} takes at most {high} steps, not {steps}.")


def _step_timesteps(sampler: str, steps: int) -> np.ndarray:
    """Return the timestep at the start of each step, descending."""
    last = TRAINING_STEPS - 1
    if sampler in ("PNDM", "DDIM"):
        ascending = np.arange(steps) * (TRAINING_STEPS // steps) + _STEPS_OFFSET
    elif sampler == "DPM++":
        ascending = np.linspace(0, last, steps + 1).round()[1:]
    else:
        ascending = np.linspace(0, last, steps, dtype=np.float32)
    return ascending[::-1].astype(np.float32)


def release_timesteps(sampler: str, steps: int) -> torch.Tensor:
    """Return the timesteps that the EasyAnimateV3 release (July 2024) feeds to the transformer.

    Parameters
    ----------
    sampler : str
        One of :data:`SAMPLERS`.
    steps : int
        Number of sampling steps: 1 to 1000, for DDIM 1 to 999, for PNDM 4 to 999.

    Returns
    -------
    torch.Tensor
        Float32, one entry per model call: ``steps`` of them, for PNDM ``steps + 9``. Fractional for Euler and
        Euler A, whole for the others.

    Raises
    ------
    ValueError
        Unknown sampler, or ``steps`` out of range.

    Notes
    -----
    Euler, Euler A and DPM++ space the timesteps by linspace, PNDM and DDIM 'leading' with an offset of 1.
    With one step Euler, Euler A and DDIM start at timestep 0 or 1, as the release does: no use for images.
    """
    _check_steps(sampler, steps)
    starts = _step_timesteps(sampler, steps)
    if sampler != "PNDM":
        return torch.from_numpy(starts)
    calls: list[float] = []
    for current, following in pairwise(starts[: _RUNGE_KUTTA_STEPS + 1]):
        middle = following + (current - following) // 2
        calls += [current, middle, middle, following]
    return torch.tensor([*calls, *starts[_RUNGE_KUTTA_STEPS:]], dtype=torch.float32)


def release_sigmas(sampler: str, steps: int, schedule: NoiseSchedule | None = None) -> torch.Tensor:
    """Return the sigmas at the borders of the release's sampling steps, in the variance-exploding scale.

    Parameters
    ----------
    sampler : str
        One of :data:`SAMPLERS`.
    steps : int
        Number of sampling steps, in the range of :func:`release_timesteps`.
    schedule : NoiseSchedule, optional
        Tables to read; a new one by default.

    Returns
    -------
    torch.Tensor
        Float32, shape ``[steps + 1]``, descending. The last is 0, for PNDM sigma(0) = 0.0100.

    Raises
    ------
    ValueError
        Unknown sampler, or ``steps`` out of range.
    """
    _check_steps(sampler, steps)
    schedule = schedule or NoiseSchedule()
    sigmas = schedule.sigma(torch.from_numpy(_step_timesteps(sampler, steps)))
    last = schedule.sigma(0.0) if sampler == "PNDM" else torch.tensor(0.0)
    return torch.cat([sigmas, last.reshape(1)])


def model_call_count(sampler: str, steps: int) -> int:
    """Return how often a sampler calls the model on a list of ``steps + 1`` sigmas.

    Parameters
    ----------
    sampler : str
        One of :data:`SAMPLERS`.
    steps : int
        Number of steps in the (possibly truncated) list, 0 or more.

    Returns
    -------
    int
        ``steps``; for PNDM ``steps + 9`` from 4 steps on, because three steps start it with four calls each.

    Raises
    ------
    ValueError
        Unknown sampler or negative ``steps``.
    """
    _check_sampler(sampler)
    if steps < 0:
        raise ValueError(f"The number of steps cannot be negative, and it is {steps}.")
    if sampler != "PNDM":
        return steps
    return steps + (_CALLS_PER_RUNGE_KUTTA_STEP - 1) * runge_kutta_steps(steps)


def runge_kutta_steps(steps: int) -> int:
    """Return how many of PNDM's ``steps`` steps are Runge-Kutta steps: the first three, never the last one."""
    return max(0, min(_RUNGE_KUTTA_STEPS, steps - 1))


def initial_noise_scale(sampler: str, sigma: torch.Tensor | float) -> torch.Tensor | float:
    """Return the factor on unit normal noise that starts a sampler, in the variance-exploding scale.

    Parameters
    ----------
    sampler : str
        One of :data:`SAMPLERS`.
    sigma : torch.Tensor or float
        First sigma of the run.

    Returns
    -------
    torch.Tensor or float
        ``sigma`` for Euler and Euler A; ``sqrt(1 + sigma^2)`` for the others, which the release starts from
        unit noise in the variance-preserving scale.

    Raises
    ------
    ValueError
        Unknown sampler.
    """
    _check_sampler(sampler)
    return sigma if sampler in ("Euler", "Euler A") else (1 + sigma**2) ** 0.5


def clip_tokens_active(call_index: int, call_count: int, ratio: float = 0.5) -> bool:
    """Return whether a model call uses the CLIP image tokens.

    Parameters
    ----------
    call_index : int
        Index of the model call, from 0.
    call_count : int
        Number of model calls of the run, as :func:`model_call_count` gives it.
    ratio : float, optional
        Share of the calls, at the end of the run, that use the tokens, in [0, 1]: 1 always, 0 never; the release's
        ``clip_apply_ratio``.

    Returns
    -------
    bool
        True from call ``call_count * (1 - ratio)`` on.
    """
    return call_index >= call_count * (1 - ratio)
