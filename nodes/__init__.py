"""The node pack's V3 extension: one module a stage, each with its list ``NODES``."""

from comfy_api.latest import ComfyExtension, io

from ..easyanimate_core.host.checkpoints import register_folder
from ..easyanimate_core.host.lora import register_loras
from . import (
    conditioning,
    extend_video,
    image,
    joining,
    loaders,
    long_video,
    lora,
    sampling,
    text,
    vae,
    video,
)
from .memory import say_what_to_lower
from .settings import check_settings


class EasyAnimateV3Extension(ComfyExtension):
    """Everything that ComfyUI learns from this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes, from checkpoint to file."""
        stages = (
            loaders,
            lora,
            text,
            image,
            conditioning,
            sampling,
            vae,
            extend_video,
            joining,
            video,
            long_video,
        )
        return [say_what_to_lower(check_settings(node)) for stage in stages for node in stage.NODES]


async def comfy_entrypoint() -> EasyAnimateV3Extension:
    """Register the model folders and return the extension; ComfyUI calls this once."""
    register_folder()
    register_loras()
    return EasyAnimateV3Extension()
