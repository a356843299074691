"""Wrong input: one sentence that says what, where and what to do; or taken as it is, with a word to the user."""

import pytest
import torch
from graphs import NEGATIVE, PROMPT, Graph, is_one_sentence

from devtools.golden import relative_error

# Sizes and lengths


def test_size_that_is_no_multiple_of_16_names_the_nearest(bench):
    graph = Graph()
    message = bench.refusal(graph, graph.clip(graph.load(), width=60, height=33))
    assert "60x33" in message
    assert "the nearest size is 64x32" in message


def test_frames_of_such_a_size_cannot_be_encoded(bench):
    graph = Graph()
    pixels = graph.picture(40, 33)
    encode = graph.add("EasyAnimateV3VAEEncode", pixels=pixels, vae=graph.load()[2], tiling=True)
    message = bench.refusal(graph, encode)
    assert "40x33" in message
    assert "the nearest size is 32x32" in message


@pytest.mark.parametrize(("length", "frames", "latent_frames"), [(18, 16, 4), (3, 8, 2), (17, 16, 4)])
def test_length_is_snapped_and_the_node_says_so(bench, length, frames, latent_frames):
    graph = Graph()
    clip = graph.clip(graph.load(), length=length)
    result, [latent] = bench.outcome(graph, clip[2])
    assert latent["samples"].shape == (1, 4, latent_frames, 4, 4)
    [line] = result.outputs[clip.id]["text"]
    assert line == f"A clip has 1 frame or a multiple of 8; {length} frames became {frames}."


@pytest.mark.parametrize(("length", "latent_frames"), [(1, 1), (8, 2), (16, 4)])
def test_length_that_fits_is_kept_in_silence(bench, length, latent_frames):
    graph = Graph()
    clip = graph.clip(graph.load(), length=length)
    result, [latent] = bench.outcome(graph, clip[2])
    assert latent["samples"].shape[2] == latent_frames
    assert clip.id not in result.outputs


def test_size_far_from_the_trained_one_gives_a_warning(bench):
    graph = Graph()
    loader = graph.load()
    clip = graph.clip(loader, width=64, height=64)
    sampled = graph.sample(loader, clip)
    result, _ = bench.outcome(graph, sampled)
    for node in (clip, sampled):
        [line] = result.outputs[node.id]["text"]
        assert line.startswith(
            "Expect noise: 64x64 is far from the trained area of 32x32; EasyAnimateV3ResizeToBucket"
        )


@pytest.mark.parametrize(("frames", "latent_frames", "left"), [(3, 1, 2), (12, 2, 4), (17, 4, 1)])
def test_frames_that_cannot_be_encoded_whole_are_cut_and_it_is_said(bench, frames, latent_frames, left):
    graph = Graph()
    pixels = bench.give(graph, torch.rand(frames, 32, 32, 3))
    encode = graph.add("EasyAnimateV3VAEEncode", pixels=pixels, vae=graph.load()[2], tiling=True)
    result, [latent] = bench.outcome(graph, encode)
    assert latent["samples"].shape == (1, 4, latent_frames, 4, 4)
    [line] = result.outputs[encode.id]["text"]
    assert line == f"A clip has 1 frame or a multiple of 8; of {frames} frames the last {left} were left out."


# Images


