"""Groups of our nodes that the samplers of both packs need: start image, latent, sampler."""

from typing import Any

from . import our_nodes as ours
from . import their_nodes as theirs
from .graph import Node, Output
from .models import Models
from .work import Work

DEFAULT_BASE = 512
SIDE_MULTIPLE = 16
# PNDM needs its Runge-Kutta start.
_LEAST_STEPS = {"PNDM": 4}


class Parts:
    """Adds groups of nodes that stand for one old sampler.

    Attributes
    ----------
    buckets : dict
        For each of the wrapper's resizers our node and its base resolution.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.buckets: dict[Node, tuple[Node, int]] = {}

    def bucket(self, old: Node, name: str, base: int) -> Node:
        """Return the node that brings a start image to a trained size."""
        source = self.work.graph.source(old, name)
        node, its_base = self.buckets.get(source.node, (None, None)) if source else (None, None)
        if node is not None and its_base == base:
            return node
        bucket = self.work.add(old, ours.BUCKET, base=base)
        self.work.link(bucket, "image", old, name)
        return bucket

    def encode_image(self, old: Node, models: Models, image: Output) -> Node:
        """Return the node that makes the CLIP embedding of a start image."""
        encoder = self.work.add(old, ours.IMAGE)
        self.work.connect(encoder, "clip_vision", models.image_encoder())
        self.work.connect(encoder, "image", image)
        return encoder

    def size_of(self, old: Node, frames: Output) -> Node:
        """Return the node that tells size and number of frames."""
        size = self.work.add(old, ours.SIZE)
        self.work.connect(size, "image", frames)
        return size

    def latent(self, old: Node, frames: Output, models: Models) -> Output:
        """Return the latent of a video."""
        encode = self.work.add(old, ours.ENCODE)
        self.work.connect(encode, "pixels", frames)
        self.work.connect(encode, "vae", models.vae)
        return self.work.output(encode)

    def side(self, clip: Node, old: Node, name: str) -> None:
        """Carry width or height over, as a multiple of 16."""
        self.work.carry(clip, name, old, name, int)
        given = clip.values.get(name)
        if isinstance(given, int) and given % SIDE_MULTIPLE:
            clip.values[name] = max(round(given / SIDE_MULTIPLE), 1) * SIDE_MULTIPLE
            if self.work.graph.edge(old, name) is None:
                self.work.report.note(
                    f"{old}: {name} {given} became {clip.values[name]}, a multiple of {SIDE_MULTIPLE}."
                )

    def sampler(self, old: Node, models: Models, clip: Node, latent: Output) -> Node:
        """Return the sampler, with all values that the old one has."""
        sampler = self.work.add(old, ours.SAMPLER, main=True)
        self.work.connect(sampler, "model", models.model)
        for index, name in enumerate(("positive", "negative")):
            self.work.connect(sampler, name, self.work.output(clip, index))
        self.work.connect(sampler, "latent_image", latent)
        for name, kind in (("seed", int), ("steps", int), ("cfg", float)):
            self.work.carry(sampler, name, old, name, kind)
        self.work.carry(
            sampler, "sampler_name", old, "scheduler", theirs.SAMPLER_NAMES.__getitem__, linkable=False
        )
        self.work.carry(sampler, "denoise", old, "denoise_strength", _denoise)
        if theirs.CONTROL in old.values:
            sampler.values[theirs.CONTROL] = old.values[theirs.CONTROL]
        self._count_steps(old, sampler)
        return sampler

    def _count_steps(self, old: Node, sampler: Node) -> None:
        """Give as many steps as theirs really ran: they skip the first ones of a run that keeps part of a video."""
        share, steps = old.values.get("denoise_strength"), sampler.values.get("steps")
        if share is None or not 0 < float(share) < 1 or not isinstance(steps, int):
            return
        sampler.values["steps"] = max(
            int(steps * float(share)), _LEAST_STEPS.get(sampler.values.get("sampler_name"), 1)
        )
        if sampler.values["steps"] != steps:
            self.work.report.note(
                f"{old}: steps {steps} became {sampler.values['steps']}, since {sampler} runs all its steps at denoise "
                f"{sampler.values['denoise']:g}."
            )


def _denoise(value: Any) -> float:
    return round(float(value), 4)
