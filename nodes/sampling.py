"""The release's samplers and schedules."""

import comfy.sample
import torch
from comfy_api.latest import io

from ..easyanimate_core.host.conditioning import ignored_frames_warning, size_warning
from ..easyanimate_core.host.inputs import (
    batch_numbers,
    latent_samples,
    noise_mask,
    require_conditioning,
    require_model,
)
from ..easyanimate_core.host.loading import trained_resolution
from ..easyanimate_core.host.progress import place_in_expansion, sampling_callback
from ..easyanimate_core.host.sampler import denoised_sigmas, sample_latent
from ..easyanimate_core.sampling import SAMPLERS
from ..easyanimate_core.vae import SPACE_FACTOR
from .messages import show_in_node, show_progress

SAMPLER_TOOLTIP = (
    "Euler, Euler A, DPM++ (2M), PNDM or DDIM, each with the steps and noise levels of the release."
)
STEPS_TOOLTIP = "Denoising steps. PNDM calls the model nine times more than it has steps."


class EasyAnimateV3Sampler(io.ComfyNode):
    """Sample with the release's samplers, step for step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EasyAnimateV3Sampler",
            display_name="EasyAnimateV3 Sampler",
            category="EasyAnimateV3/sampling",
            description="Samples a clip with the release's own samplers. KSampler works on this model too.",
            inputs=[
                io.Model.Input("model", tooltip="EasyAnimateV3 transformer."),
                io.Conditioning.Input("positive", tooltip="Positive of EasyAnimateV3ImageToVideo."),
                io.Conditioning.Input("negative", tooltip="Negative of EasyAnimateV3ImageToVideo."),
                io.Latent.Input(
                    "latent_image", tooltip="Latent of EasyAnimateV3ImageToVideo, or an encoded video."
                ),
                io.Int.Input(
                    "seed",
                    default=43,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the noise.",
                ),
                io.Int.Input("steps", default=25, min=1, max=1000, tooltip=STEPS_TOOLTIP),
                io.Float.Input(
                    "cfg",
                    default=7.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Classifier-free guidance: how closely to follow the prompt. 1 ignores the negative.",
                ),
                io.Combo.Input(
                    "sampler_name", options=list(SAMPLERS), default="Euler", tooltip=SAMPLER_TOOLTIP
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1 the latent is kept in part (video-to-video). 0 returns it as it is.",
                ),
                io.Float.Input(
                    "clip_apply_ratio",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the model calls, at the end of the run, that use the CLIP image embedding: 1 always, 0 never.",
                ),
                io.Boolean.Input(
                    "clip_sample",
                    default=True,
                    optional=True,
                    tooltip="DDIM only: clamp each predicted latent to [-1, 1] as the release does, which washes colours "
                    "out; off keeps them.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The sampled latent.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        positive: io.Conditioning.Type,
        negative: io.Conditioning.Type,
        latent_image: io.Latent.Type,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        denoise: float,
        clip_apply_ratio: float,
        clip_sample: bool = True,
    ) -> io.NodeOutput:
        """Sample the clip."""
        require_model(model)
        require_conditioning(positive, "positive")
        require_conditioning(negative, "negative")
        samples = latent_samples(latent_image, "latent_image")
        latent = comfy.sample.fix_empty_latent_channels(model, samples)
        sigmas = denoised_sigmas(sampler_name, steps, denoise)
        if len(sigmas) < 2:
            return io.NodeOutput({**latent_image, "samples": latent})
        part, parts = place_in_expansion()
        if parts > 1:
            show_progress(cls, f"Segment {part + 1} of {parts}")
            ui = None
        else:
            warning = size_warning(
                latent.shape[-1] * SPACE_FACTOR, latent.shape[-2] * SPACE_FACTOR, trained_resolution(model)
            )
            ui = show_in_node(cls, warning, ignored_frames_warning(model, positive))
        samples = sample_latent(
            model,
            positive,
            negative,
            latent,
            seed=seed,
            sigmas=sigmas,
            cfg=cfg,
            sampler_name=sampler_name,
            clip_apply_ratio=clip_apply_ratio,
            callback=sampling_callback(model, len(sigmas) - 1, part, parts),
            clip_sample=clip_sample,
            whole_run=denoise == 1,
            batch_index=batch_numbers(latent_image, len(latent)),
            noise_mask=noise_mask(latent_image, latent.shape[1]),
        )
        return io.NodeOutput({**latent_image, "samples": samples}, ui=ui)


class EasyAnimateV3Sigmas(io.ComfyNode):
    """The release's noise levels for SamplerCustom and SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EasyAnimateV3Sigmas",
            display_name="EasyAnimateV3 Sigmas",
            category="EasyAnimateV3/sampling",
            description="Noise levels of the release's samplers, for SamplerCustom with any stock sampler.",
            inputs=[
                io.Combo.Input(
                    "sampler_name", options=list(SAMPLERS), default="Euler", tooltip=SAMPLER_TOOLTIP
                ),
                io.Int.Input("steps", default=25, min=1, max=1000, tooltip=STEPS_TOOLTIP),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1 only the last part of a longer schedule is used (video-to-video).",
                ),
            ],
            outputs=[io.Sigmas.Output(tooltip="steps + 1 noise levels, falling.")],
        )

    @classmethod
    def execute(cls, sampler_name: str, steps: int, denoise: float) -> io.NodeOutput:
        """Return the noise levels."""
        sigmas: torch.Tensor = denoised_sigmas(sampler_name, steps, denoise)
        return io.NodeOutput(sigmas)


NODES = [EasyAnimateV3Sampler, EasyAnimateV3Sigmas]
