"""LoRA files of the EasyAnimateV3 release (kohya layout): merging them, and renaming them for ComfyUI.

A module is named by its part, ``lora_unet`` (the transformer) or ``lora_te`` (the T5 encoder), and its path with
underscores for dots. The release writes two underscores after ``lora_unet``, ComfyUI's own key map knows one.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..values import shown
from .weights import WEIGHT_DTYPES

TRANSFORMER_PART = "lora_unet"
TEXT_PART = "lora_te"
_HOST_TRANSFORMER_PREFIX = "diffusion_model."
# What diffusers and PEFT put before a module's dotted name; ComfyUI maps these for its own models only.
_TRAINER_PREFIXES = ("transformer.", "base_model.model.", "unet.base_model.model.")
_HOST_TEXT_PREFIX = "text_encoders.t5xxl.transformer."
# What T5's modules start with, which tells its LoRA from that of a CLIP text encoder.
_T5_MODULES = f"{TEXT_PART}_encoder_block_"
_TENSOR_NAMES = {"lora_up.weight": "up", "lora_down.weight": "down", "alpha": "alpha"}
# Entries of a LoRA that are numbers or sizes; all others are weights.
_NUMBERS, _SIZES = ".alpha", ".reshape_weight"


@dataclass(frozen=True)
class LoraModule:
    """Low-rank update of one module.

    Attributes
    ----------
    up, down : torch.Tensor
        Shapes ``[out, rank]`` and ``[rank, in]``, for a convolution with its kernel axes behind.
    alpha : float
        The update is ``alpha / rank * up @ down``; equal to the rank where the file has none.
    """

    up: torch.Tensor
    down: torch.Tensor
    alpha: float

    def delta(self) -> torch.Tensor:
        """Return the update at multiplier 1: float32, shape ``[out, in * kernel size]``."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return product * (self.alpha / self.down.shape[0])


def is_release_lora(keys: Iterable[str]) -> bool:
    """Return whether a file's tensor names are those of the release's LoRAs, which ComfyUI does not match."""
    return any(key.startswith((f"{TRANSFORMER_PART}__", _T5_MODULES)) for key in keys)


