"""The wrapper's sampler, decoder, resizer and image encoder."""

from . import our_nodes as ours
from . import their_nodes as theirs
from .graph import Node
from .models import Loaders
from .parts import DEFAULT_BASE, Parts
from .texts import Texts
from .work import Work


class WrapperNodes:
    """Converts these nodes, in the order in which they need each other."""

    def __init__(self, work: Work, loaders: Loaders, texts: Texts) -> None:
        self.work = work
        self.loaders = loaders
        self.texts = texts
        self.parts = Parts(work)
        for old in work.graph.of_type((theirs.WRAPPER_RESIZE,)):
            self._resize(old)
        for old in work.graph.of_type((theirs.WRAPPER_IMAGE,)):
            self._image_encoder(old)
        for old in work.graph.of_type((theirs.WRAPPER_SAMPLER,)):
            self._sampler(old)
        for old in work.graph.of_type((theirs.WRAPPER_DECODE,)):
            self._decode(old)

    def _resize(self, old: Node) -> None:
        node = self.work.add(old, ours.BUCKET, main=True)
        self.work.carry(node, "base", old, "base_resolution", int, linkable=False)
        self.work.link(node, "image", old, "image")
        self.work.outputs[old, 0] = self.work.output(node)
        self.parts.buckets[old] = (node, node.values.get("base", DEFAULT_BASE))

    def _image_encoder(self, old: Node) -> None:
        node = self.work.add(old, ours.IMAGE, main=True)
        models = self.loaders.first()
        self.work.connect(node, "clip_vision", models and models.image_encoder())
        self.work.link(node, "image", old, "image")
        self.work.outputs[old, 0] = self.work.output(node)
        if old.values.get("strength", 1) != 1:
            self.work.report.note(
                f"{old}: strength {old.values['strength']} is not carried over, since the CLIP embedding counts as it is "
                "here; clip_apply_ratio of EasyAnimateV3Sampler sets for which steps."
            )

    def _decode(self, old: Node) -> None:
        models = self.loaders.behind(old, "easyanimate_pipeline")
        node = self.work.add(old, ours.DECODE, main=True)
        if not self.work.link(node, "samples", old, "latents"):
            self.work.report.note(f"{old} has nothing linked to latents; link a latent to {node}.")
        self.work.connect(node, "vae", models.vae)
        self.work.outputs[old, 0] = self.work.output(node)

    def _sampler(self, old: Node) -> None:
        graph = self.work.graph
        models = self.loaders.behind(old, "easyanimate_pipeline")
        start, video = graph.edge(old, "image_start"), graph.edge(old, "full_input_video")
        base = models.resolution or DEFAULT_BASE
        # Without a picture of its own for CLIP, as the versions before the separate image encoder.
        embeds_itself = start is not None and "denoise_strength" not in old.values
        bucket = self.parts.bucket(old, "image_start", base) if start and not video else None
        encoder = self.parts.encode_image(old, models, start.origin) if embeds_itself else None
        unlinked = any(graph.edge(old, name) is None for name in ("width", "height", "frames"))
        size = self.parts.size_of(old, video.origin) if video and unlinked else None
        clip = self.work.add(old, ours.VIDEO)
        self.texts.of_wrapper(old, clip)
        self.work.connect(clip, "vae", models.vae)
        for index, side in enumerate(("width", "height")):
            if bucket is not None:
                self.work.connect(clip, side, self.work.output(bucket, index + 1))
            elif size is not None and graph.edge(old, side) is None:
                self.work.connect(clip, side, self.work.output(size, index))
            else:
                self.parts.side(clip, old, side)
        if size is not None and graph.edge(old, "frames") is None:
            self.work.connect(clip, "length", self.work.output(size, 2))
        self.work.carry(clip, "length", old, "frames", int)
        if bucket is not None:
            self.work.connect(clip, "start_image", self.work.output(bucket))
        else:
            self.work.link(clip, "start_image", old, "image_start")
        self.work.link(clip, "end_image", old, "image_end")
        if encoder is not None:
            self.work.connect(clip, "clip_vision_output", self.work.output(encoder))
        else:
            self._embedding(clip, old)
        latent = self.parts.latent(old, video.origin, models) if video else self.work.output(clip, 2)
        sampler = self.parts.sampler(old, models, clip, latent)
        self.work.outputs[old, 0] = self.work.output(sampler)

    def _embedding(self, clip: Node, old: Node) -> None:
        source = self.work.graph.source(old, "image_embeds")
        if source is not None and (source.node, source.index) in self.work.outputs:
            self.work.connect(clip, "clip_vision_output", source)
        elif source is not None:
            self.work.report.note(f"{old}: image_embeds of {source.node} is not carried over.")
