"""Odd things on a link or in a setting, each refused with its sentence or taken for what it means."""

import fuzz_models
import numpy as np
import pytest
import torch
from fuzz_schema import schema
from graphs import Graph, is_one_sentence


@pytest.fixture(scope="module")
def objects(bench):
    """Models, prepared results and models of other kinds, by name."""
    return fuzz_models.prepare(bench)


def _node(bench, objects, graph, node_id, **changes):
    """Add a node with usual inputs and these changes; objects come over links."""
    usual = {
        "image": torch.rand(1, 32, 32, 3),
        "images": torch.rand(1, 32, 32, 3),
        "pixels": torch.rand(1, 32, 32, 3),
        "previous": torch.rand(1, 32, 32, 3),
        "next": torch.rand(8, 32, 32, 3),
        "video": torch.rand(8, 32, 32, 3),
        "samples": objects["latent"],
        "latent_image": objects["latent"],
        **{
            name: objects[name]
            for name in ("model", "clip", "vae", "clip_vision", "positive", "negative", "sigmas", "sampler")
        },
    }
    sizes = {"width": 32, "height": 32, "length": 8, "partial_length": 8, "segments": 1, "steps": 2}
    inputs = {}
    for name, (form, options, required) in schema(bench.host.node(node_id)).items():
        if name in changes:
            value = changes[name]
        elif not required:
            continue
        elif name in usual:
            value = usual[name]
        elif form == "COMBO":
            value = sizes.get(name, options.get("default", options.get("options", [None])[0]))
        else:
            value = sizes.get(name, options.get("default", ""))
        plain = form in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
        # ComfyUI 0.8 checks the choices that are in the graph; what comes over a link neither version does.
        plain = plain and not (form == "COMBO" and name in changes)
        inputs[name] = value if plain else bench.give(graph, value)
    return graph.add(node_id, **inputs)


@pytest.fixture
def refusal(bench, objects):
    """Function that runs a node with changed inputs and returns the sentence that refuses them."""

    def run(node_id, **changes):
        graph = Graph()
        node = _node(bench, objects, graph, node_id, **changes)
        if bench.host.node(node_id).RETURN_TYPES:
            return bench.refusal(graph, node)
        result = bench.host.run(graph.prompt)
        assert result.error, result.error_message
        assert is_one_sentence(result.error_message), result.error_message
        return result.error_message

    return run


@pytest.fixture
def outcome(bench, objects):
    """Function that runs a node with changed inputs and returns its first output."""

    def run(node_id, **changes):
        graph = Graph()
        return bench.value(graph, _node(bench, objects, graph, node_id, **changes))

    return run


IMAGE_INPUTS = [
    ("EasyAnimateV3BlendOverlap", "next"),
    ("EasyAnimateV3ExtendVideo", "video"),
    ("EasyAnimateV3FitImage", "image"),
    ("EasyAnimateV3ImageEncode", "image"),
    ("EasyAnimateV3ImageToVideo", "start_image"),
    ("EasyAnimateV3JoinSegments", "video"),
    ("EasyAnimateV3LongVideo", "end_image"),
    ("EasyAnimateV3ResizeToBucket", "image"),
    ("EasyAnimateV3SaveVideo", "images"),
    ("EasyAnimateV3VAEEncode", "pixels"),
]


@pytest.mark.parametrize(("node_id", "name"), IMAGE_INPUTS)
def test_what_is_no_image(refusal, node_id, name):
    picture = torch.rand(1, 32, 32, 3)
    assert f"{name} is of Python's type list, and no image" in refusal(node_id, **{name: [picture]})
    for dtype in (torch.uint8, torch.int64, torch.complex64):
        words = f"{name} holds {str(dtype).removeprefix('torch.')} numbers, but an image holds decimals"
        assert words in refusal(node_id, **{name: picture.to(dtype)})
    if node_id != "EasyAnimateV3SaveVideo":
        picture[0, 3, 4, 1] = float("nan")
        assert f"{name} holds NaN, infinite or huge values" in refusal(node_id, **{name: picture})


def test_clips_for_the_vae_that_are_spoiled(objects):
    """From a program or another pack's node: the host's nodes give it pictures alone."""
    clips = torch.rand(2, 8, 32, 32, 3)
    assert objects["vae"].encode(clips).shape == (2, 4, 2, 4, 4)
    clips[1, 5, 3, 3, 1] = float("nan")
    with pytest.raises(ValueError, match="pixels holds NaN, infinite or huge values"):
        objects["vae"].encode(clips)


