"""Model features of the host that should work unasked."""

import pytest
import torch
from graphs import Graph

from devtools.golden import relative_error


def _sampled(bench, node=None, sampler="ksample", length=16, **inputs):
    graph = Graph()
    loader = graph.load()
    clip = graph.clip(loader, start=graph.picture(), embed=True, length=length)
    model = loader if node is None else graph.add(node, model=loader, **inputs)
    return bench.latent(graph, getattr(graph, sampler)(model, clip, steps=8))


@pytest.mark.parametrize("sampler", ["ksample", "sample"])
@pytest.mark.parametrize("node", ["EasyCache", "LazyCache"])
def test_caches_skip_steps(bench, node, sampler, caplog):
    plain = _sampled(bench, sampler=sampler)
    with caplog.at_level("INFO"):
        cached = _sampled(
            bench, node, sampler, reuse_threshold=0.5, start_percent=0.1, end_percent=0.95, verbose=False
        )
    assert "skipped 0/" not in caplog.text and "skipped" in caplog.text
    assert 0 < relative_error(cached, plain) < 1


@pytest.mark.parametrize("sampler", ["ksample", "sample"])
def test_context_windows(bench, host, sampler):
    options = {
        "context_overlap": 2,
        "context_schedule": "standard_static",
        "context_stride": 1,
        "closed_loop": False,
        "fuse_method": "pyramid",
        "dim": 2,
    }
    # Newer hosts ask for one more.
    if any(slot.id == "freenoise" for slot in host.node("ContextWindowsManual").define_schema().inputs):
        options["freenoise"] = False
    windowed = _sampled(bench, "ContextWindowsManual", sampler, length=40, context_length=4, **options)
    whole = _sampled(bench, sampler=sampler, length=40)
    assert windowed.shape == whole.shape == torch.Size([1, 4, 10, 4, 4])
    assert 0 < relative_error(windowed, whole) < 1
    # A window as long as the clip is the clip.
    assert torch.equal(
        _sampled(bench, "ContextWindowsManual", sampler, length=40, context_length=10, **options), whole
    )


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
