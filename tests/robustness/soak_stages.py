"""One graph with every stage of the pack on the tiny checkpoint, and digests of what its nodes give."""

import hashlib

import torch
from graphs import Graph

from devtools import tiny_lora

RELEASE_SAMPLERS = {"Euler": 2, "Euler A": 2, "DPM++": 2, "DDIM": 2, "PNDM": 4}
SEGMENTS = {
    "prompts": "A dog running in the park\nA cat",
    "width": 32,
    "height": 32,
    "partial_length": 8,
    "overlap": 4,
    "segments": 2,
    "total_length": 0,
    "seed": 5,
    "steps": 2,
    "cfg": 7.0,
    "sampler_name": "Euler",
    "clip_apply_ratio": 0.5,
    "overlap_mix": "linear",
    "drift_control": "mean_std",
    "drift_strength": 1.0,
    "drift_scope": "overlap",
    "smoothing": True,
}


def digest(value):
    """Return one digest of all tensors in what a node gives."""
    total = hashlib.sha256()
    for tensor in _tensors(value):
        total.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        total.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value.detach().cpu()
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _tensors(value[key])
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif hasattr(value, "__dict__"):
        yield from _tensors(vars(value))


def every_stage(picture, salt=0, previous=None):
    """Return a graph and its links by stage.

    Parameters
    ----------
    picture : callable
        Adds the start image to a graph and returns its node; another one each time makes all behind it run again.
    salt : int
        Blanks behind the prompts, which change nothing but make the host encode them again.
    previous : dict, optional
        ``weight_dtype``, ``lora``, ``side`` and ``length`` of another kind of run.
    """
    kind = {"weight_dtype": "default", "lora": False, "side": 32, "length": 8} | (previous or {})
    graph = Graph()
    loader = graph.load(weight_dtype=kind["weight_dtype"])
    model = loader
    if kind["lora"]:
        model = graph.add(
            "EasyAnimateV3LoraLoader",
            model=loader,
            clip=loader[1],
            lora_name=tiny_lora.NAME,
            strength_model=1.0,
            strength_clip=1.0,
        )
    start = picture(graph)
    text = graph.text(loader[1], "A dog running in the park" + " " * salt)
    negative = graph.text(loader[1], " " * salt)
    embed = graph.add("EasyAnimateV3ImageEncode", clip_vision=loader[3], image=start)
    clip = graph.frames(
        text,
        negative,
        loader[2],
        kind["side"],
        kind["side"],
        kind["length"],
        start_image=start,
        clip_vision_output=embed,
    )
    links = {"text encode": text, "image encode": embed, "conditioning": clip[0]}
    for name, steps in RELEASE_SAMPLERS.items():
        links[name] = graph.sample(model, clip, sampler_name=name, steps=steps)
    links["KSampler"] = graph.ksample(model, clip)
    decoded = {"samples": links["Euler"], "vae": loader[2], "tiling": True}
    links["decode"] = graph.add("EasyAnimateV3VAEDecode", smoothing=False, **decoded)
    links["smoothed decode"] = graph.add("EasyAnimateV3VAEDecode", smoothing=True, **decoded)
    links["core decode"] = graph.add("VAEDecode", samples=links["KSampler"], vae=loader[2])
    links["encode"] = graph.add("EasyAnimateV3VAEEncode", pixels=links["decode"], vae=loader[2], tiling=True)
    given = {
        "model": model,
        "clip": loader[1],
        "vae": loader[2],
        "negative": negative,
        "clip_vision": loader[3],
        "start_image": start,
    }
    links["extend video"] = graph.add("EasyAnimateV3ExtendVideo", **given, **SEGMENTS)
    return graph, links


def add_long_video(graph, links, prefix):
    """Add Long Video with the inputs of Extend Video, and return its node."""
    inputs = graph.prompt[links["extend video"].id]["inputs"]
    return graph.add(
        "EasyAnimateV3LongVideo",
        **inputs,
        filename_prefix=prefix,
        fps=24.0,
        crf=17,
        if_unfinished="resume",
    )
