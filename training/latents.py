"""Clips as the diffusion transformer sees them: latents, and the latents of masks and of masked videos.

The encoder costs more than a step of a small transformer, so encoded clips are kept in a pool and used many times, from
different slices on; slices of 8 frames do not see each other, so what is kept of one is exact for every clip with it.
"""

import random
from dataclasses import dataclass

import torch

from easyanimate_core.vae import SliceVAE

from .clips import Clip, ClipSource
from .encoders import ClipImageEncoder, pictures
from .scenes import LEADS, MAX_FRAMES, Scenes

SLICE_FRAMES, SLICE_LATENTS = 8, 2
# Lengths of clips in frames: of the longest alone, what crosses the picture would always start, and turn, at its edge.
_LENGTHS = (16, 16, 24, MAX_FRAMES)
_BLACK = -1.0


@dataclass
class PooledClip:
    """One encoded clip of two to four slices.

    Attributes
    ----------
    scene : Clip
        What it shows; gives the captions.
    latents : torch.Tensor
        ``[slices, 4, 2, height, width]``, scaled.
    first, several, last : torch.Tensor
        The same slices with nothing but their first frame, their first ``count`` frames, or their last frame; the rest black.
    count : int
        Frames given in ``several``: 2 to 4.
    image : torch.Tensor
        Latent of the first frame alone: ``[4, 1, height, width]``.
    embeds : torch.Tensor
        CLIP embedding of each slice's first frame: ``[slices, 768]``.
    """

    scene: Clip
    latents: torch.Tensor
    first: torch.Tensor
    several: torch.Tensor
    last: torch.Tensor
    count: int
    image: torch.Tensor
    embeds: torch.Tensor


class Encoder:
    """The frozen VAE and CLIP encoder, and latents that never change.

    Parameters
    ----------
    vae : SliceVAE
        Trained; its latents times the scaling factor should have unit variance.
    clip : ClipImageEncoder
        Trained.
    device : torch.device
        Where to encode.
    source : ClipSource
        Gives the clips, of 16 to 32 frames; generated scenes by default.
    """

    def __init__(
        self,
        vae: SliceVAE,
        clip: ClipImageEncoder,
        device: torch.device,
        source: ClipSource | None = None,
    ) -> None:
        self.vae, self.clip, self.device = vae.to(device), clip.to(device), device
        self.source = source or Scenes()
        self._masks: dict[tuple[int, bool], torch.Tensor] = {}

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode ``[batch, 3, frames, height, width]`` in [-1, 1] to scaled latents on the CPU."""
        with torch.autocast(self.device.type, torch.bfloat16):
            mean = self.vae.encode(pixels.to(self.device))
        return mean.float().cpu() * self.vae.config.scaling_factor

    def mask(self, start: int, end: bool) -> torch.Tensor:
        """Return the latents ``[4, 2, height, width]`` of one slice's mask: its first ``start`` frames given, its last if ``end``."""
        key = (start, end)
        if key not in self._masks:
            mask = self._filled(SLICE_FRAMES, 1.0)
            mask[:, :, :start] = 0
            if end:
                mask[:, :, -1] = 0
            self._masks[key] = self.encode(mask)[0]
        return self._masks[key]

    def black(self) -> torch.Tensor:
        """Return the latents ``[4, 2, height, width]`` of eight black frames."""
        if (-1, False) not in self._masks:
            self._masks[-1, False] = self.encode(self._filled(SLICE_FRAMES, _BLACK))[0]
        return self._masks[-1, False]

    def image_conditioning(self) -> torch.Tensor:
        """Return mask and masked-video latents ``[8, 1, height, width]`` of an image that is to be made from text."""
        if (-2, False) not in self._masks:
            streams = torch.cat((self._filled(1, 1.0), self._filled(1, _BLACK)))
            self._masks[-2, False] = self.encode(streams).flatten(0, 1)
        return self._masks[-2, False]

    def _filled(self, frames: int, value: float) -> torch.Tensor:
        return torch.full((1, 3, frames, self.source.side, self.source.side), value)

    @torch.no_grad()
    def pooled(self, rng: random.Random) -> PooledClip:
        """Draw a clip and encode all that may be asked of it."""
        scene = self.source.draw(rng, rng.choice(_LENGTHS))
        frames = scene.render()
        slices = (frames * 2 - 1).unflatten(0, (-1, SLICE_FRAMES)).transpose(1, 2)
        count = scene.lead or rng.choice(LEADS)
        masked = []
        for given in (slice(0, 1), slice(0, count), slice(SLICE_FRAMES - 1, None)):
            video = torch.full_like(slices, _BLACK)
            video[:, :, given] = slices[:, :, given]
            masked.append(video)
        latents = self.encode(torch.cat((slices, *masked))).half()
        embeds = self.clip(pictures(frames[::SLICE_FRAMES]).to(self.device)).float().cpu()
        image = self.encode(slices[:1, :, :1])[0].half()
        full, first, several, last = latents.split(len(slices))
        return PooledClip(scene, full, first, several, last, count, image, embeds)


