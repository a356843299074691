"""Model features of the host that should work unasked."""

import re

import pytest
import torch
from graphs import Graph

from devtools.golden import relative_error
from devtools.shape_measures import background, frame_changes, psnr, shape_colour
from training.models import NAME as NANO


def _sampled(bench, node=None, sampler="ksample", length=16, **inputs):
    graph = Graph()
    loader = graph.load()
    clip = graph.clip(loader, start=graph.picture(), embed=True, length=length)
    model = loader if node is None else graph.add(node, model=loader, **inputs)
    return bench.latent(graph, getattr(graph, sampler)(model, clip, steps=8))


def _nano_frames(bench, sampler, node=None, **inputs):
    graph = Graph()
    loader = graph.load(NANO)
    texts = [graph.text(loader[1], text) for text in ("a red circle moving right on a blue background", "")]
    clip = graph.frames(*texts, loader[2], width=64, height=64, length=16)
    model = loader if node is None else graph.add(node, model=loader, **inputs)
    latent = getattr(graph, sampler)(model, clip, steps=16, cfg=3.0)
    return bench.value(graph, graph.add("VAEDecode", samples=latent, vae=loader[2]))


@pytest.mark.parametrize("sampler", ["ksample", "sample"])
def test_caches_skip_steps_and_keep_the_clip(bench, sampler, caplog):
    plain = _nano_frames(bench, sampler)
    for node, threshold in (("EasyCache", 0.2), ("LazyCache", 0.05)):
        caplog.clear()
        with caplog.at_level("INFO"):
            cached = _nano_frames(
                bench,
                sampler,
                node,
                reuse_threshold=threshold,
                start_percent=0.15,
                end_percent=0.95,
                verbose=False,
            )
        (skipped,) = re.findall(r"skipped (\d+)/16 steps", caplog.text)
        assert 2 <= int(skipped) <= 12
        assert shape_colour(cached[-1]) == "red" and background(cached[-1]) == "blue"
        assert 25 < psnr(cached, plain) < 60


def _windows(host, overlap):
    """Return the inputs of ContextWindowsManual for windows along the frames, but for their length."""
    options = {
        "context_overlap": overlap,
        "context_schedule": "standard_static",
        "context_stride": 1,
        "closed_loop": False,
        "fuse_method": "pyramid",
        "dim": 2,
    }
    # Newer hosts ask for one more.
    if any(slot.id == "freenoise" for slot in host.node("ContextWindowsManual").define_schema().inputs):
        options["freenoise"] = False
    return options


@pytest.mark.parametrize("sampler", ["ksample", "sample"])
def test_context_windows(bench, host, sampler):
    options = _windows(host, 2)
    windowed = _sampled(bench, "ContextWindowsManual", sampler, length=40, context_length=4, **options)
    whole = _sampled(bench, sampler=sampler, length=40)
    assert windowed.shape == whole.shape == torch.Size([1, 4, 10, 4, 4])
    assert 0 < relative_error(windowed, whole) < 1
    # A window as long as the clip is the clip.
    assert torch.equal(
        _sampled(bench, "ContextWindowsManual", sampler, length=40, context_length=10, **options), whole
    )


def test_context_windows_hold_a_clip_together_that_is_longer_than_trained(bench, host):
    # Nano was trained on 32 frames at most.
    length = 56
    graph = Graph()
    loader = graph.load(NANO)
    texts = [graph.text(loader[1], text) for text in ("a red circle rotating on a blue background", "")]
    clip = graph.frames(*texts, loader[2], width=64, height=64, length=length)
    model = graph.add("ContextWindowsManual", model=loader, context_length=8, **_windows(host, 4))
    latent = graph.ksample(model, clip, steps=10, cfg=3.0)
    frames = bench.value(graph, graph.add("VAEDecode", samples=latent, vae=loader[2]))
    assert frames.shape == (length, 64, 64, 3)
    assert [background(frame) for frame in frames] == ["blue"] * length
    assert [shape_colour(frame) for frame in frames] == ["red"] * length
    # No window begins a picture of its own.
    assert frame_changes(frames).max() < 0.03


def test_dit_patches_run_around_a_block_or_instead_of_it(bench):
    graph = Graph()
    loaded = bench.value(graph, graph.load())

    def sampled(patch):
        model = loaded.clone()
        model.set_model_patch_replace(patch, "dit", "double_block", 3)
        graph = Graph()
        clip = graph.clip(graph.load())
        return bench.latent(graph, graph.ksample(bench.give(graph, model), clip))

    plain = sampled(lambda arguments, extra: extra["original_block"](arguments))
    skipped = sampled(lambda arguments, extra: {"img": arguments["img"]})
    graph = Graph()
    loader = graph.load()
    assert torch.equal(plain, bench.latent(graph, graph.ksample(loader, graph.clip(loader))))
    assert relative_error(skipped, plain) > 1e-4
