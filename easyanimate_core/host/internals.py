"""The names of ComfyUI that are not made for packs, each with the reason why none that is would do.

Only this module may import them (``tests/host/test_host_names.py``), so that a newer ComfyUI is met in one place.
Public are ``comfy_api``, ``folder_paths``, ``node_helpers``, ``nodes.MAX_RESOLUTION``, the graph builder of node
expansion, and what native models are made of: the ``comfy`` modules that its own extra nodes use.
"""

from typing import Any

import comfy.cli_args
import comfy.model_management
import comfy.ops
import latent_preview

# The attention that the user chose at start; comfy_api has no models, and no native one does without it.
from comfy.ldm.modules.attention import optimized_attention

# The same for the VAE, whose single wide head takes other kernels.
from comfy.ldm.modules.diffusionmodules.model import vae_attention

# A CLIP of any T5 size: the host builds only T5 XXL by itself.
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer
from comfy.text_encoders.spiece_tokenizer import SPieceTokenizer
from comfy.text_encoders.t5 import T5

# The node that runs and its place in an expansion; comfy_api's progress can set a bar, but tells neither.
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

# Text under a running node; comfy_api has no call for it.
from server import PromptServer

__all__ = [
    "T5",
    "PromptServer",
    "SD1ClipModel",
    "SD1Tokenizer",
    "SDClipModel",
    "SDTokenizer",
    "SPieceTokenizer",
    "cast_weights",
    "get_executing_context",
    "get_previewer",
    "get_progress_state",
    "is_host_previewer",
    "launch_option",
    "needs_own_memory",
    "optimized_attention",
    "preview_handlers",
    "vae_attention",
]


def get_previewer(device: Any, latent_format: Any) -> Any:
    """Return what makes the preview that the user chose, as KSampler has it; comfy_api only sends pictures that are made.

    It is looked up on every call, since packs put a function of their own in its place.
    """
    return latent_preview.get_previewer(device, latent_format)


def is_host_previewer(previewer: Any) -> bool:
    """Return whether a previewer is ComfyUI's own and so makes pictures; another pack's may give anything."""
    return type(previewer).__module__ == latent_preview.__name__


def launch_option(name: str) -> Any:
    """Return an option of ComfyUI's command line, or None where this version has none of the name."""
    return getattr(comfy.cli_args.args, name, None)


def needs_own_memory() -> bool:
    """Return whether weights must not stay mapped from their file: the host pins them, or the user forbade it."""
    return comfy.model_management.MAX_PINNED_MEMORY > 0 or bool(launch_option("disable_mmap"))


def cast_weights(layer: Any, device: Any, dtype: Any) -> tuple[Any, ...]:
    """Return a host layer's weights cast, moved and patched as the layer itself would have them on a call."""
    # As the layers themselves do, so that a cancel is noticed.
    comfy.ops.run_every_op()
    return comfy.ops.cast_bias_weight(layer, dtype=dtype, device=device, bias_dtype=dtype)


def preview_handlers() -> list[Any]:
    """Return what shows progress and previews of the running prompt: the user interface, and what packs added."""
    return [handler for handler in get_progress_state().handlers.values() if handler.enabled]