@dataclass
class Batch:
    """What one training step reads.

    Attributes
    ----------
    latents : torch.Tensor
        ``[batch, 4, T, height, width]``.
    conditioning : torch.Tensor
        Mask and masked-video latents ``[batch, 8, T, height, width]``.
    captions : list of str
        One a row; empty where the text was dropped.
    embeds : torch.Tensor
        CLIP embeddings ``[batch, 768]``.
    with_clip : torch.Tensor
        Which rows use theirs: ``[batch]``, bool.
    """

    latents: torch.Tensor
    conditioning: torch.Tensor
    captions: list[str]
    embeds: torch.Tensor
    with_clip: torch.Tensor


def draw_batch(
    pool: list[PooledClip], encoder: Encoder, rng: random.Random, slices: int, count: int
) -> Batch:
    """Draw a batch from the pool.

    Parameters
    ----------
    pool : list of PooledClip
        Encoded clips; one of them at least is as long as ``slices``.
    encoder : Encoder
        For the latents of masks.
    rng : random.Random
        Source of all choices.
    slices : int
        Length in slices of 8 frames; 0 for images.
    count : int
        Rows.
    """
    able = [clip for clip in pool if len(clip.latents) >= slices]
    rows = [_draw_row(rng.choice(able), encoder, rng, slices) for _ in range(count)]
    latents, conditioning, captions, embeds, with_clip = zip(*rows, strict=True)
    return Batch(
        torch.stack(latents).float(),
        torch.stack(conditioning).float(),
        list(captions),
        torch.stack(embeds),
        torch.tensor(with_clip),
    )


def _draw_row(
    clip: PooledClip, encoder: Encoder, rng: random.Random, slices: int
) -> tuple[torch.Tensor, torch.Tensor, str, torch.Tensor, bool]:
    caption = _draw_caption(clip.scene, rng)
    if not slices:
        return clip.image, encoder.image_conditioning(), caption, clip.embeds[0], False
    lead = clip.scene.lead
    begin = 0 if lead else rng.randint(0, len(clip.latents) - slices)
    last = begin + slices - 1
    masks = [encoder.mask(0, False)] * slices
    videos = [encoder.black()] * slices
    kind = rng.random()
    given = bool(lead) or kind < 0.52
    if given:
        several = bool(lead) or rng.random() < 0.4
        start = clip.count if several else 1
        masks[0] = encoder.mask(start, False)
        videos[0] = (clip.several if several else clip.first)[begin]
    if kind < 0.18 and slices > 1:
        masks[-1] = encoder.mask(0, True)
        videos[-1] = clip.last[last]
    latents = clip.latents[begin : last + 1].transpose(0, 1).flatten(1, 2)
    conditioning = torch.cat((torch.cat(masks, dim=1), torch.cat(videos, dim=1)))
    return latents, conditioning, caption, clip.embeds[begin], given and rng.random() < 0.5


def _draw_caption(scene: Clip, rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.1:
        return ""
    return scene.partial_caption(rng) if kind < 0.3 else scene.caption()
