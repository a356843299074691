"""A tiny checkpoint with random weights in the official folder layout, for tests.

Same files, tensor names and config keys as ``EasyAnimateV3-XL-2-InP-*``; 28 blocks of width 32, a small Slice VAE,
T5 encoder, tokenizer and CLIP vision model. It draws noise: only the way from files to a video is real.
"""

import io
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from training import models

from . import golden

NAME = "EasyAnimateV3-tiny-random"

_WIDTH, _HEADS, _CAPTION_CHANNELS, _POSITIONS = 32, 2, 24, 256
_CLIP_CHANNELS = 768
# Latent side of 4, so the "trained" resolution is 32 pixels and tests stay small.
_SAMPLE_SIZE = 4
# As many rows as T5 has, so that the host's own T5 tokenizer fits as well.
_T5_VOCABULARY = 32128

_WORDS = (
    "a an the and of in on at with over under near through into is are was looking running standing playing walking "
    "flying swimming smiling young old woman man girl boy dog cat bird horse fish tree forest flower sea ocean wave "
    "beach mountain snow river lake sky cloud sun moon star light shadow city street car train boat house bridge "
    "camera video picture photo film quality high low best good bad blurry deformed ugly sharp clear beautiful bright "
    "dark red green blue yellow white black golden silver colorful motion slow fast moving still subtitles watermark "
    "the dog is looking at camera and smiling a cat walks on the grass the sea at sunset with golden light this video "
    "has a high quality realistic style masterpiece twisted body limbs distortion text comic static noise error mess"
)


def transformer_config(in_channels: int = 12) -> dict[str, Any]:
    """Return the ``transformer/config.json`` of the tiny checkpoint."""
    config = models.transformer_config(_WIDTH, _HEADS, _CAPTION_CHANNELS)
    return config | {"in_channels": in_channels, "sample_size": _SAMPLE_SIZE}


def vae_config() -> dict[str, Any]:
    """Return the ``vae/config.json`` of the tiny checkpoint."""
    return models.vae_config() | {"ch": 32, "ch_mult": [1, 1, 2, 2], "norm_num_groups": 32}


def write(folder: Path, seed: int = golden.DEFAULT_SEED, in_channels: int = 12) -> Path:
    """Write the tiny checkpoint and return its folder.

    Parameters
    ----------
    folder : Path
        Folder to write; one left half-written is replaced.
    seed : int
        Seed of all weights.
    in_channels : int
        12 for the published model; 4 for the text-to-video variant without CLIP projection.
    """
    folder = Path(folder)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    _write_transformer(folder / "transformer", seed, in_channels)
    _write_vae(folder / "vae", seed)
    _write_tokenizer(folder / "tokenizer")
    _write_text_encoder(folder / "text_encoder", seed)
    _write_image_encoder(folder / "image_encoder", seed)
    _write_json(folder / "scheduler" / "scheduler_config.json", models.scheduler_config())
    _write_json(folder / "model_index.json", models.model_index())
    return folder


def transformer_weights(
    config: Mapping[str, Any], seed: int = golden.DEFAULT_SEED
) -> dict[str, torch.Tensor]:
    """Return float32 rule weights that keep videos from being all saturated, for a transformer of ``config``."""
    from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig

    model = EasyAnimateTransformer3D(TransformerConfig.from_dict(config), device="meta")
    return golden.pipeline_state_dict(_shapes(model), seed)


def vae_weights(config: Mapping[str, Any], seed: int = golden.DEFAULT_SEED) -> dict[str, torch.Tensor]:
    """Return float32 rule weights for a Slice VAE of ``config``."""
    from easyanimate_core.vae import SliceVAE, SliceVAEConfig

    return golden.rule_state_dict(_shapes(SliceVAE(SliceVAEConfig.from_dict(config), device="meta")), seed)


def _shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"}
    )


def _write_transformer(folder: Path, seed: int, in_channels: int) -> None:
    config = transformer_config(in_channels)
    weights = transformer_weights(config, seed)
    # The official file stores these fixed tables too; a loader must compute and never keep them.
    for block in range(config["num_layers"]):
        for attention in range(2):
            module = f"transformer_blocks.{block}.attn_temporal.temporal_transformer.transformer_blocks.0"
            weights[f"{module}.attention_blocks.{attention}.pos_encoder.pe"] = _sinusoids()
    _write_json(folder / "config.json", config)
    _write_tensors(folder / "diffusion_pytorch_model.safetensors", weights)


def _sinusoids() -> torch.Tensor:
    """Return the table ``[1, positions, width]``: even channels sine, odd channels cosine, base 10000."""
    frequency = 10000 ** -(torch.arange(0, _WIDTH, 2) / _WIDTH)
    angle = torch.arange(_POSITIONS)[:, None] * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[None]


def _write_vae(folder: Path, seed: int) -> None:
    config = vae_config()
    _write_json(folder / "config.json", config)
    _write_tensors(folder / "diffusion_pytorch_model.safetensors", vae_weights(config, seed))


def _write_tokenizer(folder: Path) -> None:
    import sentencepiece

    words = _WORDS.split()
    shuffle = random.Random(0)
    sentences = [" ".join(shuffle.choices(words, k=12)) for _ in range(400)]
    # Every printable character becomes a piece, so that no English prompt has unknown tokens.
    sentences.append(" ".join(chr(code) for code in range(33, 127)))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="unigram",
        vocab_size=400,
        hard_vocab_limit=False,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    folder.mkdir(parents=True)
    (folder / "spiece.model").write_bytes(model.getvalue())
    extra = [f"<extra_id_{i}>" for i in range(100)]
    special = {
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "additional_special_tokens": extra,
    }
    _write_json(folder / "special_tokens_map.json", special)
    settings = {"tokenizer_class": "T5Tokenizer", "model_max_length": 512, "extra_ids": 100, "legacy": True}
    _write_json(folder / "tokenizer_config.json", {**special, **settings})


def _write_text_encoder(folder: Path, seed: int) -> None:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=_T5_VOCABULARY,
        d_model=_CAPTION_CHANNELS,
        d_kv=6,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        is_encoder_decoder=False,
        use_cache=False,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # The official encoder is sharded too; the embedding alone is larger than this limit.
        T5EncoderModel(config).save_pretrained(folder, max_shard_size="2MB", safe_serialization=True)


def _write_image_encoder(folder: Path, seed: int) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=224,
        patch_size=32,
        projection_dim=_CLIP_CHANNELS,
        hidden_act="quick_gelu",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        CLIPVisionModelWithProjection(config).save_pretrained(folder, safe_serialization=True)
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 224},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_convert_rgb": True,
    }
    _write_json(folder / "preprocessor_config.json", preprocessor)