@pytest.mark.parametrize("node_id", ["VAEEncode", "VAEEncodeTiled"])
def test_what_is_no_image_for_the_hosts_encoders(refusal, node_id):
    picture = torch.rand(1, 32, 32, 3)
    assert "pixels holds int64 numbers" in refusal(node_id, pixels=picture.long())
    assert "pixels has shape [1, 0, 32, 3]" in refusal(node_id, pixels=picture[:, :0])
    picture[0, 3, 4, 1] = 3e38
    assert "pixels holds NaN, infinite or huge values" in refusal(node_id, pixels=picture)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.bool])
def test_image_of_another_type_of_decimals_becomes_the_usual_one(outcome, dtype):
    picture = torch.rand(1, 48, 32, 3).round().to(dtype)
    if dtype != torch.bool:
        picture.requires_grad_()
    usual = picture.detach().float()
    for node_id, options in (("EasyAnimateV3FitImage", {}), ("EasyAnimateV3ResizeToBucket", {"base": 64})):
        found = outcome(node_id, image=picture, **options)
        assert found.dtype == torch.float32
        assert torch.equal(found, outcome(node_id, image=usual, **options))
    given = [{"start_image": image} for image in (picture, usual)]
    one, other = (outcome("EasyAnimateV3ImageToVideo", **image)[0][1] for image in given)
    assert torch.equal(one["easyanimate_inpaint"], other["easyanimate_inpaint"])


@pytest.mark.parametrize(("height", "width"), [(1, 32), (32, 1), (1, 300), (2, 64), (1, 33)])
def test_picture_so_thin_that_a_cut_leaves_no_pixel(outcome, height, width):
    sides = torch.linspace(0, 1, width)[None] if width > height else torch.linspace(0, 1, height)[:, None]
    stripes = sides.expand(height, width)[None, :, :, None].expand(1, height, width, 3)
    fitted = outcome("EasyAnimateV3FitImage", image=stripes)
    assert fitted.shape == (1, 32, 32, 3)
    assert (fitted - 0.5).abs().max() < 0.1, "the middle is what is seen"


def test_strip_is_not_enlarged_to_gigabytes_for_clip(outcome):
    strip = torch.rand(1, 1, 4000, 3)
    middle = strip[:, :, 1984 : 1984 + 32]
    whole, cut = (
        outcome("EasyAnimateV3ImageEncode", image=image)["image_embeds"] for image in (strip, middle)
    )
    assert torch.equal(whole, cut)


def test_pixels_that_are_nan_are_saved_black_and_it_is_said(bench, objects):
    frames = torch.ones(2, 32, 32, 3)
    frames[1] = float("nan")
    graph = Graph()
    node = _node(bench, objects, graph, "EasyAnimateV3SaveVideo", images=frames, filename_prefix="nan")
    result = bench.run(graph)
    [line] = result.outputs[node.id]["text"]
    assert line.startswith("Some pixels are NaN or infinite, and were saved black or white")
    [file] = (bench.host.base / "output").glob("nan*.mp4")
    import av

    with av.open(str(file)) as video:
        white, black = (frame.to_ndarray(format="rgb24") for frame in video.decode(video=0))
    file.unlink()
    assert white.min() > 240
    assert black.max() < 16


def test_vae_that_makes_nan_of_the_frames(refusal, objects):
    model = objects["vae"].first_stage_model
    bias = model.quant_conv.bias.detach().clone()
    try:
        with torch.inference_mode():
            model.quant_conv.bias.fill_(float("nan"))
        model.forget_even_slices()
        message = refusal("EasyAnimateV3ImageToVideo")
    finally:
        with torch.inference_mode():
            model.quant_conv.bias.copy_(bias)
        model.forget_even_slices()
    assert "the VAE made NaN or infinite values of the given frames" in message


@pytest.mark.parametrize(
    "output",
    [{}, {"image_embeds": None}, {"image_embeds": [1.0]}, {"image_embeds": torch.ones(1, 768).int()}],
)
def test_clip_output_without_an_embedding(refusal, output):
    message = refusal("EasyAnimateV3ImageToVideo", clip_vision_output_end=output)
    assert "clip_vision_output_end holds no CLIP image embedding" in message


def test_clip_output_that_is_not_finite_or_empty(refusal):
    embeds = torch.ones(1, 768)
    embeds[0, 7] = float("inf")
    name = "clip_vision_output"
    assert f"{name} holds NaN" in refusal("EasyAnimateV3ImageToVideo", **{name: {"image_embeds": embeds}})
    empty = {name: {"image_embeds": embeds[:0]}}
    assert f"{name} has shape [0, 768]" in refusal("EasyAnimateV3ImageToVideo", **empty)


