"""From a state dict to a native MODEL or VAE, without a second copy of the weights in memory."""

import logging
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch

from ..checkpoint import WEIGHT_DTYPES
from ..transformer import TransformerConfig
from ..values import shown
from .internals import launch_option, needs_own_memory
from .layers import register_host_layers
from .model import EasyAnimateV3Config, EasyAnimateV3Model
from .out_of_memory import explain_sampling
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
    config.require_shapes({name: tuple(tensor.shape) for name, tensor in state_dict.items()})
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
    explain_sampling(patcher)
    return patcher


def assign_weights(module: torch.nn.Module, state_dict: dict[str, torch.Tensor]) -> None:
    """Give a module built on the meta device its weights, tensor by tensor, in the module's dtypes.

    Raises
    ------
    ValueError
        If a tensor is missing, has another shape or holds no plain weights.
    """
    require_plain(state_dict)
    copy = needs_own_memory()
    weights = {}
    for name, parameter in module.state_dict().items():
        comfy.model_management.throw_exception_if_processing_interrupted()
        if name not in state_dict:
            raise ValueError(
                f"the checkpoint lacks the tensor {name}; the file is incomplete, download it anew."
            )
        tensor = state_dict.pop(name)
        require_fit(name, tensor, parameter)
        # The host pins offloaded weights for the GPU, which memory mapped from a file does not allow.
        weights[name] = tensor.to(parameter.dtype, copy=copy)
    if state_dict:
        logging.warning(
            "%d tensors of the checkpoint are not used, %s first.",
            len(state_dict),
            shown(next(iter(state_dict))),
        )
    module.load_state_dict(weights, assign=True)
    module.eval().requires_grad_(False)


def require_plain(state_dict: dict[str, torch.Tensor]) -> None:
    """Refuse weights that mean nothing without their scales.

    Raises
    ------
    ValueError
        If there are such scales.
    """
    if scales := [name for name in state_dict if name.endswith(_QUANTIZED_NAMES)]:
        raise ValueError(
            f"the checkpoint is quantized with scales ({shown(scales[0])[1:-1]}), which this loader does not read: take "
            "plain bf16, fp16 or fp8 weights, and choose fp8 in weight_dtype to save memory."
        )


def require_fit(name: str, tensor: torch.Tensor, parameter: torch.Tensor) -> None:
    """Check that a tensor is what a parameter can be given.

    Raises
    ------
    ValueError
        If it has another shape, or no floating-point numbers of a usual kind.
    """
    if tensor.shape != parameter.shape:
        raise ValueError(
            f"the checkpoint's tensor {name} has shape {list(tensor.shape)[:8]}, but the configuration gives "
            f"{list(parameter.shape)}; the file and its config.json belong to different models, so take both from one."
        )
    if tensor.dtype not in WEIGHT_DTYPES:
        raise ValueError(
            f"the checkpoint's tensor {name} holds {str(tensor.dtype).removeprefix('torch.')} values, which are no weights "
            "that this loader reads; take a file in fp32, bf16, fp16 or fp8."
        )


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
