"""Samplers of the release: text to video, image to video, video to video."""

from . import our_nodes as ours
from . import their_nodes as theirs
from .graph import Node, Output
from .models import Loaders, Models
from .parts import DEFAULT_BASE, SIDE_MULTIPLE, add_sampler, add_side
from .report import MigrationError
from .texts import Texts
from .work import Work, output

# The release's wide size at base 512.
_WIDE = (672, 384)


def convert_sampler(work: Work, loaders: Loaders, texts: Texts, old: Node) -> None:
    """Put a clip, a sampler and a decoder in the place of one sampler."""
    models = loaders.behind(old, "easyanimate_model")
    prompts = {
        side: texts.of_box(old, name, models.text_encoder())
        for side, name in (("positive", "prompt"), ("negative", "negative_prompt"))
    }
    common = prompts | {"vae": models.vae}
    latent = None
    if old.type == theirs.TEXT_SAMPLER:
        clip = _text_clip(work, old, common)
    elif old.type == theirs.IMAGE_SAMPLER:
        clip = _image_clip(work, old, models, common)
    else:
        clip, latent = _video_clip(work, old, models, common)
    sampler = add_sampler(work, old, models, clip, latent or output(clip, 2))
    decoder = work.add(old, ours.DECODE, samples=output(sampler), vae=models.vae)
    work.outputs[old, 0] = output(decoder)


def _text_clip(work: Work, old: Node, common: dict[str, Output]) -> Node:
    clip = work.add(old, ours.VIDEO, **common)
    for side in ("width", "height"):
        add_side(work, clip, old, side)
    work.not_linkable(old, "is_image")
    if str(work.value(old, "is_image")).lower() == "true":
        clip.values["length"] = 1
    else:
        work.carry(clip, "length", old, "video_length", int)
    return clip


def _image_clip(work: Work, old: Node, models: Models, common: dict[str, Output]) -> Node:
    start, base = work.linked(old, "start_img"), _base(work, old, models)
    if start is None:
        width, height = (side * base // 512 // SIDE_MULTIPLE * SIDE_MULTIPLE for side in _WIDE)
        clip = work.add(old, ours.VIDEO, width=width, height=height, **common)
        work.report.note(f"{old} has no start image, so {clip} makes a video of {width}x{height} from text.")
    else:
        bucket = work.add(old, ours.BUCKET, base=base, image=start)
        # The release gives CLIP the resized picture, too.
        encoder = work.add(old, ours.IMAGE, clip_vision=models.image_encoder(), image=output(bucket))
        clip = work.add(
            old,
            ours.VIDEO,
            start_image=output(bucket),
            width=output(bucket, 1),
            height=output(bucket, 2),
            end_image=work.linked(old, "end_img"),
            clip_vision_output=output(encoder),
            **common,
        )
    work.carry(clip, "length", old, "video_length", int)
    return clip


def _video_clip(work: Work, old: Node, models: Models, common: dict[str, Output]) -> tuple[Node, Output]:
    video = work.linked(old, "validation_video")
    if work.linked(old, "control_video") is not None:
        work.report.note(f"{old}: control_video is not carried over; it is for control models, not for V3.")
    if video is None:
        raise MigrationError(f"{old} has no video linked to validation_video: link one, and convert again.")
    first = work.add(old, ours.FIRST_FRAMES, batch_index=0, image=video)
    work.carry(first, "length", old, "video_length", int)
    bucket = work.add(old, ours.BUCKET, base=_base(work, old, models), image=output(first))
    size = work.add(old, ours.SIZE, image=output(bucket))
    sides = {name: output(size, index) for index, name in enumerate(("width", "height", "length"))}
    clip = work.add(old, ours.VIDEO, **sides, **common)
    clip.values["length"] = first.values.get("length", 1)
    return clip, output(work.add(old, ours.ENCODE, pixels=output(bucket), vae=models.vae))


def _base(work: Work, old: Node, models: Models) -> int:
    work.not_linkable(old, "base_resolution")
    try:
        base = int(old.values.get("base_resolution", DEFAULT_BASE))
    except (TypeError, ValueError) as error:
        raise MigrationError(f"{old} has no number for base_resolution.") from error
    if work.checkpoint is None or models.resolution in (None, base):
        return base
    work.report.note(f"{old}: base_resolution {base} became {models.resolution}, the checkpoint's own.")
    return models.resolution
