"""How ComfyUI scales and previews EasyAnimateV3 latents."""

import comfy.latent_formats


class EasyAnimateV3Latent(comfy.latent_formats.LatentFormat):
    """Four channels, an eighth of each side and a quarter of the frames, scaled by 0.18215.

    The preview factors are those of Stable Diffusion 1.5, whose latent scaling this VAE inherits; they show
    composition and motion, not exact colours.
    """

    latent_channels = 4
    latent_dimensions = 3
    scale_factor = 0.18215
    latent_rgb_factors = comfy.latent_formats.SD15().latent_rgb_factors
