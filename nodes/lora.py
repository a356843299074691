"""LoRA files in the release's format and in those that ComfyUI knows."""

import folder_paths
from comfy_api.latest import io

from ..easyanimate_core.host.lora import FOLDER_KEY, apply_lora, lora_path
from .messages import show_in_node


class EasyAnimateV3LoraLoader(io.ComfyNode):
    """Apply a LoRA to the transformer and, where connected, to T5."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EasyAnimateV3LoraLoader",
            display_name="EasyAnimateV3 LoRA Loader",
            category="EasyAnimateV3/loaders",
            description="Applies a LoRA from models/loras. Reads the release's names (lora_unet__...) and those of diffusers "
            "and PEFT (transformer., base_model.model.), which the core LoRA loaders do not match, and all formats of the "
            "core loaders; several can follow each other.",
            inputs=[
                io.Model.Input("model", tooltip="EasyAnimateV3 transformer."),
                io.Combo.Input(
                    "lora_name",
                    options=folder_paths.get_filename_list(FOLDER_KEY),
                    tooltip="LoRA trained for EasyAnimateV3.",
                ),
                io.Float.Input(
                    "strength_model",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How strongly the transformer is changed; may be negative.",
                ),
                io.Float.Input(
                    "strength_clip",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How strongly T5 is changed, where clip is connected and the file has a part for it.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="T5 encoder; needed only by LoRAs that change it too."
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The changed transformer."),
                io.Clip.Output(tooltip="The changed T5 encoder; nothing where clip is not connected."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, lora_name: str) -> bool:
        """Accept any name here: loading says better than the host what is missing and where to put it."""
        return True

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        lora_name: str,
        strength_model: float,
        strength_clip: float,
        clip: io.Clip.Type | None = None,
    ) -> io.NodeOutput:
        """Apply the LoRA."""
        if strength_model == 0 and strength_clip == 0:
            return io.NodeOutput(model, clip)
        changed, changed_clip, note = apply_lora(
            model, clip, lora_path(lora_name), strength_model, strength_clip
        )
        return io.NodeOutput(changed, changed_clip, ui=show_in_node(cls, note))


NODES = [EasyAnimateV3LoraLoader]
