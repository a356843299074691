"""Sizes of the nano checkpoint, under the names of the official folder's config.json files."""

from typing import Any

NAME = "EasyAnimateV3-nano-InP-64x64"
# LoRA for it, without its suffix: the pack has it in the release's format and, with _comfyui behind, under native names.
RINGS_LORA = "EasyAnimateV3_nano_rings"
WIDTH, HEADS = 64, 4
TEXT_WIDTH = 64
IMAGE_WIDTH = 64
CLIP_CHANNELS = 768
_POSITIONS = 4096


def _motion_module(second: str, heads: int) -> dict[str, Any]:
    return {
        "num_attention_heads": heads,
        "num_transformer_block": 1,
        "temporal_position_encoding": True,
        "temporal_position_encoding_max_len": _POSITIONS,
        "temporal_attention_dim_div": 1,
        "block_size": 1,
        "remove_time_embedding_in_photo": False,
        "attention_block_types": ["Temporal_Self", second],
    }


def transformer_config(
    width: int = WIDTH, heads: int = HEADS, caption_channels: int = TEXT_WIDTH
) -> dict[str, Any]:
    """Return ``transformer/config.json`` of nano, or with another width, number of heads and width of the text."""
    return {
        "_class_name": "Transformer3DModel",
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": 12,
        "out_channels": 8,
        "num_layers": 28,
        "cross_attention_dim": width,
        "attention_bias": True,
        "sample_size": 8,
        "patch_size": 2,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-06,
        "caption_channels": caption_channels,
        "basic_block_type": "global_motionmodule",
        "enable_uvit": True,
        "motion_module_type": "Vanilla",
        "motion_module_kwargs_even": _motion_module("Temporal_Self", heads),
        "motion_module_kwargs_odd": _motion_module("Global_Self", heads),
    }


def vae_config() -> dict[str, Any]:
    """Return ``vae/config.json``."""
    return {
        "_class_name": "AutoencoderKLMagvit",
        "in_channels": 3,
        "out_channels": 3,
        "ch": 16,
        "ch_mult": [1, 2, 4, 4],
        "down_block_types": ["SpatialDownBlock3D", *["SpatialTemporalDownBlock3D"] * 3],
        "up_block_types": ["SpatialUpBlock3D", *["SpatialTemporalUpBlock3D"] * 3],
        "mid_block_attention_type": "3d",
        "layers_per_block": 2,
        "act_fn": "silu",
        "latent_channels": 4,
        "norm_num_groups": 8,
        "scaling_factor": 0.18215,
        "slice_compression_vae": True,
        "use_tiling": True,
        "mini_batch_encoder": 8,
        "mini_batch_decoder": 2,
    }


def scheduler_config() -> dict[str, Any]:
    """Return ``scheduler/scheduler_config.json``."""
    return {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "steps_offset": 1,
        "clip_sample": True,
    }


def model_index() -> dict[str, Any]:
    """Return ``model_index.json``."""
    return {
        "_class_name": "EasyAnimateInpaintPipeline",
        "clip_image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
    }
