"""A T5 encoder and a CLIP image encoder in plain torch, with Hugging Face's tensor names.

Trained together, from nothing, to agree on which caption belongs to which picture (CLIP's loss). transformers holds the
same networks; they are written out here because training must run where nothing but torch is installed.
"""

import math
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from easyanimate_core.conditioning.clip_image import clip_image

from .clips import ClipSource
from .loop import Settings, Trainer
from .models import CLIP_CHANNELS, IMAGE_WIDTH, TEXT_WIDTH
from .scenes import MAX_FRAMES, SIDE, Scenes
from .tokenizer import PIECES, encode_batch

_HEADS = 4
_TEXT_LAYERS, _IMAGE_LAYERS = 2, 3
_BUCKETS, _MAX_DISTANCE = 32, 128
_PATCH = 8
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


def text_config() -> dict[str, Any]:
    """Return ``text_encoder/config.json`` (a T5Config)."""
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": len(PIECES),
        "d_model": TEXT_WIDTH,
        "d_kv": TEXT_WIDTH // _HEADS,
        "d_ff": 2 * TEXT_WIDTH,
        "num_layers": _TEXT_LAYERS,
        "num_heads": _HEADS,
        "relative_attention_num_buckets": _BUCKETS,
        "relative_attention_max_distance": _MAX_DISTANCE,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu_new",
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-06,
        "is_encoder_decoder": False,
        "tie_word_embeddings": False,
        "use_cache": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def image_config() -> dict[str, Any]:
    """Return ``image_encoder/config.json`` (a CLIPVisionConfig)."""
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_size": IMAGE_WIDTH,
        "intermediate_size": 2 * IMAGE_WIDTH,
        "num_hidden_layers": _IMAGE_LAYERS,
        "num_attention_heads": _HEADS,
        "num_channels": 3,
        "image_size": SIDE,
        "patch_size": _PATCH,
        "projection_dim": CLIP_CHANNELS,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-05,
    }


def preprocessor_config() -> dict[str, Any]:
    """Return ``image_encoder/preprocessor_config.json``."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": SIDE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "do_convert_rgb": True,
    }


class RMSNorm(nn.Module):
    """T5's LayerNorm: no mean, no bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise the last axis."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


def _heads(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (_HEADS, -1)).transpose(1, 2)


