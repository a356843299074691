"""Loaders: an official checkpoint folder whole, or single files."""

import folder_paths
from comfy_api.latest import io

from ..easyanimate_core.host.checkpoints import (
    WEIGHT_DTYPES,
    checkpoint_folders,
    load_folder,
    load_transformer_file,
    load_vae_file,
    model_file_path,
)

CATEGORY = "EasyAnimateV3/loaders"
NO_FOLDER = "none: put a checkpoint folder in models/EasyAnimate"
WEIGHT_DTYPE_TOOLTIP = (
    "How to keep the weights: default as the file and the device have it, fp8 in half of bf16's memory."
)


class EasyAnimateV3Loader(io.ComfyNode):
    """Load an official checkpoint folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EasyAnimateV3Loader",
            display_name="EasyAnimateV3 Loader",
            category=CATEGORY,
            description="Loads a checkpoint folder in the release's layout from models/EasyAnimate or from this pack.",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=checkpoint_folders() or [NO_FOLDER],
                    tooltip="Folder with transformer, vae, text_encoder, tokenizer and image_encoder.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip=WEIGHT_DTYPE_TOOLTIP,
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The transformer."),
                io.Clip.Output(tooltip="The T5 text encoder."),
                io.Vae.Output(tooltip="The Slice VAE."),
                io.ClipVision.Output(display_name="CLIP_VISION", tooltip="The CLIP image encoder."),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str) -> bool:
        """Accept any name here: loading says better than the host what is missing and where to get it."""
        return True

    @classmethod
    def execute(cls, checkpoint: str, weight_dtype: str) -> io.NodeOutput:
        """Load the four models."""
        return io.NodeOutput(*load_folder(checkpoint, weight_dtype))


class EasyAnimateV3TransformerLoader(io.ComfyNode):
    """Load the transformer from a single file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EasyAnimateV3TransformerLoader",
            display_name="EasyAnimateV3 Transformer Loader",
            category=CATEGORY,
            description="Loads the transformer from one file in models/diffusion_models.",
            inputs=[
                io.Combo.Input(
                    "transformer_name",
                    options=folder_paths.get_filename_list("diffusion_models"),
                    tooltip="EasyAnimateV3 transformer: fp32, fp16, bf16 or fp8 safetensors.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip=WEIGHT_DTYPE_TOOLTIP,
                ),
            ],
            outputs=[io.Model.Output(tooltip="The transformer.")],
        )

    @classmethod
    def validate_inputs(cls, transformer_name: str) -> bool:
        """Accept any name here: loading says better than the host what is missing and where to get it."""
        return True

    @classmethod
    def execute(cls, transformer_name: str, weight_dtype: str) -> io.NodeOutput:
        """Load the transformer."""
        return io.NodeOutput(
            load_transformer_file(model_file_path("diffusion_models", transformer_name), weight_dtype)
        )


class EasyAnimateV3VAELoader(io.ComfyNode):
    """Load the Slice VAE from a single file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EasyAnimateV3VAELoader",
            display_name="EasyAnimateV3 VAE Loader",
            category=CATEGORY,
            description="Loads the Slice VAE from one file in models/vae.",
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=folder_paths.get_filename_list("vae"),
                    tooltip="Slice VAE of EasyAnimateV3.",
                )
            ],
            outputs=[io.Vae.Output(tooltip="The Slice VAE; core VAE nodes work on it too.")],
        )

    @classmethod
    def validate_inputs(cls, vae_name: str) -> bool:
        """Accept any name here: loading says better than the host what is missing and where to get it."""
        return True

    @classmethod
    def execute(cls, vae_name: str) -> io.NodeOutput:
        """Load the VAE."""
        return io.NodeOutput(load_vae_file(model_file_path("vae", vae_name)))


NODES = [EasyAnimateV3Loader, EasyAnimateV3TransformerLoader, EasyAnimateV3VAELoader]
