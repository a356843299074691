"""EasyAnimateV3ExtendVideo in the host: the release's arithmetic from single runs, what is reused, progress, cancel."""

import comfy_node_inputs
import pytest
import torch
from graphs import NEGATIVE, Graph

OPTIONS = {
    "prompts": "a dog\na cat",
    "width": 32,
    "height": 32,
    "partial_length": 16,
    "overlap": 4,
    "segments": 2,
    "total_length": 0,
    "seed": 5,
    "steps": 2,
    "cfg": 7.0,
    "sampler_name": "Euler",
    "clip_apply_ratio": 0.5,
    "overlap_mix": "linear",
    "drift_control": "off",
    "drift_strength": 1.0,
    "drift_scope": "overlap",
    "smoothing": True,
}


def pictures(count, height=32, width=32, channels=3):
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(count))


_keys = {}


def key_of(images):
    """Return the key of a TestGive node, the same for the same object, so that the host's cache knows it again."""
    if id(images) not in _keys:
        _keys[id(images)] = (images, comfy_node_inputs.give(images).key)
    return _keys[id(images)][1]


class Extension:
    """A graph with EasyAnimateV3ExtendVideo."""

    def __init__(self, bench, images=(), clip_vision=True, **options):
        self.graph = graph = Graph()
        loader = graph.load()
        self.model = graph.add("TestCountCalls", model=loader)
        inputs = {name: graph.add("TestGive", key=key_of(value)) for name, value in dict(images).items()}
        if clip_vision:
            inputs["clip_vision"] = loader[3]
        self.node = graph.add(
            "EasyAnimateV3ExtendVideo",
            model=self.model,
            clip=loader[1],
            vae=loader[2],
            negative=graph.text(loader[1], NEGATIVE),
            **OPTIONS | options,
            **inputs,
        )


def extend(bench, images=(), **options):
    extension = Extension(bench, images, **options)
    return bench.value(extension.graph, extension.node)


def single(bench, prompt, seed, length, start=None, end=None, clip_vision=True, sampler="Euler"):
    """Make one clip with the single-clip nodes."""
    graph = Graph()
    loader = graph.load()
    images = {}
    if start is not None:
        images["start_image"] = bench.give(graph, start)
        if clip_vision:
            images["clip_vision_output"] = graph.add(
                "EasyAnimateV3ImageEncode", clip_vision=loader[3], image=images["start_image"]
            )
    if end is not None:
        images["end_image"] = bench.give(graph, end)
    clip = graph.frames(
        graph.text(loader[1], prompt), graph.text(loader[1], NEGATIVE), loader[2], length=length, **images
    )
    sampled = graph.sample(loader, clip, seed=seed, sampler_name=sampler)
    return bench.value(
        graph,
        graph.add("EasyAnimateV3VAEDecode", samples=sampled, vae=loader[2], smoothing=True, tiling=True),
    )


def release_mix(before, after, overlap):
    """Return the release's joined clips: weight i / overlap for the new one."""
    weights = torch.tensor([index / overlap for index in range(overlap)])[:, None, None, None]
    mixed = before[-overlap:] * (1 - weights) + after[:overlap] * weights
    return torch.cat([before[:-overlap], mixed, after[overlap:]])


@pytest.mark.parametrize(("overlap", "sampler"), [(4, "Euler"), (1, "Euler A"), (8, "DPM++")])
def test_two_segments_are_the_release_s_arithmetic_on_single_runs(bench, overlap, sampler):
    start = pictures(1)
    first = single(bench, "a dog", 5, 16, start, sampler=sampler)
    second = single(bench, "a cat", 6, 16, first[-overlap:], sampler=sampler)
    result = extend(bench, {"start_image": start}, overlap=overlap, sampler_name=sampler)
    assert result.shape == (32 - overlap, 32, 32, 3)
    assert torch.equal(result, release_mix(first, second, overlap))


