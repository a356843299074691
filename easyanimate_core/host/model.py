"""EasyAnimateV3 as a native ComfyUI model: configuration, model and the transformer behind the host's wrappers."""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import comfy.conds
import comfy.model_base
import comfy.model_management
import comfy.patcher_extension
import comfy.supported_models_base
import comfy.utils
import torch

from ..checkpoint import CONFIG_NAME, config_tensor
from ..transformer import EasyAnimateTransformer3D, TransformerConfig
from ..transformer.memory import MemoryPlan, choose_plan, memory_plans
from .clip_schedule import DEFAULT_APPLY_RATIO, NO_CLIP, clip_active, pack_ratio, unpack_ratio
from .entries import valid_embeds, valid_frames, valid_ratio, valid_text
from .internals import optimized_attention
from .latent_format import EasyAnimateV3Latent
from .model_sampling import EasyAnimateV3ModelSampling
from .out_of_memory import activation_budget, run_smaller
from .text_states import TextStates

# Keys of a CONDITIONING entry that EasyAnimateV3ImageToVideo sets and the model reads.
INPAINT_KEY = "easyanimate_inpaint"
CLIP_EMBEDS_KEY = "easyanimate_clip_embeds"
CLIP_RATIO_KEY = "easyanimate_clip_apply_ratio"
GIVEN_FRAMES_KEY = "easyanimate_given_frames"

# Asked for on top of a plan, for latents and conditioning that arrive after the weights were placed.
SPARE_BYTES = 256 * 1024**2


class NotAUNetError(KeyError):
    """A node asked for a dimension that only U-Nets have."""

    def __str__(self) -> str:
        """Return the sentence as it is, where a KeyError would quote it."""
        return self.args[0]


class _Dimensions(dict):
    """The host's description of a model: patches for U-Nets look into it and should say that they do not fit."""

    def __missing__(self, key: str) -> Any:
        raise NotAUNetError(
            f"this node patches U-Nets (it asks for {key!r}), and EasyAnimateV3 is a transformer without U-Net blocks: "
            "connect the MODEL past it."
        )


