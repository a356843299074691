"""Videos made of several segments, on the host's models: what is asked for, checked, and one segment's run."""

from dataclasses import dataclass
from typing import Any

import torch

from ..continuation import Segment, per_segment_prompts, per_segment_seeds, plan_segments
from .conditioning import (
    attach_inpaint,
    check_size,
    empty_latent,
    encode_frames,
    image_embeds,
    require_slice_vae,
    size_warning,
)
from .image_encoder import encode_image
from .images import rgb_frames
from .inputs import require_model
from .progress import sampling_callback
from .prompt import encode_prompt
from .sampler import denoised_sigmas, sample_latent


@dataclass(frozen=True)
class ContinuationPlan:
    """A video of several segments, its inputs checked.

    Attributes
    ----------
    width, height : int
        Pixels.
    segments : tuple of Segment
        In order.
    prompts : list of str
        One for each segment.
    seeds : list of int
        One for each segment.
    video_frames : int
        Frames of the video that is extended; 0 for a new one.
    total_length : int
        Frames that were asked for; 0 where a number of segments was.
    """

    width: int
    height: int
    segments: tuple[Segment, ...]
    prompts: list[str]
    seeds: list[int]
    video_frames: int
    total_length: int

    @property
    def frames(self) -> int:
        """Frames of the finished video."""
        return self.segments[-1].end

    def notes(self, vae: Any) -> list[str]:
        """Return a sentence for each thing that the user may not expect of the video."""
        notes = [size_warning(self.width, self.height, getattr(vae, "trained_resolution", None))]
        if self.total_length > self.frames:
            notes.append(
                f"The video gets {self.frames} frames instead of {self.total_length}: segments have a multiple of 8."
            )
        return [note for note in notes if note]


def plan_continuation(
    model: Any,
    vae: Any,
    *,
    prompts: str,
    width: int,
    height: int,
    partial_length: int,
    overlap: int,
    segments: int,
    total_length: int,
    seed: int,
    seeds: str = "",
    video: torch.Tensor | None = None,
    start_image: torch.Tensor | None = None,
    end_image: torch.Tensor | None = None,
) -> ContinuationPlan:
    """Check what a node is given and cut the video into segments.

    Parameters
    ----------
    model : comfy.model_patcher.ModelPatcher
        Transformer.
    vae : EasyAnimateV3VAE
        Slice VAE.
    prompts : str
        One prompt a line; the last one repeats.
    width, height : int
        Pixels, multiples of 16; 0 takes the side of ``video`` or ``start_image``.
    partial_length, overlap : int
        Frames of a segment, and how many of them it shares with what comes before.
    segments : int
        Number of new segments, where ``total_length`` is 0.
    total_length : int
        Frames of the finished video, ``video`` included.
    seed : int
        Of the first segment; the next ones count on.
    seeds : str
        Seeds of their own, one a line.
    video, start_image, end_image : torch.Tensor, optional
        Images ``[frames, height, width, channels]`` in [0, 1].

    Raises
    ------
    ValueError
        If the inputs do not go together, in one sentence.
    """
    require_model(model)
    require_slice_vae(vae)
    if video is not None and start_image is not None:
        raise ValueError(
            "both video and start_image are connected, but a video goes on from its own last frames: remove one of them."
        )
    given = {"video": video, "start_image": start_image, "end_image": end_image}
    given = {name: rgb_frames(images, name) for name, images in given.items() if images is not None}
    first = given.get("video", given.get("start_image"))
    if (not width or not height) and first is None:
        raise ValueError(
            "width or height is 0, which takes the size of video or start_image, but neither is connected: set both sides."
        )
    width, height = width or first.shape[2], height or first.shape[1]
    check_size(width, height)
    if video is not None and first.shape[1:3] != (height, width):
        raise ValueError(
            f"video is {first.shape[2]}x{first.shape[1]}, but width and height are {width}x{height}: set both to 0 to "
            "keep the video's size, or resize the video."
        )
    frames = len(given["video"]) if video is not None else 0
    amount = {"total": total_length} if total_length else {"count": segments}
    plan = plan_segments(partial_length, overlap, given=frames, **amount)
    _check_given_frames(plan, len(given.get("start_image", ())), len(given.get("end_image", ())))
    if (first is not None or len(plan) > 1) and not model.model.inpaint_channels:
        raise ValueError(
            "this checkpoint knows text-to-video only, so it cannot go on from frames: take an InP checkpoint "
            "(EasyAnimateV3-XL-2-InP)."
        )
    count = len(plan)
    return ContinuationPlan(
        width,
        height,
        plan,
        per_segment_prompts(prompts, count),
        per_segment_seeds(seed, seeds, count),
        frames,
        total_length,
    )


