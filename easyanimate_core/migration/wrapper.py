"""The wrapper's sampler, decoder, resizer and image encoder."""

from . import our_nodes as ours
from . import their_nodes as theirs
from .graph import Node, Output
from .models import Loaders, Models
from .parts import DEFAULT_BASE, add_sampler, add_side
from .texts import Texts
from .work import Work, output

# For each resizer our node that stands for it.
Buckets = dict[Node, Node]


def convert_wrapper(work: Work, loaders: Loaders, texts: Texts) -> None:
    """Convert these nodes, in the order in which they need each other."""
    buckets = {old: _resize(work, old) for old in work.graph.of_type((theirs.WRAPPER_RESIZE,))}
    for old in work.graph.of_type((theirs.WRAPPER_IMAGE,)):
        _image_encoder(work, loaders, old)
    for old in work.graph.of_type((theirs.WRAPPER_SAMPLER,)):
        _sampler(work, loaders.behind(old, "easyanimate_pipeline"), texts, buckets, old)
    for old in work.graph.of_type((theirs.WRAPPER_DECODE,)):
        _decode(work, loaders.behind(old, "easyanimate_pipeline"), old)


def _resize(work: Work, old: Node) -> Node:
    node = work.add(old, ours.BUCKET, main=True, image=work.linked(old, "image"))
    work.carry(node, "base", old, "base_resolution", int, linkable=False)
    work.outputs[old, 0] = output(node)
    return node


def _image_encoder(work: Work, loaders: Loaders, old: Node) -> None:
    models = loaders.first()
    vision = models and models.image_encoder()
    node = work.add(old, ours.IMAGE, main=True, clip_vision=vision, image=work.linked(old, "image"))
    work.outputs[old, 0] = output(node)
    linked = work.graph.edge(old, "strength") is not None
    strength = "from a link" if linked else old.values.get("strength", 1)
    if strength != 1:
        work.report.note(
            f"{old}: strength {strength} is not carried over, since the CLIP embedding counts as it is here; "
            f"clip_apply_ratio of {ours.SAMPLER} sets for which steps."
        )


def _decode(work: Work, models: Models, old: Node) -> None:
    latents = work.linked(old, "latents")
    node = work.add(old, ours.DECODE, main=True, samples=latents, vae=models.vae)
    if latents is None:
        work.report.note(f"{old} has nothing linked to latents; link a latent to {node}.")
    work.outputs[old, 0] = output(node)


def _sampler(work: Work, models: Models, texts: Texts, buckets: Buckets, old: Node) -> None:
    video = work.linked(old, "full_input_video")
    bucket = None if video else _start_bucket(work, models, buckets, old)
    clip = work.add(
        old,
        ours.VIDEO,
        vae=models.vae,
        start_image=output(bucket) if bucket else work.linked(old, "image_start"),
        end_image=work.linked(old, "image_end"),
        clip_vision_output=_embedding(work, models, old),
        **texts.of_wrapper(old),
    )
    _set_size(work, clip, old, bucket, video)
    latent = output(clip, 2)
    if video is not None:
        latent = output(work.add(old, ours.ENCODE, pixels=video, vae=models.vae))
    work.outputs[old, 0] = output(add_sampler(work, old, models, clip, latent))


def _start_bucket(work: Work, models: Models, buckets: Buckets, old: Node) -> Node | None:
    """Return the node that brings the start image to a trained size: the user's own, if its base is the model's."""
    start, source = work.linked(old, "image_start"), work.graph.source(old, "image_start")
    if source is None:
        return None
    base = models.resolution or DEFAULT_BASE
    own = buckets.get(source.node)
    if own is not None and own.values.get("base", DEFAULT_BASE) == base:
        return own
    return work.add(old, ours.BUCKET, base=base, image=start)


def _embedding(work: Work, models: Models, old: Node) -> Output | None:
    """Return the CLIP embedding that the sampler got, or made itself in the versions without an image encoder."""
    start = work.linked(old, "image_start")
    # The image encoder came together with denoise_strength.
    if start is not None and not work.has(old, "denoise_strength"):
        return output(work.add(old, ours.IMAGE, clip_vision=models.image_encoder(), image=start))
    source = work.graph.source(old, "image_embeds")
    if source is None or source[:2] in work.outputs:
        return source
    work.report.note(f"{old}: image_embeds of {source.node} is not carried over.")
    return None


def _set_size(work: Work, clip: Node, old: Node, bucket: Node | None, video: Output | None) -> None:
    """Take width, height and length from the start image, from the video where nothing else is linked, or as given."""
    names = {"width": "width", "height": "height", "length": "frames"}
    found: dict[str, Output] = {}
    if bucket is not None:
        found = {"width": output(bucket, 1), "height": output(bucket, 2)}
    elif video is not None:
        unlinked = [name for name in names if work.graph.edge(old, names[name]) is None]
        size = work.add(old, ours.SIZE, image=video) if unlinked else None
        found = {name: output(size, list(names).index(name)) for name in unlinked}
    for name, old_name in names.items():
        if name in found:
            work.connect(clip, name, found[name])
        if name == "length":
            work.carry(clip, name, old, old_name, int)
        elif name not in found:
            add_side(work, clip, old, name)
