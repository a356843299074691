"""Training of the diffusion transformer: images and clips together, noise prediction, all kinds of given frames."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from easyanimate_core.sampling import NoiseSchedule, release_sigmas, sample_euler
from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig

from . import workers
from .encoders import T5Encoder
from .latents import Batch, Encoder, PooledClip, draw_batch
from .loop import Settings, Trainer, initialise
from .models import transformer_config
from .pictures import film_strips
from .tokenizer import encode_batch

# Slices of a step's clips (0: images) and how often.
_SLICES, _SLICE_WEIGHTS = (0, 1, 2, 3, 4), (0.06, 0.12, 0.54, 0.12, 0.16)
# Latent frames of a step, so that long clips and short ones cost the same.
_LATENT_FRAMES = 144
_MAX_ROWS = 64
_MASKED = -1e4
# The noise's error is weighed as the picture's, up to this factor: unweighed, what the prompt decides (colours, place,
# motion, all settled while noise prevails) is a hundredth of the loss.
_MAX_WEIGHT = 50.0
# Timesteps that most is decided at, and how many of a batch are drawn among them alone.
_DECISIVE, _DECISIVE_SHARE = (100, 700), 0.75
# Tokens that captions are padded to, so that most batches have one shape.
_TEXT_TOKENS = 16


class MaskedAttention:
    """Attention for training batches, whose rows have different numbers of text and CLIP tokens.

    Attributes
    ----------
    mask : torch.Tensor or None
        ``[batch, text and CLIP tokens]``, true where a token counts; read by cross-attention, which is told from
        self-attention by queries and keys being different in number.
    """

    def __init__(self) -> None:
        self.mask: torch.Tensor | None = None

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, **_: Any
    ) -> torch.Tensor:
        """``[batch, tokens, heads * channels]`` to the same shape."""
        dtype = q.dtype
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        if dtype == torch.bfloat16 and q.device.type == "cpu":
            # For sequences this short the CPU's bfloat16 kernels take several times as long.
            q, k, v = q.float(), k.float(), v.float()
        bias = None
        if self.mask is not None and q.shape[2] != k.shape[2]:
            bias = torch.zeros_like(self.mask, dtype=q.dtype).masked_fill(~self.mask, _MASKED)
            # Spelled out over heads and queries: CPUs have a fused kernel for this shape of bias alone.
            bias = bias[:, None, None].expand(-1, heads, q.shape[2], -1)
        return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2).to(dtype)


def build(
    config: dict[str, Any], dtype: torch.dtype | None = None
) -> tuple[EasyAnimateTransformer3D, MaskedAttention]:
    """Return a transformer with fresh weights, of float32 by default, and its attention."""
    attention = MaskedAttention()
    model = EasyAnimateTransformer3D(TransformerConfig.from_dict(config), dtype=dtype, attention=attention)
    initialise(model.named_parameters())
    for name, parameter in model.named_parameters():
        # What a block adds starts at nothing or little, so that 28 of them train at once.
        silent = ("temporal_transformer.proj_out", "attn2.to_out.0", "long_connect_fc")
        if any(part in name for part in silent) or name.startswith("proj_out"):
            nn.init.zeros_(parameter)
    return model, attention


def padded_text(captions: Sequence[str], taken: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens and mask of captions, padded so that text and CLIP tokens are never ``taken`` in number."""
    tokens, mask = encode_batch(list(captions))
    width = max(tokens.shape[1], _TEXT_TOKENS)
    if width + 8 == taken:
        width += 1
    padding = (0, width - tokens.shape[1])
    return F.pad(tokens, padding), F.pad(mask, padding)


def matrices(model: EasyAnimateTransformer3D) -> list[str]:
    """Return the names of the matrices that Muon trains: those of the blocks, and those of text and CLIP.

    AdamW, whose steps do not shrink with a matrix's width, would make CLIP's tokens so large that attention never looks at
    them.
    """
    inner = ("transformer_blocks.", "long_connect_fc.", "caption_projection.", "clip_projection.")
    return [
        name
        for name, parameter in model.named_parameters()
        if name.startswith(inner) and parameter.ndim == 2 and not name.endswith("scale_shift_table")
    ]


