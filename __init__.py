"""EasyAnimateV3 for ComfyUI: text-to-video, image-to-video and first-and-last-frame as native nodes."""

from .nodes import comfy_entrypoint

# ComfyUI serves this folder; its help panel reads web/docs, one page for each node.
WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
