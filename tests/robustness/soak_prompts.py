"""The prompts of the soak test: every shipped workflow on the tiny checkpoint, and runs that are cancelled or fail."""

import copy
import hashlib

import av
from PIL import Image

from devtools import thumbnails, tiny_checkpoint, tiny_lora

# Few frames and steps, for about a second a run; everything else is as shipped: 64x64 pixels, CFG, smoothing.
TINY = {
    "checkpoint": tiny_checkpoint.NAME,
    "lora_name": tiny_lora.NAME,
    "length": 8,
    "partial_length": 8,
    "total_length": 16,
    "steps": 2,
}
MISSING = "EasyAnimateV3-not-there"
# Where the time goes: none of them may come from the cache.
WORKING = ("EasyAnimateV3Sampler", "KSampler", "EasyAnimateV3ExtendVideo", "EasyAnimateV3LongVideo")
TEXTS = ("EasyAnimateV3TextEncode", "CLIPTextEncode")
SAVING = ("EasyAnimateV3SaveVideo", "SaveVideo", "SaveImage", "EasyAnimateV3LongVideo")


def tiny_prompts(object_info):
    """Return every workflow by its name, as a prompt for the tiny checkpoint."""
    prompts = {name: thumbnails.prompt_of(name, object_info) for name in thumbnails.TITLES}
    for prompt in prompts.values():
        for node in prompt.values():
            for name, value in node["inputs"].items():
                if name in TINY and not isinstance(value, list):
                    node["inputs"][name] = TINY[name] if isinstance(value, str) else min(value, TINY[name])
    return prompts


def working_node(prompt):
    """Return the id of the node that samples."""
    [node_id] = [node_id for node_id, node in prompt.items() if node["class_type"] in WORKING]
    return node_id


def anew(prompt, number):
    """Return the prompt with blanks behind its texts: the same to the model, but new to the host's cache."""
    changed = copy.deepcopy(prompt)
    for node in changed.values():
        if node["class_type"] in TEXTS:
            node["inputs"]["text"] += " " * (number % 5)
    return changed


def slow(prompt):
    """Return the prompt with so many steps that it can be cancelled while it samples."""
    return _with_inputs(prompt, WORKING, steps=200)


def failing(prompt, kind):
    """Return the prompt with a fault that shows when it runs: in the first node, in the middle, in the last."""
    if kind == "last":
        return _with_inputs(prompt, SAVING, filename_prefix="x" * 300)
    if kind == "first":
        return _with_inputs(prompt, ("EasyAnimateV3Loader",), checkpoint=MISSING)
    # Steps that PNDM cannot take.
    return _with_inputs(prompt, ("EasyAnimateV3Sampler",), sampler_name="PNDM", steps=2)


def _with_inputs(prompt, class_types, **inputs):
    changed = copy.deepcopy(prompt)
    nodes = [node for node in changed.values() if node["class_type"] in class_types]
    assert nodes, class_types
    for node in nodes:
        node["inputs"] |= inputs
    return changed


def digest(path):
    """Return the SHA-256 of the decoded frames of a video, or of the pixels of a picture."""
    total = hashlib.sha256()
    if path.suffix == ".png":
        total.update(Image.open(path).convert("RGB").tobytes())
        return total.hexdigest()
    with av.open(str(path)) as video:
        for frame in video.decode(video=0):
            total.update(frame.to_ndarray(format="rgb24").tobytes())
    return total.hexdigest()
