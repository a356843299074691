"""EasyAnimateV3 for ComfyUI: text-to-video, image-to-video and first-and-last-frame as native nodes."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