class Denoiser:
    """Transformer, text encoder and noise schedule: predicts noise for a batch of captions and conditionings."""

    def __init__(
        self,
        model: EasyAnimateTransformer3D,
        attention: MaskedAttention,
        text: T5Encoder,
        device: torch.device,
    ) -> None:
        self.model, self.attention, self.text, self.device = model, attention, text.to(device), device
        self.schedule = NoiseSchedule()

    def predict(self, x: torch.Tensor, timestep: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the noise ``[batch, 4, T, height, width]`` in noisy latents ``x`` of that shape."""
        patches = x.shape[2] * (x.shape[3] // 2) * (x.shape[4] // 2)
        tokens, mask = (part.to(self.device) for part in padded_text(batch.captions, patches))
        with torch.no_grad():
            states = self.text(tokens, mask)
        clip_mask = batch.with_clip.to(self.device)[:, None].expand(-1, 8)
        self.attention.mask = torch.cat((mask, clip_mask), dim=1)
        dtype = self.model.dtype or torch.float32
        inputs = torch.cat((x, batch.conditioning.to(self.device)), dim=1).to(dtype)
        embeds = batch.embeds.to(self.device, dtype)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            out = self.model(inputs, timestep, states.to(dtype), clip_embeds=embeds)
        return out[:, :4].float()

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the weighed mean squared error of the predicted noise at random timesteps."""
        latents = batch.latents.to(self.device)
        noise = torch.randn_like(latents)
        timestep = _draw_timesteps(len(latents)).to(self.device)
        alpha = self.schedule.alphas_cumprod.float().to(self.device)[timestep]
        cut = alpha.view(-1, 1, 1, 1, 1)
        noisy = cut.sqrt() * latents + (1 - cut).sqrt() * noise
        error = (self.predict(noisy, timestep.float(), batch) - noise).square().mean(dim=(1, 2, 3, 4))
        weighed = error / alpha.clamp(min=1 / _MAX_WEIGHT)
        bands = {"detail": timestep < 250, "layout": (timestep >= 250) & (timestep < 550)}
        shown = {name: weighed[band].mean().item() for name, band in bands.items()}
        return weighed.mean(), {"loss": weighed.mean().item(), **shown}

    @torch.no_grad()
    def sample(self, batch: Batch, steps: int = 20, cfg: float = 3.0, seed: int = 0) -> torch.Tensor:
        """Return clips ``[batch, 4, T, height, width]`` for the captions and conditionings of a batch."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(batch.latents.shape, generator=generator).to(self.device)
        empty = Batch(
            batch.latents,
            batch.conditioning,
            [""] * len(noise),
            batch.embeds,
            torch.zeros_like(batch.with_clip),
        )
        sigmas = release_sigmas("Euler", steps, self.schedule).to(self.device)

        def denoised(x: torch.Tensor, sigma: torch.Tensor, **_: Any) -> torch.Tensor:
            sigma = sigma.flatten()[0]
            scaled = x / (sigma**2 + 1).sqrt()
            timestep = self.schedule.timestep(sigma).expand(len(x))
            negative = self.predict(scaled, timestep, empty)
            positive = self.predict(scaled, timestep, batch)
            return x - sigma * (negative + cfg * (positive - negative))

        return sample_euler(denoised, noise * sigmas[0], sigmas)


def _draw_timesteps(rows: int) -> torch.Tensor:
    """Return timesteps ``[rows]`` in 0..999, most of them where most is decided."""
    decisive = torch.rand(rows) < _DECISIVE_SHARE
    return torch.where(decisive, torch.randint(*_DECISIVE, (rows,)), torch.randint(1000, (rows,)))


def train(
    folder: Path,
    settings: Settings,
    encoder: Encoder,
    text: T5Encoder,
    device: torch.device,
    *,
    pool_size: int = 2000,
    refresh: float = 0.2,
    half: bool = False,
    weights: dict[str, torch.Tensor] | None = None,
    config: dict[str, Any] | None = None,
) -> None:
    """Train to the last step of ``settings``.

    Parameters
    ----------
    folder : Path
        Where the run's files lie.
    settings : Settings
        Steps, learning rate and seed.
    encoder : Encoder
        Frozen VAE and CLIP encoder, and where the clips come from.
    text : T5Encoder
        Frozen text encoder.
    device : torch.device
        Where to train.
    pool_size : int
        Encoded clips that are kept.
    refresh : float
        Clips that are replaced a step, by new ones.
    half : bool
        Whether to compute in bfloat16 on a CPU, which takes about four fifths of the time where the CPU multiplies that
        itself (AVX512_BF16, AMX) and longer elsewhere. Weights and averages stay in float32.
    weights : dict, optional
        Weights to start from instead of fresh ones.
    config : dict, optional
        The ``transformer/config.json`` to train; nano's by default.
    """
    torch.manual_seed(settings.seed)
    config = config or transformer_config()
    model, attention = build(config)
    if weights is not None:
        model.load_state_dict(weights)
    model.to(device)
    working = model
    if half and device.type == "cpu":
        working, attention = build(config, torch.bfloat16)
    trainer = Trainer(folder, model, settings, working=working, matrices=matrices(model))
    denoiser = Denoiser(working, attention, text, device)
    fit(trainer, denoiser, encoder, fill_pool(encoder, pool_size, settings.seed), refresh)


def fit(
    trainer: Trainer, denoiser: Denoiser, encoder: Encoder, pool: list[PooledClip], refresh: float = 0.0
) -> None:
    """Train on a pool of clips to the last step.

    Parameters
    ----------
    trainer : Trainer
        Of the denoiser's transformer, or of what is added to it.
    denoiser : Denoiser
        Gives the loss and the pictures.
    encoder : Encoder
        Replaces clips of the pool.
    pool : list of PooledClip
        As it was before the first step; changed in place.
    refresh : float
        Share of the steps that replace a clip.
    """
    _replay(trainer, encoder, pool, refresh)

    def loss(rng: random.Random) -> tuple[torch.Tensor, dict[str, float]]:
        if rng.random() < refresh:
            index = rng.randrange(len(pool))
            pool[index] = encoder.pooled(rng)
        slices = min(rng.choices(_SLICES, _SLICE_WEIGHTS)[0], max(len(clip.latents) for clip in pool))
        rows = max(min(_LATENT_FRAMES // max(2 * slices, 1), _MAX_ROWS) // workers.count(), 1)
        return denoiser.loss(draw_batch(pool, encoder, rng, slices, rows))

    shown = draw_batch(pool, encoder, random.Random(1), 2, 10)

    def sample(step: int) -> torch.Tensor:
        latents = denoiser.sample(shown) / encoder.vae.config.scaling_factor
        pixels = encoder.vae.decode(latents).transpose(1, 2) / 2 + 0.5
        return film_strips(list(pixels.cpu()))

    trainer.fit(loss, sample, sample_every=1000)


def _replay(trainer: Trainer, encoder: Encoder, pool: list[PooledClip], refresh: float) -> None:
    """Replace the clips that the steps before this one replaced, so that a run that goes on has the same pool."""
    last = {}
    for step in range(trainer.step):
        rng, _ = trainer.choices(step)
        if rng.random() < refresh:
            last[rng.randrange(len(pool))] = rng
    for index, rng in last.items():
        pool[index] = encoder.pooled(rng)


def fill_pool(encoder: Encoder, size: int, seed: int) -> list[PooledClip]:
    """Return this worker's share of ``size`` encoded clips, the same for the same seed."""
    return [
        encoder.pooled(random.Random(f"pool {seed} {index}"))
        for index in range(workers.rank(), size, workers.count())
    ]