def _picture(height=32, width=32, channels=3, frames=1):
    shape = (frames, height, width, channels) if channels else (frames, height, width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def _inpaint(bench, start, end=None, **options):
    """Return the inpainting latents of a 32x32 clip with these images."""
    graph = Graph()
    given = {"end_image": bench.give(graph, end)} if end is not None else {}
    clip = graph.clip(graph.load(), start=bench.give(graph, start), **given, **options)
    positive, negative = bench.value(graph, clip[0], clip[1])
    inpaint = positive[0][1]["easyanimate_inpaint"]
    assert torch.equal(inpaint, negative[0][1]["easyanimate_inpaint"])
    assert inpaint.shape == (1, 8, 2, 4, 4)
    assert torch.isfinite(inpaint).all()
    return inpaint


def test_end_image_without_a_start_image(bench):
    graph = Graph()
    message = bench.refusal(graph, graph.clip(graph.load(), end_image=graph.picture()))
    assert message == "An end image needs a start image too: connect one, or remove the end image."


def test_images_of_different_sizes_are_fitted(bench):
    start, end = _picture(48, 80), _picture(20, 24)
    fitted = _inpaint(bench, start, end)
    # The middle square of the wide start image is what remains of it.
    middle = start[:, :, 16:64]
    assert torch.equal(_inpaint(bench, start), _inpaint(bench, middle))
    assert not torch.equal(fitted, _inpaint(bench, start))


def test_large_pictures_are_filtered_when_they_shrink(bench):
    stripes = (torch.arange(96) % 2).float()[:, None].expand(1, 96, 96, 3)
    grey = torch.full((1, 32, 32, 3), 0.5)
    assert relative_error(_inpaint(bench, stripes), _inpaint(bench, grey)) < 0.05


def test_alpha_is_dropped_and_grey_repeated(bench):
    colour = _picture()
    rgba = torch.cat([colour, torch.rand(1, 32, 32, 1)], dim=-1)
    assert torch.equal(_inpaint(bench, rgba), _inpaint(bench, colour))
    grey = _picture(channels=1)
    repeated = _inpaint(bench, grey.expand(1, 32, 32, 3))
    assert torch.equal(_inpaint(bench, grey), repeated)
    assert torch.equal(_inpaint(bench, grey[..., 0]), repeated)
    assert torch.equal(_inpaint(bench, colour[0]), _inpaint(bench, colour))


def test_batch_gives_several_start_frames(bench):
    batch = _picture(frames=4)
    several = _inpaint(bench, batch)
    assert not torch.allclose(several, _inpaint(bench, batch[:1]), atol=1e-3)
    assert not torch.allclose(several[:, :4], _inpaint(bench, batch[:1])[:, :4], atol=1e-3), "same mask"


def test_more_start_frames_than_the_clip_has(bench):
    graph = Graph()
    start = bench.give(graph, _picture(frames=9))
    message = bench.refusal(graph, graph.clip(graph.load(), start=start))
    assert "9 start and 0 end frames do not fit in a clip of 8 frames" in message
    assert "make the clip longer" in message


@pytest.mark.parametrize("shape", [(1, 32, 32, 2), (0, 32, 32, 3), (32, 32), (1, 1, 32, 32, 3)])
def test_image_of_another_shape(bench, shape):
    graph = Graph()
    start = bench.give(graph, torch.zeros(shape))
    message = bench.refusal(graph, graph.clip(graph.load(), start=start))
    assert f"start_image has shape {list(shape)}" in message
    assert "1, 3 or 4 channels" in message


@pytest.mark.parametrize("channels", [0, 1, 4])
def test_other_nodes_take_such_images_too(bench, channels):
    graph = Graph()
    loader = graph.load()
    image = bench.give(graph, _picture(48, 64, channels))
    encoded = graph.add("EasyAnimateV3ImageEncode", clip_vision=loader[3], image=image)
    resized = graph.add("EasyAnimateV3ResizeToBucket", image=image, base=64)
    latent = graph.add("EasyAnimateV3VAEEncode", pixels=image, vae=loader[2], tiling=True)
    embeds, frames, samples = bench.value(graph, encoded, resized, latent)
    assert embeds["image_embeds"].shape == (1, 768)
    assert frames.shape[-1] == 3
    assert samples["samples"].shape == (1, 4, 1, 6, 8)


# Prompts


def test_empty_prompt_is_an_unconditional_one(bench):
    graph = Graph()
    loader = graph.load()
    text = graph.text(loader[1], "")
    result, [conditioning] = bench.outcome(graph, text)
    assert conditioning[0][0].shape == (1, 1, 24), "the end token alone"
    assert text.id not in result.outputs
    clip = graph.frames(text, text, loader[2])
    assert bench.latent(graph, graph.sample(loader, clip)).std() > 0


def test_long_prompt_is_cut_and_the_node_says_what_is_missing(bench):
    graph = Graph()
    loader = graph.load()
    long, short = graph.text(loader[1], "dog " * 119 + "runs on"), graph.text(loader[1], "dog " * 119)
    result, [cut, whole] = bench.outcome(graph, long, short)
    assert cut[0][0].shape == (1, 120, 24)
    assert torch.equal(cut[0][0], whole[0][0])
    [line] = result.outputs[long.id]["text"]
    assert line.startswith("The prompt is longer than 120 tokens; the last ")
    assert line.endswith("were cut: “runs on”.")
    assert short.id not in result.outputs


def test_chinese_prompt_is_emptied_and_the_node_says_so(bench):
    graph = Graph()
    loader = graph.load()
    chinese, mixed, empty = (graph.text(loader[1], text) for text in ("一只狗在公园里跑", "a dog 狗", ""))
    kept = graph.text(loader[1], "一只狗在公园里跑", clean=False)
    result, [cleaned, nothing, raw] = bench.outcome(graph, chinese, empty, kept)
    assert torch.equal(cleaned[0][0], nothing[0][0])
    assert raw[0][0].shape[1] > 1
    [line] = result.outputs[chinese.id]["text"]
    assert line.startswith("Cleaning left nothing of this prompt")
    assert "write it in English" in line
    assert kept.id not in result.outputs
    assert mixed.id not in result.outputs, "it was not asked for"
    result, _ = bench.outcome(graph, mixed)
    assert result.outputs[mixed.id]["text"][0].startswith("Cleaning removed the words that are not in Latin")


# Conditioning and latents


def _plain(graph, loader, latent=None):
    """Text conditioning that did not pass through EasyAnimateV3ImageToVideo."""
    return {
        0: graph.text(loader[1], PROMPT)[0],
        1: graph.text(loader[1], NEGATIVE)[0],
        2: graph.clip(loader)[2] if latent is None else latent[0],
    }


def _samplers(graph):
    return graph.sample, graph.ksample, graph.sample_custom


@pytest.mark.parametrize("sampler", range(3), ids=["EasyAnimateV3Sampler", "KSampler", "SamplerCustom"])
class TestSampling:
    def test_text_without_the_conditioning_node(self, bench, sampler):
        graph = Graph()
        loader = graph.load()
        message = bench.refusal(graph, _samplers(graph)[sampler](loader, _plain(graph, loader)))
        assert "the conditioning has no EasyAnimateV3 frames in it" in message
        assert "put EasyAnimateV3ImageToVideo between the text encoders and the sampler" in message

    def test_latent_of_another_size(self, bench, sampler):
        graph = Graph()
        loader = graph.load()
        other = graph.clip(loader, width=48, length=16)
        message = bench.refusal(graph, _samplers(graph)[sampler](loader, graph.clip(loader), latent=other[2]))
        assert "a latent of 32x32 pixels and 2 latent frames" in message
        assert "one of 48x32 pixels and 4 latent frames" in message
        assert "from the same EasyAnimateV3ImageToVideo" in message

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_latent_that_is_not_finite(self, bench, sampler, value):
        graph = Graph()
        loader = graph.load()
        samples = torch.ones(1, 4, 2, 4, 4)
        samples[0, 1, 1, 2, 3] = value
        latent = bench.give_latent(graph, samples)
        message = bench.refusal(graph, _samplers(graph)[sampler](loader, graph.clip(loader), latent=latent))
        assert "holds NaN or infinite values" in message
        assert "make it anew" in message

    def test_image_latent_is_one_frame(self, bench, sampler):
        # [batch, 4, height, width], as EmptyLatentImage makes it.
        graph = Graph()
        loader = graph.load()
        image = graph.add("EmptyLatentImage", width=32, height=32, batch_size=1)
        one = graph.clip(loader, length=1)
        node = _samplers(graph)[sampler](loader, one, latent=image)
        assert bench.latent(graph, node).shape == (1, 4, 1, 4, 4)

    def test_image_latent_for_a_video(self, bench, sampler):
        graph = Graph()
        loader = graph.load()
        image = graph.add("EmptyLatentImage", width=32, height=32, batch_size=1)
        message = bench.refusal(graph, _samplers(graph)[sampler](loader, graph.clip(loader), latent=image))
        assert "one of 32x32 pixels and 1 latent frames" in message

    def test_latent_of_another_model(self, bench, sampler):
        graph = Graph()
        loader = graph.load()
        latent = bench.give_latent(graph, torch.ones(1, 16, 2, 4, 4))
        message = bench.refusal(graph, _samplers(graph)[sampler](loader, graph.clip(loader), latent=latent))
        assert "samples latents of 4 channels, but this one has 16 channels" in message
        assert "take the latent of EasyAnimateV3ImageToVideo" in message

    def test_text_states_of_another_width(self, bench, sampler):
        graph = Graph()
        loader = graph.load()
        text = bench.give(graph, [[torch.zeros(1, 77, 768), {}]])
        clip = graph.frames(text, text, loader[2])
        message = bench.refusal(graph, _samplers(graph)[sampler](loader, clip))
        assert "the text states are 768 wide, but this transformer reads 24" in message
        assert "encode the prompt with its T5 encoder" in message


def test_pndm_with_too_few_steps(bench):
    graph = Graph()
    loader = graph.load()
    message = bench.refusal(graph, graph.sample(loader, graph.clip(loader), sampler_name="PNDM", steps=3))
    assert message == "PNDM needs at least 4 steps, not 3."


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("node", ["EasyAnimateV3VAEDecode", "VAEDecode"])
def test_latent_to_decode_that_is_not_finite(bench, node, value):
    graph = Graph()
    samples = torch.zeros(1, 4, 2, 4, 4)
    samples[0, 0, 0, 0, 0] = value
    options = {"smoothing": False, "tiling": True} if node == "EasyAnimateV3VAEDecode" else {}
    decode = graph.add(node, samples=bench.give_latent(graph, samples), vae=graph.load()[2], **options)
    message = bench.refusal(graph, decode)
    assert "the latent to decode holds NaN or infinite values" in message
    assert "sample it anew" in message


@pytest.mark.parametrize("shape", [(1, 4, 4, 4), (1, 16, 2, 4, 4)], ids=["image", "16 channels"])
def test_latent_to_decode_of_another_kind(bench, shape):
    graph = Graph()
    latent = bench.give_latent(graph, torch.zeros(shape))
    decode = graph.add(
        "EasyAnimateV3VAEDecode", samples=latent, vae=graph.load()[2], smoothing=False, tiling=True
    )
    if len(shape) == 4:
        assert bench.value(graph, decode).shape == (1, 32, 32, 3)
    else:
        message = bench.refusal(graph, decode)
        assert "[batch, 4, frames, height, width], not [1, 16, 2, 4, 4]" in message
        assert "they may come from another model" in message


# Other models


@pytest.fixture(scope="module")
def image_vae(host):
    """The host's own VAE around a small image autoencoder."""
    import comfy.sd
    from comfy.taesd.taesd import TAESD

    return comfy.sd.VAE(sd={k: v for k, v in TAESD().state_dict().items() if k != "vae_scale"})


def test_vae_of_another_model(bench, image_vae):
    graph = Graph()
    loader = graph.load()
    vae = bench.give(graph, image_vae)
    text = graph.text(loader[1])
    latent = bench.give_latent(graph, torch.zeros(1, 4, 2, 4, 4))
    nodes = (
        graph.frames(text, text, vae),
        graph.add("EasyAnimateV3VAEEncode", pixels=graph.picture(), vae=vae, tiling=True),
        graph.add("EasyAnimateV3VAEDecode", samples=latent, vae=vae, smoothing=True, tiling=True),
    )
    for node in nodes:
        single = Graph()
        single.prompt = dict(graph.prompt)
        message = bench.refusal(single, node)
        assert "this VAE is another model's, but EasyAnimateV3 needs its Slice VAE" in message
        assert "connect the VAE of EasyAnimateV3Loader or EasyAnimateV3VAELoader" in message


def test_clip_vision_embedding_of_another_width(bench):
    graph = Graph()
    loader = graph.load()
    output = bench.give(graph, {"image_embeds": torch.zeros(1, 1024)})
    clip = graph.clip(loader, start=graph.picture(), clip_vision_output=output)
    message = bench.refusal(graph, clip)
    assert "has shape [1, 1024], but EasyAnimateV3 reads [1, 768]" in message
    assert "CLIP ViT-L/14" in message


@pytest.mark.parametrize("kind", ["text encoder", "CLIP vision model"])
def test_loader_that_found_nothing(bench, kind):
    # The host's checkpoint loaders put None on a link when the file has no such part.
    graph = Graph()
    nothing = bench.give(graph, None)
    if kind == "text encoder":
        node = graph.text(nothing)
    else:
        node = graph.add("EasyAnimateV3ImageEncode", clip_vision=nothing, image=graph.picture())
    assert f"there is no {kind}" in bench.refusal(graph, node)


# Output


def _save(graph, prefix):
    images = graph.add("EmptyImage", width=32, height=32, batch_size=2, color=0)
    return graph.add("EasyAnimateV3SaveVideo", images=images, filename_prefix=prefix, fps=24.0, crf=23)


def _unsaved(bench, prefix, linked=False):
    graph = Graph()
    node = _save(graph, bench.give(graph, prefix) if linked else prefix)
    result = bench.host.run(graph.prompt)
    assert not result.success
    assert result.error["node_id"] == node.id
    assert is_one_sentence(result.error_message), result.error_message
    return result.error_message


@pytest.mark.parametrize("prefix", ["taken/clip", "taken/below/clip"])
def test_output_folder_that_cannot_be_written_to(bench, host, prefix):
    # A file where the folder should be stops everyone, the superuser too.
    taken = host.base / "output" / "taken"
    taken.write_text("a file")
    message = _unsaved(bench, prefix)
    assert str(taken) in message
    assert "choose another" in message
    assert taken.read_text() == "a file"


@pytest.mark.parametrize("prefix", ["../outside/clip", "clip\n"])
def test_prefix_that_cannot_be_used_is_told_before_anything_runs(bench, prefix):
    graph = Graph()
    node = _save(graph, prefix)
    result = bench.host.run(graph.prompt)
    assert not result.executed
    assert is_one_sentence(result.refused_input(node.id, "filename_prefix"))


@pytest.mark.parametrize("prefix", ["../outside/clip", "/outside/clip"])
def test_output_outside_the_output_folder(bench, host, prefix):
    message = _unsaved(bench, prefix, linked=True)
    assert "outside the output folder" in message
    assert str(host.base / "output") in message
    assert not (host.base / "outside").exists()


def test_more_steps_than_a_schedule_has(bench):
    graph = Graph()
    loader = graph.load()
    message = bench.refusal(graph, graph.sample(loader, graph.clip(loader), steps=500, denoise=0.25))
    assert "take at most 250 steps or a higher denoise" in message
