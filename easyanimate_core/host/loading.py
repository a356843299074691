"""From a state dict to a native MODEL or VAE, without a second copy of the weights in memory."""

import logging
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch

from ..transformer import TransformerConfig
from .internals import launch_option, needs_own_memory
from .layers import register_host_layers
from .model import EasyAnimateV3Config, EasyAnimateV3Model
from .patches import patch_every_parameter
from .preview import play_previews

register_host_layers()

# Tensors that tell of quantization with scales, which plain casting would turn into garbage.
_QUANTIZED_NAMES = ("scale_weight", "scale_input", "weight_scale", "input_scale", "scaled_fp8", "comfy_quant")


def build_model(
    config: TransformerConfig,
    state_dict: dict[str, torch.Tensor],
    *,
    dtype: torch.dtype | None = None,
    fp8_matmul: bool = False,
    trained_resolution: int | None = None,
) -> comfy.model_patcher.ModelPatcher:
    """Build a native MODEL.

    Parameters
    ----------
    config : TransformerConfig
        Dimensions of the transformer.
    state_dict : dict of str to torch.Tensor
        Weights under the release's names, without prefix; tensors are taken out as they are loaded and kept as
        they are where the dtype allows, so a memory-mapped file is not copied.
    dtype : torch.dtype, optional
        Dtype to keep the weights in; by the host's rules if None.
    fp8_matmul : bool
        Let the host multiply fp8 weights as they are.
    trained_resolution : int, optional
        Side of the square whose area the checkpoint was trained on, where known.

    Raises
    ------
    ValueError
        If a tensor is missing or has another shape.
    """
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    model_config = EasyAnimateV3Config(config)
    supported = model_config.supported_inference_dtypes
    weight_dtype = dtype or _weight_dtype(state_dict, load_device, supported)
    compute_dtype = comfy.model_management.unet_manual_cast(weight_dtype, load_device, supported)
    model_config.set_inference_dtype(weight_dtype, compute_dtype)
    model_config.optimizations["fp8"] = fp8_matmul
    model_config.trained_resolution = trained_resolution

    model = model_config.get_model(state_dict, device="meta")
    assign_weights(model.diffusion_model, state_dict)
    model.device = offload_device
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=load_device, offload_device=offload_device)
    patch_every_parameter(patcher)
    play_previews(patcher)
    return patcher


def assign_weights(module: torch.nn.Module, state_dict: dict[str, torch.Tensor]) -> None:
    """Give a module built on the meta device its weights, tensor by tensor, in the module's dtypes.

    Raises
    ------
    ValueError
        If a tensor is missing or has another shape.
    """
    if scales := [name for name in state_dict if name.endswith(_QUANTIZED_NAMES)]:
        raise ValueError(
            f"the checkpoint is quantized with scales ({scales[0]}), which this loader does not read: take plain bf16, "
            "fp16 or fp8 weights, and choose fp8 in weight_dtype to save memory."
        )
    copy = needs_own_memory()
    weights = {}
    for name, parameter in module.state_dict().items():
        if name not in state_dict:
            raise ValueError(
                f"the checkpoint lacks the tensor {name}; the file is incomplete, download it anew."
            )
        tensor = state_dict.pop(name)
        if tensor.shape != parameter.shape:
            raise ValueError(
                f"the checkpoint's tensor {name} has shape {list(tensor.shape)}, but the configuration gives "
                f"{list(parameter.shape)}; the file and its config.json belong to different models."
            )
        # The host pins offloaded weights for the GPU, which memory mapped from a file does not allow.
        weights[name] = tensor.to(parameter.dtype, copy=copy)
    if state_dict:
        logging.warning(
            "%d tensors of the checkpoint are not used, %s first.", len(state_dict), next(iter(state_dict))
        )
    module.load_state_dict(weights, assign=True)
    module.eval().requires_grad_(False)


def _weight_dtype(
    state_dict: dict[str, torch.Tensor], device: torch.device, supported: list[torch.dtype]
) -> torch.dtype:
    """Choose by the host's rules, but on a CPU never keep weights wider than the file has them.

    A CPU computes in float32; half-precision weights are kept and cast layer by layer there.
    """
    stored = comfy.utils.weight_dtype(state_dict)
    chosen = comfy.model_management.unet_dtype(
        device, comfy.utils.calculate_parameters(state_dict), supported, weight_dtype=stored
    )
    forced = any(launch_option(f"{name}_unet") for name in ("fp64", "fp32", "bf16", "fp16"))
    if forced or stored is None or not comfy.model_management.is_device_cpu(device):
        return chosen
    return stored if _size(chosen) > _size(stored) else chosen


def _size(dtype: torch.dtype) -> int:
    return comfy.model_management.dtype_size(dtype)


def trained_resolution(model: Any) -> int | None:
    """Return the trained resolution of a MODEL, or None where it is unknown or the model is another one."""
    base = getattr(model, "model", None)
    return base.trained_resolution if isinstance(base, EasyAnimateV3Model) else None