def test_third_segment_goes_on_from_the_mixed_video_of_the_first_two(bench):
    # Segments of 8 with 6 in common: the frames that are handed on have been mixed.
    start = pictures(1)
    video = single(bench, "a dog", 5, 8, start)
    for seed in (6, 7):
        video = release_mix(video, single(bench, "a cat", seed, 8, video[-6:]), 6)
    result = extend(bench, {"start_image": start}, partial_length=8, overlap=6, segments=3)
    assert torch.equal(result, video)


def test_last_segment_is_cut_to_what_is_left(bench):
    start = pictures(1)
    first = single(bench, "a dog", 5, 16, start)
    second = single(bench, "a cat", 6, 8, first[-4:])
    # 22 frames leave 10 from frame 12 on: one slice of 8.
    result = extend(bench, {"start_image": start}, total_length=22)
    assert torch.equal(result, release_mix(first, second, 4))


def test_video_stays_as_it_is_and_goes_on_from_its_last_frames(bench):
    video = pictures(9)
    added = single(bench, "a dog", 5, 16, video[-4:])
    result = extend(bench, {"video": video}, segments=1, width=0, height=0)
    assert torch.equal(result[:5], video[:5])
    assert torch.equal(result, release_mix(video, added, 4))
    assert result.min() >= 0 and result.max() <= 1


def test_video_with_alpha_goes_on_without_it(bench):
    video = pictures(5, channels=4)
    assert torch.equal(
        extend(bench, {"video": video}, segments=1), extend(bench, {"video": video[..., :3]}, segments=1)
    )


def test_video_as_short_as_the_overlap(bench):
    video = pictures(4)
    result = extend(bench, {"video": video}, segments=1)
    assert torch.equal(result, release_mix(video, single(bench, "a dog", 5, 16, video), 4))


def test_without_images_the_first_segment_is_made_from_text(bench):
    first = single(bench, "a dog", 5, 16)
    second = single(bench, "a cat", 6, 16, first[-4:])
    assert torch.equal(extend(bench), release_mix(first, second, 4))


def test_without_clip_vision_there_is_no_embedding(bench):
    start = pictures(1)
    first = single(bench, "a dog", 5, 16, start, clip_vision=False)
    second = single(bench, "a cat", 6, 16, first[-4:], clip_vision=False)
    result = extend(bench, {"start_image": start}, clip_vision=False)
    assert torch.equal(result, release_mix(first, second, 4))
    assert not torch.equal(result, extend(bench, {"start_image": start}))


def test_end_image_belongs_to_the_last_segment_only(bench):
    start, end = pictures(1), pictures(2)
    first = single(bench, "a dog", 5, 16, start)
    second = single(bench, "a cat", 6, 16, first[-4:], end)
    result = extend(bench, {"start_image": start, "end_image": end})
    assert torch.equal(result, release_mix(first, second, 4))


def test_start_image_of_another_size_is_fitted_before_both_streams(bench):
    picture = pictures(1, 50, 90)
    graph = Graph()
    fitted = bench.value(
        graph,
        graph.add(
            "ImageScale",
            image=bench.give(graph, picture),
            upscale_method="lanczos",
            width=32,
            height=32,
            crop="center",
        ),
    )
    assert torch.equal(
        extend(bench, {"start_image": picture}), extend(bench, {"start_image": fitted}, width=0, height=0)
    )


def test_start_image_with_alpha_or_in_grey_counts_as_colour(bench):
    picture = pictures(1, 50, 90, channels=4)
    expected = extend(bench, {"start_image": picture[..., :3]}, segments=1)
    assert torch.equal(extend(bench, {"start_image": picture}, segments=1), expected)
    grey = picture[..., :1]
    expected = extend(bench, {"start_image": grey.repeat(1, 1, 1, 3)}, segments=1)
    assert torch.equal(extend(bench, {"start_image": grey}, segments=1), expected)