class T5SelfAttention(nn.Module):
    """Attention without scaling, with a bias by distance that the first layer owns."""

    def __init__(self, dim: int, owns_bias: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        nn.init.normal_(self.q.weight, std=dim**-0.5 * (dim // _HEADS) ** -0.5)
        if owns_bias:
            self.relative_attention_bias = nn.Embedding(_BUCKETS, _HEADS)
            nn.init.normal_(self.relative_attention_bias.weight, std=0.1)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """``[batch, tokens, dim]`` and ``[batch, heads, tokens, tokens]`` to ``[batch, tokens, dim]``."""
        q, k, v = _heads(self.q(x)), _heads(self.k(x)), _heads(self.v(x))
        return self.o(F.scaled_dot_product_attention(q, k, v, bias, scale=1.0).transpose(1, 2).flatten(2))


class T5GatedFeedForward(nn.Module):
    """Tanh-GELU-gated MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.wi_0, self.wi_1 = (nn.Linear(dim, 2 * dim, bias=False) for _ in range(2))
        self.wo = nn.Linear(2 * dim, dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, tokens, dim]`` to the same shape."""
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class T5Block(nn.Module):
    """Attention and MLP, each with its norm and residual, under T5's names."""

    def __init__(self, dim: int, first: bool) -> None:
        super().__init__()
        attention, mlp = nn.Module(), nn.Module()
        attention.SelfAttention = T5SelfAttention(dim, first)
        mlp.DenseReluDense = T5GatedFeedForward(dim)
        for part in (attention, mlp):
            part.layer_norm = RMSNorm(dim)
        self.layer = nn.ModuleList((attention, mlp))

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """``[batch, tokens, dim]`` to the same shape."""
        attention, mlp = self.layer
        x = x + attention.SelfAttention(attention.layer_norm(x), bias)
        return x + mlp.DenseReluDense(mlp.layer_norm(x))


class T5Encoder(nn.Module):
    """Text tokens to text states (Raffel et al. 2020, version 1.1)."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Embedding(len(PIECES), TEXT_WIDTH)
        self.encoder = nn.Module()
        self.encoder.block = nn.ModuleList(T5Block(TEXT_WIDTH, i == 0) for i in range(_TEXT_LAYERS))
        self.encoder.final_layer_norm = RMSNorm(TEXT_WIDTH)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Tokens and mask ``[batch, tokens]`` to states ``[batch, tokens, 64]``."""
        table = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        distance = table(_buckets(tokens.shape[1]).to(tokens.device)).permute(2, 0, 1)
        bias = distance[None].masked_fill(~mask[:, None, None], -1e9)
        x = self.shared(tokens)
        for block in self.encoder.block:
            x = block(x, bias)
        return self.encoder.final_layer_norm(x)


def _buckets(length: int) -> torch.Tensor:
    """Return the bucket of the distance from each token to each other one: ``[length, length]``."""
    distance = torch.arange(length) - torch.arange(length)[:, None]
    half = _BUCKETS // 2
    exact = half // 2
    far = (
        exact
        + (
            (distance.abs().clamp(min=1) / exact).log() / math.log(_MAX_DISTANCE / exact) * (half - exact)
        ).long()
    )
    near = torch.where(distance.abs() < exact, distance.abs(), far.clamp(max=half - 1))
    return near + half * (distance > 0)


class ClipAttention(nn.Module):
    """Self-attention under CLIP's names."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, tokens, dim]`` to the same shape."""
        q, k, v = _heads(self.q_proj(x)), _heads(self.k_proj(x)), _heads(self.v_proj(x))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ClipLayer(nn.Module):
    """One pre-norm layer of the image encoder."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.self_attn = ClipAttention(dim)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, tokens, dim]`` to the same shape."""
        x = x + self.self_attn(self.layer_norm1(x))
        hidden = self.mlp.fc1(self.layer_norm2(x))
        return x + self.mlp.fc2(hidden * torch.sigmoid(1.702 * hidden))


class ClipImageEncoder(nn.Module):
    """Picture to embedding (Radford et al. 2021, vision tower with projection)."""

    def __init__(self) -> None:
        super().__init__()
        dim = IMAGE_WIDTH
        vision = self.vision_model = nn.Module()
        vision.embeddings = nn.Module()
        vision.embeddings.class_embedding = nn.Parameter(torch.randn(dim) * dim**-0.5)
        vision.embeddings.patch_embedding = nn.Conv2d(3, dim, _PATCH, _PATCH, bias=False)
        vision.embeddings.position_embedding = nn.Embedding((SIDE // _PATCH) ** 2 + 1, dim)
        nn.init.normal_(vision.embeddings.position_embedding.weight, std=dim**-0.5)
        # The published name has this letter missing.
        vision.pre_layrnorm, vision.post_layernorm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        vision.encoder = nn.Module()
        vision.encoder.layers = nn.ModuleList(ClipLayer(dim) for _ in range(_IMAGE_LAYERS))
        self.visual_projection = nn.Linear(dim, CLIP_CHANNELS, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures ``[batch, 3, 64, 64]`` in [0, 1] to embeddings ``[batch, 768]``."""
        vision = self.vision_model
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
        images = ((images * 255).round() / 255 - mean) / std
        patches = vision.embeddings.patch_embedding(images).flatten(2).transpose(1, 2)
        first = vision.embeddings.class_embedding.expand(len(images), 1, -1)
        x = torch.cat((first, patches), dim=1) + vision.embeddings.position_embedding.weight
        x = vision.pre_layrnorm(x)
        for layer in vision.encoder.layers:
            x = layer(x)
        return self.visual_projection(vision.post_layernorm(x[:, 0]))


class EncoderPair(nn.Module):
    """Both encoders, and what only their training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.image = T5Encoder(), ClipImageEncoder()
        self.text_projection = nn.Linear(TEXT_WIDTH, CLIP_CHANNELS, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.7))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return how well each text fits each picture: ``[texts, pictures]``."""
        states = self.text(tokens, mask)
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        texts = F.normalize(self.text_projection(pooled), dim=-1)
        return self.logit_scale.clamp(max=4.6).exp() * texts @ F.normalize(self.image(images), dim=-1).T


def pictures(frames: torch.Tensor) -> torch.Tensor:
    """Return frames ``[batch, 3, height, width]`` in [0, 1] as :class:`ClipImageEncoder` reads them, like the pack does."""
    return clip_image(frames.movedim(1, -1), SIDE).movedim(-1, 1)


def train(
    folder: Path,
    settings: Settings,
    device: torch.device,
    batch: int = 48,
    source: ClipSource | None = None,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Train both encoders; a run's folder holds them under ``text.`` and ``image.``.

    Parameters
    ----------
    folder : Path
        Where the run's files lie.
    settings : Settings
        Steps, learning rate and seed.
    device : torch.device
        Where to train.
    batch : int
        Captions that are told apart in a step.
    source : ClipSource, optional
        Gives the clips, of 32 frames; generated scenes by default.
    weights : dict, optional
        Weights to start from instead of fresh ones; a checkpoint folder has none of what only this training needs.
    """
    source = source or Scenes()
    torch.manual_seed(settings.seed)
    pair = EncoderPair()
    if weights is not None:
        pair.load_state_dict(weights, strict=False)
    pair.to(device)
    trainer = Trainer(folder, pair, settings)

    def loss(rng: random.Random) -> tuple[torch.Tensor, dict[str, float]]:
        scenes = [source.draw(rng, MAX_FRAMES) for _ in range(batch)]
        images = torch.stack([scene.render()[rng.randrange(MAX_FRAMES)] for scene in scenes])
        tokens, mask = encode_batch([scene.caption() for scene in scenes])
        scores = pair(tokens.to(device), mask.to(device), pictures(images).to(device))
        target = torch.arange(batch, device=device)
        value = (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
        right = (scores.argmax(0) == target).float().mean().item()
        return value, {"clip": value.item(), "right": right}

    trainer.fit(loss)


def load(weights: dict[str, torch.Tensor]) -> tuple[T5Encoder, ClipImageEncoder]:
    """Return both encoders, frozen, from what :func:`train` left or a checkpoint folder holds (``text.``, ``image.``)."""
    text, image = T5Encoder(), ClipImageEncoder()
    for prefix, encoder in (("text.", text), ("image.", image)):
        part = {
            name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)
        }
        encoder.load_state_dict(part)
        encoder.eval().requires_grad_(False)
    return text, image
