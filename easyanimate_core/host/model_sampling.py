"""The release's noise schedule as ComfyUI's sampling object."""

from typing import Any

import comfy.model_sampling
import torch

from ..sampling import NoiseSchedule


class EasyAnimateV3ModelSampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    """Discrete schedule that keeps fractional timesteps.

    The release's Euler feeds the model timesteps such as 957.375; the host's class would round them. Between the
    whole timesteps sigmas are interpolated linearly, as diffusers does.
    """

    def __init__(self, model_config: Any = None, zsnr: bool | None = None) -> None:
        super().__init__(model_config, zsnr)
        self.schedule = NoiseSchedule()

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """Return the timestep (fractions allowed) of each sigma, in the shape and on the device of ``sigma``."""
        return self.schedule.timestep(sigma).to(sigma.device)

    def sigma(self, timestep: torch.Tensor) -> torch.Tensor:
        """Return the sigma of each timestep, in the shape and on the device of ``timestep``."""
        return self.schedule.sigma(timestep).to(timestep.device)