@pytest.mark.parametrize(
    "node_id", ["EasyAnimateV3ImageToVideo", "EasyAnimateV3Sampler", "EasyAnimateV3LongVideo"]
)
def test_what_is_no_conditioning(refusal, objects, node_id):
    states = objects["positive_states"]
    assert "negative is empty, and no conditioning" in refusal(node_id, negative=[])
    assert "negative is nothing, and no conditioning" in refusal(node_id, negative=None)
    for entry in ([states], states, [states, {}, 1], [None, {}], [states, None]):
        message = refusal(node_id, negative=[entry])
        assert "an entry of negative is no pair of text states and options" in message
    message = refusal(node_id, negative=[[states, {"control": None}]])
    assert "the ControlNet in an entry of negative is nothing: take the node out" in message


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "easyanimate_inpaint",
            torch.zeros(1, 4, 2, 4, 4),
            "frames in the conditioning are torch.float32 [1, 4, 2, 4, 4]",
        ),
        (
            "easyanimate_inpaint",
            torch.zeros(0, 8, 2, 4, 4),
            "frames in the conditioning are torch.float32 [0, 8, 2, 4, 4]",
        ),
        (
            "easyanimate_inpaint",
            torch.zeros(1, 8, 4, 4),
            "frames in the conditioning are torch.float32 [1, 8, 4, 4]",
        ),
        ("easyanimate_inpaint", "text", "frames in the conditioning are of another kind"),
        ("easyanimate_clip_embeds", torch.zeros(1, 1024), "CLIP embedding in the conditioning is [1, 1024]"),
        ("easyanimate_clip_embeds", torch.zeros(0, 768), "CLIP embedding in the conditioning is [0, 768]"),
        ("easyanimate_clip_embeds", {}, "CLIP embedding in the conditioning is of another kind"),
    ],
)
@pytest.mark.parametrize("sampler", ["EasyAnimateV3Sampler", "KSampler"])
def test_conditioning_that_another_node_changed(refusal, objects, sampler, key, value, words):
    states, options = objects["positive"][0]
    assert words in refusal(sampler, positive=[[states, {**options, key: value}]])


@pytest.mark.parametrize("ratio", [float("nan"), -1, 2.0, "a", None])
def test_clip_ratio_that_another_node_changed(refusal, objects, ratio):
    states, options = objects["positive"][0]
    changed = [[states, {**options, "easyanimate_clip_apply_ratio": ratio}]]
    message = refusal("KSampler", positive=changed)
    assert f"clip_apply_ratio in the conditioning is {ratio!r}: give a number from 0 to 1" in message


@pytest.mark.parametrize("shape", [(5, 24), (1, 0, 24), (0, 5, 24), (1, 1, 5, 24), (24,)])
def test_text_states_of_another_shape(refusal, objects, shape):
    changed = [[torch.zeros(shape), objects["positive_options"]]]
    message = refusal("KSampler", positive=changed)
    assert f"the text states of the conditioning are {list(shape)}, but must be [1, tokens, 24]" in message


def test_attention_mask_of_another_text_is_not_used(outcome, objects):
    states, options = objects["positive"][0]
    cut = states[:, :5]
    plain = outcome("KSampler", steps=1, positive=[[cut, options]])["samples"]
    for mask in ("text", torch.ones(()), torch.ones(1, 0), torch.ones(1, 3), torch.zeros(1, 5)):
        masked = [[cut, {**options, "attention_mask": mask}]]
        assert torch.equal(plain, outcome("KSampler", steps=1, positive=masked)["samples"])


@pytest.mark.parametrize("model", ["image_model", None, "text"])
def test_model_of_another_kind(refusal, objects, model):
    given = objects.get(model, model)
    for node_id in ("EasyAnimateV3Sampler", "EasyAnimateV3ExtendVideo", "EasyAnimateV3LongVideo"):
        message = refusal(node_id, model=given)
        assert "this MODEL is another model's, but this node samples EasyAnimateV3" in message


@pytest.mark.parametrize(
    ("node_id", "name", "words"),
    [
        ("EasyAnimateV3TextEncode", "clip", "clip is of Python's type int, and no text encoder"),
        (
            "EasyAnimateV3ImageEncode",
            "clip_vision",
            "clip_vision is of Python's type int, and no CLIP vision model",
        ),
        ("EasyAnimateV3LoraLoader", "model", "model is of Python's type int, and no MODEL"),
        ("EasyAnimateV3LoraLoader", "clip", "clip is of Python's type int, and no CLIP"),
    ],
)
def test_model_that_is_none_at_all(refusal, node_id, name, words):
    assert words in refusal(node_id, **{name: 3})


