"""The binding to ComfyUI: the one place of this package that imports ``comfy``."""
