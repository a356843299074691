"""The nodes that are converted: their names, the order of their widgets, the values that ours name differently."""

from collections.abc import Mapping
from typing import Any

from .report import MigrationError

LOADER, LORA = "LoadEasyAnimateModel", "LoadEasyAnimateLora"
TEXTS = ("TextBox", "EasyAnimate_TextBox")
IMAGE_SAMPLER, TEXT_SAMPLER = "EasyAnimateI2VSampler", "EasyAnimateT2VSampler"
VIDEO_SAMPLER = "EasyAnimateV2VSampler"
RELEASE_SAMPLERS = (IMAGE_SAMPLER, TEXT_SAMPLER, VIDEO_SAMPLER)

WRAPPER_LOADER, WRAPPER_TEXT = "DownloadAndLoadEasyAnimateModel", "EasyAnimateTextEncode"
WRAPPER_SAMPLER, WRAPPER_DECODE = "EasyAnimateSampler", "EasyAnimateDecode"
WRAPPER_RESIZE, WRAPPER_IMAGE = "EasyAnimateResize", "EasyAnimateImageEncoder"
VHS_SAVE = "VHS_VideoCombine"

_WRAPPER = (WRAPPER_LOADER, WRAPPER_TEXT, WRAPPER_SAMPLER, WRAPPER_DECODE, WRAPPER_RESIZE, WRAPPER_IMAGE)
# Names that no other pack uses; "TextBox" alone tells nothing.
CERTAIN = {LOADER, LORA, TEXTS[1], *RELEASE_SAMPLERS, *_WRAPPER}
PROMPT_TYPE = "STRING_PROMPT"
# Types of links that no other node knows.
OWN_TYPES = {
    PROMPT_TYPE,
    "EASYANIMATESMODEL",
    "EASYANIMATEPIPE",
    "EASYANIMLATENTS",
    "T5EMBEDS",
    "CLIP_VISION_IMAGE_EMBEDS",
}
LATER_SAMPLERS = {"EasyAnimateV5_I2VSampler", "EasyAnimateV5_T2VSampler", "EasyAnimateV5_V2VSampler"}
LATER_TOOLS = {
    "CameraBasicFromChaoJie",
    "CameraCombineFromChaoJie",
    "CameraJoinFromChaoJie",
    "CameraTrajectoryFromChaoJie",
    "CreateTrajectoryBasedOnKJNodes",
    "ImageMaximumNode",
}

SAMPLER_NAMES = {
    **{name: name for name in ("Euler", "Euler A", "DPM++", "PNDM", "DDIM")},
    "EulerDiscreteScheduler": "Euler",
    "EulerAncestralDiscreteScheduler": "Euler A",
    "DPMSolverMultistepScheduler": "DPM++",
    "PNDMScheduler": "PNDM",
    "DDIMScheduler": "DDIM",
}
CONTROLS = ("fixed", "increment", "decrement", "randomize")
CONTROL = "control_after_generate"
# Memory mode that keeps the weights in fp8.
FP8_MODE = "model_cpu_offload_and_qfloat8"

_SAMPLING = ("seed", "steps", "cfg")
_WIDGETS: dict[str, tuple[str, ...]] = {
    LORA: ("lora_name", "strength_model"),
    **dict.fromkeys(TEXTS, ("prompt",)),
    IMAGE_SAMPLER: ("video_length", "base_resolution", *_SAMPLING, "scheduler"),
    TEXT_SAMPLER: ("video_length", "width", "height", "is_image", *_SAMPLING, "scheduler"),
    VIDEO_SAMPLER: ("video_length", "base_resolution", *_SAMPLING, "denoise_strength", "scheduler"),
    WRAPPER_LOADER: ("model", "precision"),
    WRAPPER_TEXT: ("prompt",),
    WRAPPER_SAMPLER: ("width", "height", "frames", "steps", "cfg", "seed"),
    WRAPPER_DECODE: (),
    WRAPPER_RESIZE: ("base_resolution",),
    WRAPPER_IMAGE: ("strength",),
    "CLIPLoader": ("clip_name", "type"),
    VHS_SAVE: ("frame_rate", "loop_count", "filename_prefix"),
}


def widget_values(label: str, kind: str, stored: Any) -> dict[str, Any]:
    """Return a node's stored widget values by name; empty for nodes of other packs.

    Parameters
    ----------
    label : str
        The node, for an error.
    kind : str
        Its type.
    stored : list, dict or None
        ``widgets_values`` of the file.

    Raises
    ------
    MigrationError
        If values are missing.
    """
    if isinstance(stored, Mapping):
        return dict(stored)
    values = list(stored or []) if isinstance(stored, list | tuple) else []
    names = _names(kind, len(values))
    if names is None:
        return {}
    named: dict[str, Any] = {}
    for name in names:
        if not values:
            raise MigrationError(f"{label} stores no value for its widget {name}, so the file is damaged.")
        named[name] = values.pop(0)
        if name == "seed" and values and values[0] in CONTROLS:
            named[CONTROL] = values.pop(0)
    return named | _rest(label, kind, values)


def _names(kind: str, count: int) -> tuple[str, ...] | None:
    if kind == LOADER:
        # Later versions put the kind of model behind the memory mode.
        memory = ("low_gpu_memory_mode",) if count < 5 else ("GPU_memory_mode", "model_type")
        return ("model", *memory, "config", "precision")
    return _WIDGETS.get(kind)


def _rest(label: str, kind: str, values: list[Any]) -> dict[str, Any]:
    """Return what stands behind the values that all versions of a node have."""
    if kind == WRAPPER_TEXT:
        return {"negative_prompt": values[0]} if values else {}
    if kind == WRAPPER_LOADER:
        return {"low_gpu_memory_mode": values[0]} if values else {}
    if kind != WRAPPER_SAMPLER:
        return {}
    # Files of the first versions have numbers of removed widgets before and behind the sampler's name.
    place = next((i for i, value in enumerate(values) if str(value) in SAMPLER_NAMES), None)
    if place is None:
        raise MigrationError(f"{label} stores no value for its widget scheduler, so the file is damaged.")
    named = {"scheduler": values[place]}
    after = values[place + 1 : place + 3]
    if len(after) == 2 and not isinstance(after[0], bool) and isinstance(after[0], int | float):
        named["denoise_strength"] = after[0]
    return named
