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
    latent_rgb_factors = [
        [0.3512, 0.2297, 0.3227],
        [0.3250, 0.4974, 0.2350],
        [-0.2829, 0.1762, 0.2721],
        [-0.2120, -0.2616, -0.7177],
    ]