def test_own_seeds_and_the_count_from_the_last_one(bench):
    start = pictures(1)
    result = extend(bench, {"start_image": start}, seeds="100\n7", segments=3)
    video = single(bench, "a dog", 100, 16, start)
    for seed in (7, 8):
        video = release_mix(video, single(bench, "a cat", seed, 16, video[-4:]), 4)
    assert torch.equal(result, video)


@pytest.mark.parametrize(
    ("video", "partial", "overlap", "total", "frames"),
    [
        (0, 16, 4, 8, 8),  # shorter than one segment
        (0, 16, 4, 15, 8),
        (0, 16, 4, 16, 16),
        (0, 16, 4, 23, 20),  # not a multiple of 8: 11 are left from frame 12 on, one slice fits
        (0, 16, 8, 40, 40),  # overlap = partial - 8
        (0, 16, 8, 23, 16),  # one slice more would be nothing but overlap
        (0, 8, 7, 11, 11),
        (9, 16, 4, 21, 21),
        (9, 16, 4, 30, 25),
        (9, 16, 4, 33, 33),
    ],
)
def test_total_length_follows_the_formula(bench, video, partial, overlap, total, frames):
    images = {"video": pictures(video)} if video else {}
    options = {"partial_length": partial, "overlap": overlap, "total_length": total, "smoothing": False}
    assert len(extend(bench, images, steps=1, **options)) == frames


def test_message_tells_of_a_length_that_is_not_reached(bench):
    extension = Extension(bench, total_length=23)
    result, _ = bench.outcome(extension.graph, extension.node)
    assert "The video gets 20 frames instead of 23: segments have a multiple of 8." in str(result.outputs)


def classes(result):
    """Return the names of the sub-graph nodes that ran, such as ``sampler_0002``."""
    return sorted(node.rsplit(".", 1)[1] for node in result.executed if "." in node)


def run_twice(bench, first, second, images):
    """Run two variants after each other and return the second's result, frames and number of model calls."""
    bench.host.forget()
    before = Extension(bench, images, **first)
    bench.outcome(before.graph, before.node)
    after = Extension(bench, images, **second)
    calls = bench.model_calls
    result, [frames] = bench.outcome(after.graph, after.node)
    return result, frames, bench.model_calls - calls


def test_changing_the_last_prompt_runs_the_last_segment_only(bench):
    images = {"start_image": pictures(1)}
    three = {"segments": 3, "prompts": "one\ntwo\nthree"}
    result, frames, calls = run_twice(bench, three, three | {"prompts": "one\ntwo\nFour"}, images)
    assert calls == 2
    assert classes(result) == [
        "blend_0002",
        "clip_0002",
        "decode_0002",
        "join",
        "sampler_0002",
        "text_0002",
    ]
    assert torch.equal(frames, extend(bench, images, **three | {"prompts": "one\ntwo\nFour"}))


def test_changing_the_second_prompt_runs_from_the_second_segment_on(bench):
    images = {"start_image": pictures(1)}
    three = {"segments": 3, "prompts": "one\ntwo\nthree"}
    result, _, calls = run_twice(bench, three, three | {"prompts": "one\nFour\nthree"}, images)
    assert calls == 4
    assert not {"sampler_0000", "decode_0000", "text_0002"} & set(classes(result))


def test_another_segment_reuses_all_that_are_there(bench):
    images = {"start_image": pictures(1)}
    result, frames, calls = run_twice(bench, {"segments": 2}, {"segments": 3}, images)
    assert calls == 2
    assert [name for name in classes(result) if name.startswith("sampler")] == ["sampler_0002"]
    assert len(frames) == 40


def test_progress_runs_over_all_segments_once(bench):
    bench.host.forget()
    extension = Extension(bench, {"start_image": pictures(1)}, segments=3, steps=4)
    result, _ = bench.outcome(extension.graph, extension.node)
    steps = [(value, total) for node, value, total in result.progress if ".sampler_" in node]
    assert steps == [(value, 12) for value in range(1, 13)]


