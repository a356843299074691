"""Training of a Slice VAE: images and slices of clips together, reconstruction and a small KL."""

import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from easyanimate_core.vae import SliceVAE, SliceVAEConfig

from .clips import ClipSource
from .loop import Settings, Trainer
from .models import vae_config
from .pictures import film_strips
from .scenes import Scenes, sample_scene

_KL_WEIGHT = 2e-5
# Three latent channels begin as a small picture of the clip: without it, shapes get their own colours very late.
_THUMBNAIL_STEPS, _THUMBNAIL_SCALE = 0.5, 2.0
# Share of the clips that image-to-video makes of given frames and black ones, and the weight of their loss: their latents
# should be those of the given frames held still, or the transformer could not see what it has to go on from.
_MASKED_SHARE, _MASKED_WEIGHT = 0.35, 0.5
# Weight of errors that change from frame to frame, besides the errors themselves: what one latent frame makes of four frames
# would else jump at each fourth, farther than the shapes move.
_CHANGE_WEIGHT = 3.0
# Weight of a slice's first and last frame, and of the change from one slice to the next: there a decoder, whose layers widen
# time by interpolation, lets shapes lag behind.
_END_WEIGHT = 4.0
# Images cost little and teach most of what clips need: their share of the first third of the steps, and of the rest.
_IMAGE_SHARES = (0.6, 0.25)
# Their share where the decoder alone goes on, which has learned from images what they teach.
_DECODER_IMAGE_SHARE = 0.1
_SLICES, _IMAGES = 4, 16
_SLICE_FRAMES, _LENGTHS = 8, (8, 16, 16, 24)


class _Conv3d(nn.Conv3d):
    """A convolution with the same results, faster for images and right in bfloat16.

    A single frame meets the middle of the kernel alone, which is a convolution of two axes. For two frames torch 2.13
    computes garbage gradients of the weights in bfloat16 on CPUs, so these stay out of mixed precision.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, C, t, h, w]`` to the same axes."""
        if x.shape[2] == 1 and self.kernel_size[0] == 3:
            weight, stride, padding = self.weight[:, :, 1], self.stride[1:], self.padding[1:]
            return F.conv2d(x[:, :, 0], weight, self.bias, stride, padding)[:, :, None]
        if x.device.type != "cpu" or x.shape[2] > 2:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


class _Operations:
    """Layers to train with."""

    Conv3d, GroupNorm, Linear = _Conv3d, nn.GroupNorm, nn.Linear


def build(config: dict[str, Any] | None = None) -> SliceVAE:
    """Return a Slice VAE with fresh weights, of nano's size or of a ``vae/config.json``."""
    vae = SliceVAE(SliceVAEConfig.from_dict(config or vae_config()), operations=_Operations)
    for module in vae.modules():
        # Each frame for itself at first: images, which are cheap, then teach most of what clips need.
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] == 3:
            with torch.no_grad():
                module.weight[:, :, (0, 2)] = 0
                module.weight.mul_(3**0.5)
    channels = vae.config.latent_channels
    with torch.no_grad():
        # Little noise on the latents at first: it would drown what they begin to say.
        vae.quant_conv.weight[channels:] = 0
        vae.quant_conv.bias[channels:] = -4
    return vae


def draw_clips(rng: random.Random, count: int, frames: int, source: ClipSource | None = None) -> torch.Tensor:
    """Return clips to train on: ``[count, 3, frames, side, side]`` in [-1, 1]."""
    return torch.stack([draw_scene(rng, frames, source) for _ in range(count)])