@pytest.mark.parametrize("node_id", ["EasyAnimateV3Sampler", "EasyAnimateV3VAEDecode"])
def test_what_is_no_latent(refusal, node_id):
    name = "samples" if node_id == "EasyAnimateV3VAEDecode" else "latent_image"
    for value, words in (
        ([], "is of Python's type list, so it is no latent"),
        (None, "is nothing, so it is no latent"),
        ({}, "has samples that are nothing"),
        ({"samples": [1]}, "has samples that are of Python's type list"),
        ({"samples": torch.zeros(4, 4)}, "has shape [4, 4]"),
        ({"samples": torch.zeros(1, 4, 0, 4, 4)}, "has shape [1, 4, 0, 4, 4]"),
        ({"samples": torch.zeros(1, 4, 2, 4, 4).cfloat()}, "holds complex numbers"),
    ):
        assert f"{name} {words}" in refusal(node_id, **{name: value})


def test_latent_of_whole_numbers_counts_as_decimals(outcome):
    whole = {"samples": torch.ones(1, 4, 2, 4, 4).int()}
    decimals = {"samples": whole["samples"].float()}
    for node_id, name in (("EasyAnimateV3Sampler", "latent_image"), ("EasyAnimateV3VAEDecode", "samples")):
        one, other = (outcome(node_id, **{name: latent}) for latent in (whole, decimals))
        if node_id == "EasyAnimateV3Sampler":
            one, other = one["samples"], other["samples"]
        assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(4,), (4, 4, 4), (1, 4, 2, 4, 0)])
@pytest.mark.parametrize("node_id", ["VAEDecode", "VAEDecodeTiled"])
def test_latent_of_another_shape_for_the_hosts_decoders(refusal, node_id, shape):
    message = refusal(node_id, samples={"samples": torch.zeros(shape)})
    assert (
        f"the latent to decode has shape {list(shape)}, but a latent is [batch, 4, frames, height, width]"
        in message
    )


def test_several_image_latents_for_the_hosts_tiled_decoder(outcome):
    images = {"samples": torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))}
    tiled = outcome("VAEDecodeTiled", samples=images, tile_size=512, overlap=64)
    assert tiled.shape == (2, 32, 32, 3)
    assert torch.allclose(tiled, outcome("VAEDecode", samples=images), atol=1e-5)


def test_empty_latent_for_the_hosts_sampler(refusal):
    message = refusal("KSampler", latent_image={"samples": torch.zeros(1, 4, 2, 4, 0)})
    assert "the latent given to the sampler is empty, [1, 4, 2, 4, 0]" in message


@pytest.mark.parametrize("numbers", [[], [0, 1], [-1], ["a"], [2**40], 5])
def test_numbers_of_clips_that_no_seed_can_give(refusal, objects, numbers):
    message = refusal("EasyAnimateV3Sampler", latent_image={**objects["latent"], "batch_index": numbers})
    assert f"batch_index of latent_image is {numbers}" in message


@pytest.mark.parametrize("mask", ["text", (4,), (1, 0, 4), (1, 8, 2, 4, 4), (1, 1, 1, 1, 4, 4)])
def test_noise_mask_that_is_none(refusal, objects, mask):
    given = mask if isinstance(mask, str) else torch.ones(mask)
    message = refusal("EasyAnimateV3Sampler", latent_image={**objects["latent"], "noise_mask": given})
    found = "of Python's type str" if given is mask else f"of shape {list(mask)}"
    assert message.startswith(f"noise_mask of latent_image is {found}, and no mask of a video")


# Settings


@pytest.mark.parametrize(
    ("node_id", "name", "value", "words"),
    [
        (
            "EasyAnimateV3Loader",
            "weight_dtype",
            "fp7",
            "weight_dtype is 'fp7': choose one of default, fp8_e4m3fn",
        ),
        ("EasyAnimateV3Loader", "checkpoint", 3, "checkpoint is 3, which is no name"),
        (
            "EasyAnimateV3Sigmas",
            "sampler_name",
            "euler",
            "sampler_name is 'euler': choose one of Euler, Euler A",
        ),
        ("EasyAnimateV3Sigmas", "denoise", float("nan"), "denoise is nan: give a number from 0 to 1"),
        ("EasyAnimateV3Sampler", "cfg", float("nan"), "cfg is nan: give a number from 0 to 100"),
        (
            "EasyAnimateV3LongVideo",
            "if_unfinished",
            "Resume",
            "if_unfinished is 'Resume': choose one of resume, start new",
        ),
        ("EasyAnimateV3LongVideo", "fps", float("nan"), "fps is nan: give a number from 1 to 120"),
        ("EasyAnimateV3LoraLoader", "lora_name", 3, "lora_name is 3, which is no name"),
    ],
)
def test_setting_outside_of_the_schema(refusal, node_id, name, value, words):
    assert words in refusal(node_id, **{name: value})


