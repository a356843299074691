"""Samplers of the release: text to video, image to video, video to video."""

from . import our_nodes as ours
from . import their_nodes as theirs
from .errors import MigrationError
from .graph import Node, Output
from .models import Loaders, Models
from .parts import DEFAULT_BASE, SIDE_MULTIPLE, Parts
from .texts import Texts
from .work import Work

# The release's wide size at base 512.
_WIDE = (672, 384)


class ReleaseSamplers:
    """Converts the samplers, each to a clip, a sampler and a decoder."""

    def __init__(self, work: Work, loaders: Loaders, texts: Texts) -> None:
        self.work = work
        self.loaders = loaders
        self.texts = texts
        self.parts = Parts(work)
        for old in work.graph.of_type(theirs.RELEASE_SAMPLERS):
            self._convert(old)

    def _convert(self, old: Node) -> None:
        models = self.loaders.behind(old, "easyanimate_model")
        clip_model = models.text_encoder()
        positive = self.texts.of_box(old, "prompt", clip_model)
        negative = self.texts.of_box(old, "negative_prompt", clip_model)
        if old.type == theirs.TEXT_SAMPLER:
            clip, latent = self._text_clip(old)
        elif old.type == theirs.IMAGE_SAMPLER:
            clip, latent = self._image_clip(old, models)
        else:
            clip, latent = self._video_clip(old, models)
        self.work.connect(clip, "positive", positive)
        self.work.connect(clip, "negative", negative)
        self.work.connect(clip, "vae", models.vae)
        sampler = self.parts.sampler(old, models, clip, latent)
        decoder = self.work.add(old, ours.DECODE)
        self.work.connect(decoder, "samples", self.work.output(sampler))
        self.work.connect(decoder, "vae", models.vae)
        self.work.outputs[old, 0] = self.work.output(decoder)

    def _text_clip(self, old: Node) -> tuple[Node, Output]:
        clip = self.work.add(old, ours.VIDEO)
        for side in ("width", "height"):
            self.parts.side(clip, old, side)
        if str(old.values.get("is_image")).lower() == "true":
            clip.values["length"] = 1
        else:
            self.work.carry(clip, "length", old, "video_length", int)
        return clip, self.work.output(clip, 2)

    def _image_clip(self, old: Node, models: Models) -> tuple[Node, Output]:
        start = self.work.graph.edge(old, "start_img")
        base = self._base(old, models)
        if start is None:
            clip = self.work.add(old, ours.VIDEO)
            sides = [side * base // 512 // SIDE_MULTIPLE * SIDE_MULTIPLE for side in _WIDE]
            clip.values.update(zip(("width", "height"), sides, strict=True))
            self.work.report.note(
                f"{old} has no start image, so {clip} makes a video of {sides[0]}x{sides[1]} from text."
            )
        else:
            bucket = self.parts.bucket(old, "start_img", base)
            encoder = self.parts.encode_image(old, models, start.origin)
            clip = self.work.add(old, ours.VIDEO)
            self.work.connect(clip, "start_image", self.work.output(bucket))
            self.work.connect(clip, "clip_vision_output", self.work.output(encoder))
            for index, side in enumerate(("width", "height"), 1):
                self.work.connect(clip, side, self.work.output(bucket, index))
            self.work.link(clip, "end_image", old, "end_img")
        self.work.carry(clip, "length", old, "video_length", int)
        return clip, self.work.output(clip, 2)

    def _video_clip(self, old: Node, models: Models) -> tuple[Node, Output]:
        video = self.work.graph.edge(old, "validation_video")
        if self.work.graph.edge(old, "control_video") is not None:
            self.work.report.note(
                f"{old}: control_video is not carried over; it is for control models, not for V3."
            )
        if video is None:
            raise MigrationError(
                f"{old} has no video linked to validation_video: link one, and convert again."
            )
        first = self.work.add(old, ours.FIRST_FRAMES, batch_index=0)
        self.work.connect(first, "image", video.origin)
        self.work.carry(first, "length", old, "video_length", int)
        bucket = self.work.add(old, ours.BUCKET, base=self._base(old, models))
        self.work.connect(bucket, "image", self.work.output(first))
        frames = self.work.output(bucket)
        size = self.parts.size_of(old, frames)
        clip = self.work.add(old, ours.VIDEO)
        clip.values["length"] = first.values.get("length", 1)
        for name, index in (("width", 0), ("height", 1), ("length", 2)):
            self.work.connect(clip, name, self.work.output(size, index))
        return clip, self.parts.latent(old, frames, models)

    def _base(self, old: Node, models: Models) -> int:
        if self.work.graph.edge(old, "base_resolution") is not None:
            self.work.report.note(f"{old}: the link into base_resolution is not carried over.")
        try:
            base = int(old.values.get("base_resolution", DEFAULT_BASE))
        except (TypeError, ValueError) as error:
            raise MigrationError(f"{old} has no number for base_resolution.") from error
        if self.work.checkpoint is None or models.resolution in (None, base):
            return base
        self.work.report.note(
            f"{old}: base_resolution {base} became {models.resolution}, the checkpoint's own."
        )
        return models.resolution