def _check_given_frames(plan: tuple[Segment, ...], start_frames: int, end_frames: int) -> None:
    """Refuse start and end images that leave a segment nothing to make, and an end image with no frame to go on from."""
    if start_frames >= plan[0].length:
        raise ValueError(
            f"start_image has {start_frames} frames, and the first segment only {plan[0].length}: give fewer frames or "
            "a longer segment, or connect them as video."
        )
    last = plan[-1]
    at_start = last.overlap or start_frames
    if end_frames and not at_start:
        raise ValueError(
            "an end image needs frames to start from in the same segment: connect video or start_image, or make more "
            "than one segment."
        )
    if at_start + end_frames > last.length:
        raise ValueError(
            f"the last segment has {last.length} frames, which is too few for {at_start} given at its start and "
            f"{end_frames} of end_image: give fewer frames or another length."
        )


@dataclass(frozen=True)
class SegmentRenderer:
    """Makes the frames of one segment after the other, with the numbers of the single-clip nodes.

    Attributes
    ----------
    model, clip, vae, clip_vision : Any
        The host's models; without ``clip_vision`` no CLIP embedding is used.
    negative : list
        CONDITIONING of what the video should not show.
    width, height : int
        Pixels.
    steps, cfg, sampler_name, clip_apply_ratio : Any
        As EasyAnimateV3Sampler takes them.
    smoothing : bool
        As EasyAnimateV3VAEDecode takes it.
    """

    model: Any
    clip: Any
    vae: Any
    clip_vision: Any
    negative: list
    width: int
    height: int
    steps: int
    cfg: float
    sampler_name: str
    clip_apply_ratio: float
    smoothing: bool

    def check_image_encoder(self) -> None:
        """Raise a ValueError if ``clip_vision`` is another model than the transformer was trained with.

        A video that begins with text alone would need it in its second segment, after an hour.
        """
        if self.clip_vision is not None:
            image_embeds(encode_image(self.clip_vision, torch.zeros(1, 8, 8, 3)), "clip_vision")

    def encode_prompts(self, prompts: list[str]) -> tuple[dict[str, list], list[str]]:
        """Return the CONDITIONING of each distinct prompt, and sentences on what was lost of them."""
        encoded, notes = {}, []
        for prompt in dict.fromkeys(prompts):
            encoded[prompt], lost = encode_prompt(self.clip, prompt)
            notes += lost
        return encoded, notes

    def sample(
        self,
        positive: list,
        length: int,
        seed: int,
        start: torch.Tensor | None,
        end: torch.Tensor | None,
        place: tuple[int, int],
    ) -> torch.Tensor:
        """Sample one segment.

        Parameters
        ----------
        positive : list
            CONDITIONING of the prompt.
        length : int
            Frames.
        seed : int
            Of the noise.
        start, end : torch.Tensor or None
            Given first and last frames, ``[frames, height, width, channels]`` in [0, 1].
        place : tuple of int
            Index and number of segments, for the progress bar.

        Returns
        -------
        torch.Tensor
            Latent ``[1, 4, latent frames, height / 8, width / 8]``.
        """
        embed = None
        if self.clip_vision is not None and start is not None:
            embed = encode_image(self.clip_vision, rgb_frames(start, "start_image"))
        inpaint = encode_frames(self.vae, self.width, self.height, length, start, end)
        sigmas = denoised_sigmas(self.sampler_name, self.steps)
        return sample_latent(
            self.model,
            attach_inpaint(positive, inpaint, start is not None, embed),
            attach_inpaint(self.negative, inpaint, start is not None),
            empty_latent(self.width, self.height, length, 1, self.vae.latent_channels),
            seed=seed,
            sigmas=sigmas,
            cfg=self.cfg,
            sampler_name=self.sampler_name,
            clip_apply_ratio=self.clip_apply_ratio,
            callback=sampling_callback(self.model, len(sigmas) - 1, *place),
        )

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the frames ``[frames, height, width, 3]`` in [0, 1] of a segment's latent, in main memory."""
        return self.vae.decode(samples, vae_options={"smoothing": self.smoothing, "tiled": None})[0].cpu()