class EasyAnimateV3Config(comfy.supported_models_base.BASE):
    """What ComfyUI asks of a model before and after it is built."""

    unet_config: dict[str, Any] = {}
    unet_extra_config: dict[str, Any] = {}
    latent_format = EasyAnimateV3Latent
    # diffusers calls this schedule "linear"; the host gives that name to another one.
    sampling_settings = {"beta_schedule": "sqrt_linear", "linear_start": 1e-4, "linear_end": 0.02}
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__({})
        self.unet_config = _Dimensions(self.unet_config, config=config)
        self.trained_resolution: int | None = None

    def process_unet_state_dict_for_saving(
        self, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Put the configuration into what ModelSave writes, since shapes tell neither heads nor resolution."""
        config = {**self.unet_config["config"].to_dict(), "trained_resolution": self.trained_resolution}
        return super().process_unet_state_dict_for_saving({**state_dict, CONFIG_NAME: config_tensor(config)})

    def inpaint_model(self) -> bool:
        """Keep the host from its own inpainting channels: this model's mask is encoded by the VAE."""
        return False

    def get_model(
        self, state_dict: dict[str, torch.Tensor], prefix: str = "", device: torch.device | str | None = None
    ) -> "EasyAnimateV3Model":
        """Build the model without weights."""
        return EasyAnimateV3Model(self, device=device)


class HostTransformer(EasyAnimateTransformer3D):
    """The transformer with ComfyUI's calling convention, attention and wrappers."""

    def __init__(
        self,
        config: TransformerConfig,
        dtype: torch.dtype,
        device: torch.device | str | None,
        operations: Any,
    ) -> None:
        super().__init__(
            config, operations=operations, dtype=dtype, device=device, attention=optimized_attention
        )

    def forward(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **conds: torch.Tensor,
    ) -> torch.Tensor:
        """Predict the noise ``[batch, 4, frames, height, width]`` through the host's diffusion-model wrappers."""
        options = transformer_options or {}
        return comfy.patcher_extension.WrapperExecutor.new_class_executor(
            self._forward,
            self,
            comfy.patcher_extension.get_all_wrappers(
                comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, options
            ),
        ).execute(x, timestep, context, options, **conds)

    def _forward(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        transformer_options: dict[str, Any],
        context_lengths: torch.Tensor | None = None,
        clip_embeds: torch.Tensor | None = None,
        clip_ratio: torch.Tensor | None = None,
        **_unused: Any,
    ) -> torch.Tensor:
        active = None
        if clip_embeds is not None:
            active = [
                packed != NO_CLIP and clip_active(unpack_ratio(packed), transformer_options)
                for packed in clip_ratio.tolist()
            ]
        out = super().forward(
            x,
            timestep,
            context,
            context_lengths.tolist() if context_lengths is not None else None,
            clip_embeds,
            active,
            transformer_options,
            _free_memory,
        )
        # The learned sigma behind the noise is not used in sampling.
        return out[:, : EasyAnimateV3Latent.latent_channels]


class EasyAnimateV3Model(comfy.model_base.BaseModel):
    """Epsilon prediction on the release's schedule, conditioned on text, inpainting latents and CLIP tokens."""

    def __init__(self, model_config: EasyAnimateV3Config, device: torch.device | str | None = None) -> None:
        super().__init__(
            model_config, comfy.model_base.ModelType.EPS, device=device, unet_model=HostTransformer
        )
        self.model_sampling = EasyAnimateV3ModelSampling(model_config)

    @property
    def trained_resolution(self) -> int | None:
        """Side of the square whose area the checkpoint was trained on (512, 768, 960), or None where nothing tells."""
        return self.model_config.trained_resolution

    @property
    def transformer_config(self) -> TransformerConfig:
        """Dimensions of the transformer."""
        return self.model_config.unet_config["config"]

    @property
    def inpaint_channels(self) -> int:
        """Input channels behind the noise: 8, or 0 in a checkpoint for text-to-video alone."""
        return self.transformer_config.in_channels - EasyAnimateV3Latent.latent_channels

    def apply_model(
        self, x: torch.Tensor, t: torch.Tensor, c_concat: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Predict the clean latent, in smaller parts where memory runs out.

        Under context windows the given frames are cut to the window's: ComfyUI 0.3 cuts the noise alone, newer
        versions cut both.
        """
        window = (kwargs.get("transformer_options") or {}).get("context_window")
        if window is not None and c_concat is not None and c_concat.shape[2] != x.shape[2]:
            c_concat = window.get_tensor(c_concat, device=x.device, dim=2)
        # Here and not in the forward, where TorchCompileModel would leave nothing to catch.
        apply = partial(super().apply_model, x, t, c_concat=c_concat, **kwargs)
        plans = self.memory_plans(x.shape)
        if comfy.model_management.is_device_cpu(x.device):
            plans = [plan for plan in plans if not plan.park_skips]
        return run_smaller(apply, plans)

    def concat_cond(self, **kwargs: Any) -> torch.Tensor | None:
        """Return the mask and masked-video latents ``[batch, 8, frames, height, width]`` that follow the noise.

        Raises
        ------
        ValueError
            If the conditioning did not pass through EasyAnimateV3ImageToVideo, is of another size than the latent,
            or the latent holds NaN or infinity.
        """
        noise, latent = kwargs["noise"], kwargs.get("latent_image")
        if not noise.numel():
            raise ValueError(
                f"the latent given to the sampler is empty, {list(noise.shape)}: take the latent of "
                "EasyAnimateV3ImageToVideo."
            )
        if latent is not None and not torch.isfinite(latent).all():
            raise ValueError(
                "the latent given to the sampler holds NaN or infinite values; make it anew "
                "(EasyAnimateV3ImageToVideo) or look at the node that it comes from."
            )
        if noise.ndim != 5:
            raise ValueError(
                f"EasyAnimateV3 samples video latents [batch, 4, frames, height, width], but this latent has "
                f"{noise.ndim} axes; take the latent of EasyAnimateV3ImageToVideo."
            )
        if noise.shape[1] != EasyAnimateV3Latent.latent_channels:
            raise ValueError(
                f"EasyAnimateV3 samples latents of 4 channels, but this one has {noise.shape[1]} channels and comes from "
                "another model; take the latent of EasyAnimateV3ImageToVideo."
            )
        if not self.inpaint_channels:
            return None
        inpaint = valid_frames(kwargs.get(INPAINT_KEY), self.inpaint_channels, noise.shape[2:])
        return comfy.utils.repeat_to_batch_size(inpaint.to(kwargs["device"]), noise.shape[0])

    def extra_conds(self, **kwargs: Any) -> dict[str, comfy.conds.CONDRegular]:
        """Turn a CONDITIONING entry into the model's inputs."""
        out = {}
        concat = self.concat_cond(**kwargs)
        if concat is not None:
            out["c_concat"] = comfy.conds.CONDNoiseShape(concat)
        width = self.transformer_config.caption_channels
        text = valid_text(kwargs.get("cross_attn"), kwargs.get("attention_mask"), width)
        out["c_crossattn"] = TextStates(text)
        out["context_lengths"] = comfy.conds.CONDRegular(torch.tensor([text.shape[1]], device=text.device))
        if self.transformer_config.clip_tokens:
            embeds = kwargs.get(CLIP_EMBEDS_KEY)
            ratio = kwargs.get(CLIP_RATIO_KEY, DEFAULT_APPLY_RATIO)
            packed = NO_CLIP if embeds is None else pack_ratio(valid_ratio(ratio))
            channels = self.transformer_config.clip_channels
            embeds = torch.zeros(1, channels) if embeds is None else valid_embeds(embeds, channels)
            # One device for both sides of the guidance, or the host runs them apart.
            out["clip_embeds"] = comfy.conds.CONDRegular(embeds.to(kwargs["device"]))
            out["clip_ratio"] = comfy.conds.CONDRegular(torch.tensor([packed], device=kwargs["device"]))
        return out

    def memory_required(self, input_shape: list[int], cond_shapes: dict[str, Any] | None = None) -> float:
        """Estimate the bytes of activations for a latent ``[batch, channels, frames, height, width]``.

        That is what the transformer takes once it has the device to itself, with its work cut in chunks where it has
        to be. Parking the U-ViT skips in main memory costs more than running the halves of CFG one after the other,
        so it counts for a single row alone.
        """
        device = comfy.model_management.get_torch_device()
        plans = self.memory_plans(input_shape)
        if comfy.model_management.is_device_cpu(device):
            return plans[0].bytes + SPARE_BYTES
        if input_shape[0] > 1:
            plans = [plan for plan in plans if not plan.park_skips]
        room = (
            comfy.model_management.get_total_memory(device) - comfy.model_management.extra_reserved_memory()
        )
        return choose_plan(plans, room - self._weight_bytes - SPARE_BYTES).bytes + SPARE_BYTES

    @cached_property
    def _weight_bytes(self) -> int:
        return comfy.model_management.module_size(self.diffusion_model)

    def memory_plans(self, shape: Sequence[int]) -> list[MemoryPlan]:
        """Return the transformer's memory plans for a latent ``[batch, channels, frames, height, width]``."""
        rows, _, frames, height, width = shape if len(shape) == 5 else (*shape[:2], 1, *shape[-2:])
        patch = self.transformer_config.patch_size
        tokens = rows * frames * -(-height // patch) * -(-width // patch)
        dtype = self.manual_cast_dtype or self.get_dtype()
        return memory_plans(self.transformer_config, tokens, comfy.model_management.dtype_size(dtype))


def _free_memory(device: torch.device) -> float | None:
    """Return the bytes that activations may take on ``device`` now, or None for any number, as on a CPU."""
    if comfy.model_management.is_device_cpu(device):
        return activation_budget(None)
    free = comfy.model_management.get_free_memory(device) - comfy.model_management.extra_reserved_memory()
    return activation_budget(free)
