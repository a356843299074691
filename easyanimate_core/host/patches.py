"""Patches (LoRA, merges) of the weights that ComfyUI passes over: parameters beside sub-modules."""

from typing import Any

import torch
from comfy.patcher_extension import CallbacksMP


def patch_every_parameter(patcher: Any) -> None:
    """Have a MODEL patch all its parameters whenever it is loaded; copies of it do so too.

    ComfyUI patches modules without sub-modules, and the modulation tables of EasyAnimateV3 lie in blocks.

    Parameters
    ----------
    patcher : comfy.model_patcher.ModelPatcher
        The MODEL, just built.
    """
    patcher.add_callback(CallbacksMP.ON_LOAD, _patch_passed_over)


def _patch_passed_over(patcher: Any, device: torch.device, *_options: Any) -> None:
    for name, module in patcher.model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if len(own) == sum(1 for _ in module.parameters()):
            continue
        for parameter in own:
            key = f"{name}.{parameter}"
            # What has a backup is patched already.
            if key in patcher.patches and key not in patcher.backup:
                patcher.patch_weight_to_device(key, device_to=device)