def draw_masked(
    rng: random.Random, count: int, source: ClipSource | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return slices as conditioning has them, of which a few first or last frames are left, and the same held still.

    Returns
    -------
    (torch.Tensor, torch.Tensor, torch.Tensor)
        Slices with black frames and slices with the nearest given frame instead of them, both ``[count, 3, 8, side, side]``
        in [-1, 1]; and which of the two latent frames have given ones among theirs: ``[count, 2]``, bool.
    """
    rows = [_draw_masked(rng, source or Scenes()) for _ in range(count)]
    masked, held, given = (torch.stack(parts) for parts in zip(*rows, strict=True))
    return masked, held, given


def _draw_masked(rng: random.Random, source: ClipSource) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    clip = draw_scene(rng, _SLICE_FRAMES, source)
    count = rng.choice((1, 1, 1, 2, 3, 4))
    if at_end := rng.random() < 0.5:
        clip = clip.flip(1)
    index = torch.arange(_SLICE_FRAMES)
    masked = torch.where((index < count)[None, :, None, None], clip, -1.0)
    held = clip[:, index.clamp(max=count - 1)]
    given = torch.tensor([True, False])
    return (masked.flip(1), held.flip(1), given.flip(0)) if at_end else (masked, held, given)


def draw_scene(rng: random.Random, frames: int, source: ClipSource | None = None) -> torch.Tensor:
    """Return a clip, or for one frame a picture, to train on: ``[3, frames, side, side]`` in [-1, 1]."""
    clip = (source or Scenes()).draw(rng, max(frames, 8)).render()
    if frames == 1:
        clip = clip[rng.randrange(len(clip))][None]
    return clip.transpose(0, 1) * 2 - 1


def _size(error: torch.Tensor, weighted: torch.Tensor | None = None) -> torch.Tensor:
    """Return the size of an error ``[B, 3, f, h, w]``, its frames in ``weighted`` (``[f]``, bool) counted more."""
    sizes = (error.abs() + 4 * error.square()).mean((0, 1, 3, 4))
    if weighted is not None:
        sizes = sizes * torch.where(weighted.to(sizes.device), _END_WEIGHT, 1.0)
    return sizes.mean()


def _clip_size(error: torch.Tensor) -> torch.Tensor:
    place = torch.arange(error.shape[2]) % _SLICE_FRAMES
    ends = (place == 0) | (place == _SLICE_FRAMES - 1)
    return _size(error, ends) + _CHANGE_WEIGHT * _size(error.diff(dim=2), place[1:] == 0)


def train(
    folder: Path,
    settings: Settings,
    device: torch.device,
    source: ClipSource | None = None,
    config: dict[str, Any] | None = None,
    weights: dict[str, torch.Tensor] | None = None,
    decoder_only: bool = False,
) -> None:
    """Train to the last step of ``settings``.

    Parameters
    ----------
    folder : Path
        Where the run's files lie.
    settings : Settings
        Steps, learning rate and seed.
    device : torch.device
        Where to train.
    source : ClipSource, optional
        Gives the clips, of up to 24 frames; generated scenes by default.
    config : dict, optional
        The ``vae/config.json`` to train; nano's by default.
    weights : dict, optional
        Weights of a trained VAE to start from instead of fresh ones.
    decoder_only : bool
        Whether the encoder stays as it is, so that a transformer which was trained on its latents goes on with them.
    """
    torch.manual_seed(settings.seed)
    vae = build(config).to(device)
    if weights is not None:
        vae.load_state_dict(weights)
    if decoder_only:
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(False)
    trainer = Trainer(folder, vae, settings, {"decoder_only": decoder_only})

    def reconstruct(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with torch.autocast(device.type, torch.bfloat16):
            mean, logvar = vae.encode_moments(pixels)
            z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
            back = vae.decode(z)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        thumbnail = F.interpolate(pixels, mean.shape[2:], mode="area")
        return back.float(), kl, F.mse_loss(mean[:, :3], _THUMBNAIL_SCALE * thumbnail)

    def loss(rng: random.Random) -> tuple[torch.Tensor, dict[str, float]]:
        image_share = _IMAGE_SHARES[trainer.step * 3 >= settings.steps]
        if decoder_only:
            image_share = _DECODER_IMAGE_SHARE
        name = "image" if rng.random() < image_share else "clip"
        if name == "clip" and not decoder_only and rng.random() < _MASKED_SHARE:
            value = masked_loss(*(part.to(device) for part in draw_masked(rng, _SLICES, source)))
            return _MASKED_WEIGHT * value, {"masked": value.item()}
        frames = 1 if name == "image" else rng.choice(_LENGTHS)
        count = _IMAGES if name == "image" else max(_SLICES * _SLICE_FRAMES // frames, 1)
        pixels = draw_clips(rng, count, frames, source).to(device)
        back, kl, thumbnail = reconstruct(pixels)
        error = back - pixels
        value = _KL_WEIGHT * kl + (_size(error) if frames == 1 else _clip_size(error))
        if weights is None:
            value = value + max(1 - trainer.step / (_THUMBNAIL_STEPS * settings.steps), 0) * thumbnail
        return value, {name: F.mse_loss(back.detach().clamp(-1, 1), pixels).item() / 4}

    def masked_loss(masked: torch.Tensor, held: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                target = vae.encode(held).float()
            error = (vae.encode(masked).float() - target).transpose(1, 2)[given]
        return error.square().mean() / target.var()

    seeds = [random.Random(seed) for seed in range(4)]
    shown = [source.draw(rng, 16) if source else sample_scene(rng, 16, held_out=True) for rng in seeds]
    fixed = [clip.render() for clip in shown]

    def sample(step: int) -> torch.Tensor:
        pixels = torch.stack(fixed).transpose(1, 2).to(device) * 2 - 1
        back = (vae.decode(vae.encode(pixels)) / 2 + 0.5).transpose(1, 2).cpu()
        return film_strips([clip for pair in zip(fixed, back, strict=True) for clip in pair])

    trainer.fit(loss, sample, sample_every=250)