def test_cancel_in_the_second_segment_keeps_the_first(bench):
    images = {"start_image": pictures(1)}
    expected = extend(bench, images, steps=4)
    bench.host.forget()

    def interrupt(node, value, total):
        if node.endswith("sampler_0001") and value == 6:
            bench.host.interrupt()

    extension = Extension(bench, images, steps=4)
    bench._take(extension.graph, extension.node)
    bench.host.on_progress = interrupt
    try:
        result = bench.host.run(extension.graph.prompt)
    finally:
        bench.host.on_progress = None
    assert result.interrupted

    again = Extension(bench, images, steps=4)
    calls = bench.model_calls
    _, [frames] = bench.outcome(again.graph, again.node)
    assert bench.model_calls - calls == 4
    assert torch.equal(frames, expected)


def test_drift_control_brings_a_segment_to_the_frames_before_it(bench):
    video = pictures(9) * 0.2 + 0.4
    plain = extend(bench, {"video": video}, segments=1)
    held = extend(bench, {"video": video}, segments=1, drift_control="mean_std", drift_scope="segment")
    target = video[-4:].mean((0, 1, 2))
    assert (held[-12:].mean((0, 1, 2)) - target).abs().max() < 0.02
    assert (plain[-12:].mean((0, 1, 2)) - target).abs().max() > 0.04


def test_cut_keeps_the_given_frames(bench):
    video = pictures(9)
    assert torch.equal(extend(bench, {"video": video}, segments=1, overlap_mix="cut")[:9], video)


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        ({"video": 3}, {}, ("video", "3", "overlap")),
        ({"video": (9, 48, 32)}, {}, ("video is 32x48", "32x32")),
        ({"video": (9, 40, 32)}, {"width": 0, "height": 0}, ("32x40", "multiples of 16")),
        ({"video": 0}, {}, ("video", "[0, 32, 32, 3]")),
        ({"video": 9, "start_image": 1}, {}, ("video", "start_image", "remove")),
        ({}, {"width": 0}, ("width or height is 0",)),
        ({}, {"partial_length": 8, "overlap": 8}, ("overlap", "partial_length")),
        ({}, {"total_length": 5}, ("total_length",)),
        ({"video": 9}, {"total_length": 9}, ("total_length", "9")),
        ({}, {"total_length": 1000}, ("EasyAnimateV3LongVideo", "64")),
        ({}, {"seeds": "1\ntwo"}, ("seeds", "two")),
        ({}, {"seeds": "-1"}, ("seeds", "-1")),
        ({"start_image": 8}, {"partial_length": 8}, ("start_image has 8 frames", "as video")),
        ({"end_image": 1}, {"segments": 1}, ("end image",)),
        ({"start_image": 1, "end_image": 8}, {"segments": 1, "partial_length": 8}, ("last segment",)),
    ],
)
def test_bad_input_is_refused_in_one_sentence(bench, images, options, words):
    def picture(size):
        count, *sides = size if isinstance(size, tuple) else (size,)
        return pictures(count, *sides)

    images = {name: picture(size) for name, size in images.items()}
    extension = Extension(bench, images, **options)
    message = bench.refusal(extension.graph, extension.node)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("segment", "overlap", "words"),
    [((9, 48, 32), 4, ("32x48", "32x32")), ((3, 32, 32), 4, ("overlap is 4", "3 frames"))],
)
def test_segments_that_do_not_fit_are_not_joined(bench, segment, overlap, words):
    graph = Graph()
    parts = {"video": bench.give(graph, pictures(9)), "segment_0000": bench.give(graph, pictures(*segment))}
    message = bench.refusal(graph, graph.add("EasyAnimateV3JoinSegments", overlap=overlap, **parts))
    assert all(word in message for word in words), message
