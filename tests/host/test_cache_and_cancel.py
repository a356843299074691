"""What a second run reuses, and what a cancelled one leaves behind."""

import pytest
import torch
from graphs import Graph


def _video(graph, seed=3, sampler="EasyAnimateV3Sampler", steps=8, count=True):
    """Add a whole image-to-video run; return its nodes by name."""
    loader = graph.load()
    start = graph.picture()
    model = graph.add("TestCountCalls", model=loader) if count else loader
    clip = graph.clip(loader, start=start, embed=True, length=16)
    if sampler == "KSampler":
        sampled = graph.ksample(model, clip, seed=seed, steps=steps)
    elif sampler == "SamplerCustom":
        sampled = graph.sample_custom(model, clip, steps=steps)
    else:
        name = "PNDM" if sampler == "PNDM" else "Euler"
        sampled = graph.sample(model, clip, seed=seed, steps=steps, sampler_name=name)
    decoded = graph.add("EasyAnimateV3VAEDecode", samples=sampled, vae=loader[2], smoothing=True, tiling=True)
    return {"loader": loader, "clip": clip, "sampled": sampled, "decoded": decoded}


def test_new_seed_reuses_loader_encodes_and_conditioning(bench):
    first, second = Graph(), Graph()
    video = _video(first, seed=1, steps=2)
    _, [before] = bench.outcome(first, video["decoded"])
    _video(second, seed=2, steps=2)
    result, [after] = bench.outcome(second, video["decoded"])
    classes = {node_id: node["class_type"] for node_id, node in second.prompt.items()}
    assert sorted(classes[node_id] for node_id in result.cached) == [
        "EasyAnimateV3ImageEncode",
        "EasyAnimateV3ImageToVideo",
        "EasyAnimateV3Loader",
        "EasyAnimateV3TextEncode",
        "EasyAnimateV3TextEncode",
        "EmptyImage",
        "TestCountCalls",
    ]
    assert sorted(classes[node_id] for node_id in result.executed) == [
        "EasyAnimateV3Sampler",
        "EasyAnimateV3VAEDecode",
        "TestTake",
    ]
    assert not torch.equal(before, after)


def test_equal_seed_reuses_the_latent_too(bench):
    first, second = Graph(), Graph()
    video = _video(first, steps=2)
    bench.outcome(first, video["decoded"])
    _video(second, steps=2)
    result, _ = bench.outcome(second, video["decoded"])
    assert {video["sampled"].id, video["decoded"].id} <= set(result.cached)


@pytest.fixture
def interrupt_at(bench):
    """Function that cancels the next run once a node reaches a progress value, and notes the model calls so far."""

    def arm(node, reached):
        seen = {}

        def on_progress(node_id, value, total):
            if node_id == node.id and value == reached:
                seen.update(calls=bench.model_calls, total=total)
                bench.host.interrupt()

        bench.host.on_progress = on_progress
        return seen

    yield arm
    bench.host.on_progress = None


def _cancelled(bench, graph):
    result = bench.host.run(graph.prompt)
    assert result.interrupted
    assert not result.success
    assert result.error is None
    return result


@pytest.mark.parametrize("sampler", ["EasyAnimateV3Sampler", "PNDM", "KSampler", "SamplerCustom"])
def test_cancel_stops_sampling_within_one_step(bench, interrupt_at, sampler):
    graph = Graph()
    video = _video(graph, sampler=sampler)
    expected = bench.latent(graph, video["sampled"])

    bench.host.forget()
    seen = interrupt_at(video["sampled"], 3)
    result = _cancelled(bench, graph)
    assert seen["total"] == 8
    assert result.progress[-1] == (video["sampled"].id, 3, 8)
    assert bench.model_calls - seen["calls"] <= 1
    assert video["decoded"].id not in result.executed

    bench.host.on_progress = None
    again = Graph()
    video = _video(again, sampler=sampler)
    result, [latent] = bench.outcome(again, video["sampled"])
    assert video["clip"].id in result.cached, "what was done before the cancel is kept"
    assert torch.equal(latent["samples"], expected)


def test_cancel_stops_decoding_within_one_slice(bench, interrupt_at):
    graph = Graph()
    video = _video(graph, steps=2)
    expected = bench.value(graph, video["decoded"])

    bench.host.forget()
    seen = interrupt_at(video["decoded"], 1)
    result = _cancelled(bench, graph)
    assert seen["total"] > 2
    assert result.progress[-1] == (video["decoded"].id, 1, seen["total"])

    bench.host.on_progress = None
    again = Graph()
    video = _video(again, steps=2)
    result, [frames] = bench.outcome(again, video["decoded"])
    assert video["sampled"].id in result.cached
    assert torch.equal(frames, expected)


def test_cancel_stops_encoding_the_start_image(bench, interrupt_at):
    graph = Graph()
    video = _video(graph, steps=2)
    expected = bench.value(graph, video["sampled"])["samples"]

    bench.host.forget()
    seen = interrupt_at(video["clip"], 1)
    result = _cancelled(bench, graph)
    assert seen
    assert video["sampled"].id not in result.executed

    bench.host.on_progress = None
    again = Graph()
    video = _video(again, steps=2)
    assert torch.equal(bench.value(again, video["sampled"])["samples"], expected)
