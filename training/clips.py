"""What every stage draws its clips from: generated scenes, or a folder of videos."""

import random
from typing import Protocol

import torch


class ClipError(ValueError):
    """Clips or a checkpoint that training cannot use; the message is one sentence for who gave them."""


class Clip(Protocol):
    """A clip and its words.

    Attributes
    ----------
    lead : int
        Number of first frames that the words do not tell of; a transformer is to be given these. 0 to 4.
    """

    lead: int

    def render(self) -> torch.Tensor:
        """Return the frames: ``[frames, 3, side, side]`` in [0, 1], float32."""
        ...

    def caption(self) -> str:
        """Return what it shows, in words."""
        ...

    def partial_caption(self, rng: random.Random) -> str:
        """Return a caption that leaves parts out, where that can be done."""
        ...


class ClipSource(Protocol):
    """Where clips come from.

    Attributes
    ----------
    side : int
        Height and width of all frames in pixels.
    """

    side: int

    def draw(self, rng: random.Random, frames: int) -> Clip:
        """Return a clip of ``frames`` frames, a multiple of 8; all choices come from ``rng``."""
        ...