def with_host_prefix(lora: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the LoRA with ComfyUI's prefix ``diffusion_model.`` in place of diffusers' or PEFT's."""
    renamed = {}
    for name, tensor in lora.items():
        prefix = next((prefix for prefix in _TRAINER_PREFIXES if name.startswith(prefix)), None)
        renamed[name if prefix is None else _HOST_TRANSFORMER_PREFIX + name.removeprefix(prefix)] = tensor
    return renamed


def check_values(lora: Mapping[str, torch.Tensor]) -> None:
    """Check that the tensors of a LoRA in any format hold floating-point numbers, and one finite number where one belongs.

    Raises
    ------
    ValueError
        If one does not.
    """
    for name, tensor in lora.items():
        if name.endswith(_NUMBERS):
            if tensor.numel() != 1 or tensor.is_complex() or not math.isfinite(tensor.item()):
                raise ValueError(
                    f"The LoRA's {shown(name)} is not one finite number: the file is damaged, so download it again."
                )
        elif tensor.dtype not in WEIGHT_DTYPES and not name.endswith(_SIZES):
            raise ValueError(
                f"The LoRA's {shown(name)} holds {str(tensor.dtype).removeprefix('torch.')} values, which are no weights: "
                "use a file in fp32, bf16 or fp16."
            )


def read_modules(lora: Mapping[str, torch.Tensor]) -> dict[str, LoraModule]:
    """Group the tensors of a LoRA file by module.

    Parameters
    ----------
    lora : mapping of str to torch.Tensor
        The file's tensors under kohya names, ``<module>.lora_up.weight``, ``.lora_down.weight``, ``.alpha``.

    Returns
    -------
    dict
        :class:`LoraModule` by the module's name in the file.

    Raises
    ------
    ValueError
        A tensor of an unknown kind, or a module with only one of its two factors.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in lora.items():
        module, _, kind = key.partition(".")
        if kind not in _TENSOR_NAMES or not module.startswith((f"{TRANSFORMER_PART}_", f"{TEXT_PART}_")):
            raise ValueError(
                f"The LoRA has the tensor {shown(key)}, which is not of the EasyAnimateV3 kohya layout: "
                "use a LoRA trained for EasyAnimateV3."
            )
        parts.setdefault(module, {})[_TENSOR_NAMES[kind]] = tensor
    modules = {}
    for module, tensors in parts.items():
        missing = {"up", "down"} - tensors.keys()
        if missing:
            raise ValueError(
                f"The LoRA module {shown(module)} has no lora_{missing.pop()}.weight: the file is incomplete, download it again."
            )
        up, down = (list(tensors[part].shape) for part in ("up", "down"))
        if len(up) < 2 or len(down) < 2 or 0 in (*up, *down):
            raise ValueError(
                f"The LoRA module {shown(module)} has factors of shapes {up[:8]} and {down[:8]}, which make no update: the "
                "file is damaged, so download it again."
            )
        rank = down[0]
        if up[1] != rank:
            raise ValueError(
                f"The LoRA module {shown(module)} has factors of rank {up[1]} and {rank}: the file is damaged, so download it "
                "again."
            )
        alpha = float(tensors["alpha"]) if "alpha" in tensors else float(rank)
        modules[module] = LoraModule(tensors["up"], tensors["down"], alpha)
    return modules


def merge_lora(
    state_dict: dict[str, torch.Tensor],
    lora: Mapping[str, torch.Tensor],
    multiplier: float = 1.0,
    part: str = TRANSFORMER_PART,
) -> set[str]:
    """Add a LoRA to the weights of a model: ``W + multiplier * alpha / rank * up @ down``.

    Parameters
    ----------
    state_dict : dict of str to torch.Tensor
        The model's weights under official names. Changed entries are replaced by new tensors of the same dtype
        and device; the old tensors stay as they are, so memory-mapped ones are safe.
    lora : mapping of str to torch.Tensor
        The LoRA file's tensors.
    multiplier : float, optional
        Strength.
    part : {"lora_unet", "lora_te"}, optional
        Whose modules to merge: the transformer's or the T5 encoder's. The other part is left alone.

    Returns
    -------
    set of str
        Names of the changed entries of ``state_dict``.

    Raises
    ------
    ValueError
        The file is not of this layout, or has a module that the model lacks or that is of another shape. Nothing
        is merged then.
    """
    weighted = [name.removesuffix(".weight") for name in state_dict if name.endswith(".weight")]
    modules = _modules_of(read_modules(lora), part, weighted)
    merged = {}
    for path, module in modules.items():
        weight = state_dict[f"{path}.weight"]
        _check_shape(path, module, weight.shape)
        changed = weight.float() + multiplier * module.delta().reshape(weight.shape).to(weight.device)
        merged[f"{path}.weight"] = changed.to(weight.dtype)
    state_dict.update(merged)
    return set(merged)


def check_shapes(
    lora: Mapping[str, torch.Tensor], shapes: Mapping[str, Sequence[int]], part: str = TRANSFORMER_PART
) -> None:
    """Check one part of a LoRA against the weights that it changes, which ComfyUI does too late to stop a run.

    Parameters
    ----------
    lora : mapping of str to torch.Tensor
        The LoRA file's tensors.
    shapes : mapping of str to sequence of int
        Shapes of the model's tensors under official names.
    part : {"lora_unet", "lora_te"}, optional
        Whose modules to check.

    Raises
    ------
    ValueError
        The file is not of this layout, or has a module that the model lacks or that is of another shape.
    """
    weighted = [name.removesuffix(".weight") for name in shapes if name.endswith(".weight")]
    for path, module in _modules_of(read_modules(lora), part, weighted).items():
        _check_shape(path, module, shapes[f"{path}.weight"])


def to_native_names(
    lora: Mapping[str, torch.Tensor],
    module_names: Iterable[str],
    text_module_names: Iterable[str] | None = None,
) -> dict[str, torch.Tensor]:
    """Rename a LoRA so that ComfyUI's stock LoRA loaders find its modules.

    Parameters
    ----------
    lora : mapping of str to torch.Tensor
        The LoRA file's tensors.
    module_names : iterable of str
        Dotted names of the transformer's modules that have a weight, such as
        ``transformer_blocks.0.attn1.to_q``; names ending in ``.weight`` (a state dict's) do as well.
    text_module_names : iterable of str, optional
        The same of the T5 encoder (``encoder.block.0.layer.0.SelfAttention.q``). Without it the T5 part is left
        out of the result.

    Returns
    -------
    dict of str to torch.Tensor
        The same tensors as ``diffusion_model.<module>.lora_up.weight``, ``.lora_down.weight`` and ``.alpha``,
        those of T5 as ``text_encoders.t5xxl.transformer.<module>...``.

    Raises
    ------
    ValueError
        The file is not of this layout, or has a module that the model lacks.
    """
    modules = read_modules(lora)
    targets = [(TRANSFORMER_PART, _HOST_TRANSFORMER_PREFIX, module_names)]
    if text_module_names is not None:
        targets.append((TEXT_PART, _HOST_TEXT_PREFIX, text_module_names))
    native = {}
    for part, prefix, names in targets:
        for path, module in _modules_of(modules, part, _module_names(names)).items():
            native[f"{prefix}{path}.lora_up.weight"] = module.up
            native[f"{prefix}{path}.lora_down.weight"] = module.down
            native[f"{prefix}{path}.alpha"] = torch.tensor(module.alpha)
    return native


def _check_shape(path: str, module: LoraModule, shape: Sequence[int]) -> None:
    """Raise a ValueError unless an update has the rows and the size of its weight."""
    rows, columns = module.up.shape[0], module.down[0].numel()
    if rows != shape[0] or rows * columns != math.prod(shape):
        raise ValueError(
            f"The LoRA's update of {path!r} has shape {[rows, columns]}, the weight {list(shape)}: "
            "the LoRA is for another model, so use one trained for EasyAnimateV3."
        )


def _module_names(names: Iterable[str]) -> list[str]:
    """Drop ``.weight`` from names and leave out the other tensors of a state dict."""
    return [name.removesuffix(".weight") for name in names if not name.endswith(".bias")]


def _modules_of(modules: Mapping[str, LoraModule], part: str, paths: Iterable[str]) -> dict[str, LoraModule]:
    """Return the LoRA modules of one part by their dotted path in the model."""
    dotted: dict[str, str] = {}
    for path in paths:
        flat = path.replace(".", "_")
        if dotted.setdefault(flat, path) != path:
            raise ValueError(
                f"The modules {dotted[flat]!r} and {path!r} have the same name {flat!r} in a LoRA."
            )
    found, unknown = {}, []
    for name, module in modules.items():
        if not name.startswith(f"{part}_"):
            continue
        path = dotted.get(name.removeprefix(f"{part}_").removeprefix("_"))
        if path is None:
            unknown.append(name)
        else:
            found[path] = module
    if unknown:
        raise ValueError(
            f"The LoRA has {len(unknown)} modules that the model lacks, the first {shown(unknown[0])}: "
            "use a LoRA trained for EasyAnimateV3."
        )
    return found
