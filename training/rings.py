"""Something that nano does not know, for a LoRA to teach it: rings, under a word that it never read."""

import random
from dataclasses import replace

from .scenes import Scene, Scenes


class Rings(Scenes):
    """Scenes whose shape is a ring, as in "a red ring moving right on a blue background"."""

    def draw(self, rng: random.Random, frames: int) -> Scene:
        """Return a ring of ``frames`` frames to train on; it never rotates, since nobody would see it."""
        while True:
            ring = replace(super().draw(rng, frames), shape="ring")
            if ring.action != "rotating" and not ring.held_out:
                return ring