def test_denoise_so_small_that_no_schedule_has_it(refusal):
    message = refusal("EasyAnimateV3Sigmas", denoise=5e-324)
    assert message.endswith("and Euler has at most 1000: take a higher denoise.")


@pytest.mark.parametrize("model", ["model", "text_to_video_model"])
def test_scheduler_whose_noise_levels_are_nan(refusal, objects, model):
    options = {"steps": 1, "scheduler": "kl_optimal", "model": objects[model]}
    assert refusal("KSampler", **options) == "A noise level is NaN: choose another scheduler, or more steps."


@pytest.mark.parametrize("weight", ["1e999", "nan", "-inf"])
def test_weight_in_a_prompt_that_is_not_finite(refusal, weight):
    message = refusal("EasyAnimateV3TextEncode", text=f"a (dog:{weight})", clean=False)
    assert "a weight in the prompt is no finite number" in message


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("fps", None, "fps is None: give a number from 1 to 120"),
        ("fps", "24", "fps is '24': give a number"),
        ("fps", [24.0], "fps is [24.0]: give a number"),
        ("fps", float("nan"), "fps is nan: give a number"),
        ("fps", 10**400, "fps is a very long number: give a number"),
        ("fps", 121, "fps is 121: give a number"),
        ("crf", 17.5, "crf is 17.5: give a whole number from 1 to 51"),
        ("crf", "17", "crf is '17': give a whole number"),
        ("crf", 0, "crf is 0: give a whole number"),
    ],
)
def test_what_another_node_gives_for_a_number(bench, name, value, words):
    """Over a link whose type may be anything, of which the host checks nothing."""
    graph = Graph()
    settings = {"filename_prefix": "number", "fps": 24.0, "crf": 17, name: bench.give(graph, value)}
    graph.add("EasyAnimateV3SaveVideo", images=graph.picture(), **settings)
    result = bench.host.run(graph.prompt)
    assert result.error, result.error_message
    assert is_one_sentence(result.error_message)
    assert words in result.error_message


def test_numbers_of_other_libraries_are_numbers(bench):
    graph = Graph()
    settings = {"fps": bench.give(graph, np.float32(24)), "crf": bench.give(graph, np.int64(30))}
    graph.add("EasyAnimateV3SaveVideo", images=graph.picture(), filename_prefix="number", **settings)
    bench.run(graph)


@pytest.mark.parametrize("clean", [True, False])
def test_halves_of_letters_in_a_prompt_are_left_out(outcome, clean):
    halves = outcome("EasyAnimateV3TextEncode", text="a \ud83ddog \udfff\ud800runs", clean=clean)
    without = outcome("EasyAnimateV3TextEncode", text="a dog runs", clean=clean)
    assert torch.equal(halves[0][0], without[0][0])


@pytest.mark.parametrize("node_id", ["EasyAnimateV3ExtendVideo", "EasyAnimateV3LongVideo"])
def test_length_of_more_segments_than_anyone_can_plan(refusal, node_id):
    message = refusal(node_id, total_length=10_000_000, overlap=7)
    assert "total_length is 10000000, which takes more than 100000 segments" in message


def test_other_image_encoder_is_told_before_the_first_segment(bench, refusal, objects):
    vision = objects["other_clip_vision"]
    message = refusal("EasyAnimateV3LongVideo", clip_vision=vision, segments=2, filename_prefix="other/clip")
    assert "the CLIP image embedding in clip_vision has shape" in message
    assert list((bench.host.base / "output" / "other").iterdir()) == []


def test_seed_of_more_digits_than_python_reads(refusal):
    message = refusal("EasyAnimateV3LongVideo", seeds="1\n" + "9" * 5000)
    assert message == f"Line 2 of seeds is {'9' * 40!r}: give one whole number a line, from 0 to 2^64 - 1."


def test_clip_that_needs_more_memory_than_the_machine_has(refusal):
    sizes = {"width": 16384, "height": 16384}
    message = refusal("EasyAnimateV3ImageToVideo", length=16384, **sizes)
    assert "to prepare 16384 frames of 16384x16384 pixels takes 163840 GB of main memory at least" in message
    many = torch.zeros(1, 8, 8, 3).expand(5000, 8, 8, 3)
    message = refusal("EasyAnimateV3FitImage", image=many, **sizes)
    assert "to scale 5000 frames to 16384x16384 pixels takes" in message
