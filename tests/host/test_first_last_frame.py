"""First and last frames: which positions of the clip they take, and their CLIP embeddings."""

import pytest
import torch
from graphs import Graph

SCALE = 0.18215
BLACK, UNKNOWN, KNOWN = 0.0, 1.0, 0.5


def pictures(count, seed):
    return torch.rand(count, 32, 32, 3, generator=torch.Generator().manual_seed(seed))


def inpaint(bench, start, end, length=16):
    """Return what the node tells the model of given frames, ``[1, 8, latent frames, 4, 4]``."""
    graph = Graph()
    clip = graph.clip(
        graph.load(), start=bench.give(graph, start), end_image=bench.give(graph, end), length=length
    )
    return bench.value(graph, clip)[0][1]["easyanimate_inpaint"]


def encoded(bench, frames):
    graph = Graph()
    latent = graph.add("VAEEncode", pixels=bench.give(graph, frames), vae=graph.load()[2])
    return bench.latent(graph, latent) * SCALE


@pytest.mark.parametrize(("starts", "ends"), [(1, 1), (3, 2), (1, 8), (9, 7)])
def test_images_of_a_batch_are_the_first_and_last_frames(bench, starts, ends):
    start, end = pictures(starts, 1), pictures(ends, 2)
    between = 16 - starts - ends
    video = torch.cat([start, torch.full((between, 32, 32, 3), BLACK), end])
    # The mask's 0 and 1 are pixel values of a video in [-1, 1].
    mask = torch.cat([torch.full((count, 32, 32, 3), KNOWN) for count in (starts, between, ends)])
    mask[starts : starts + between] = UNKNOWN
    expected = torch.cat([encoded(bench, mask), encoded(bench, video)], dim=1)
    torch.testing.assert_close(inpaint(bench, start, end), expected)


def test_more_images_than_frames(bench):
    graph = Graph()
    start, end = (bench.give(graph, pictures(count, 1)) for count in (7, 2))
    message = bench.refusal(graph, graph.clip(graph.load(), start=start, end_image=end, length=8))
    assert "7 start and 2 end frames do not fit in a clip of 8 frames" in message
    assert "make the clip longer" in message


class TestEmbeddings:
    @pytest.fixture
    def embeds(self):
        return torch.randn(2, 1, 768, generator=torch.Generator().manual_seed(0)).unbind()

    def attached(self, bench, start=None, end=None, **options):
        """Return the embedding that the positive conditioning carries, if any, and that of the negative."""
        graph = Graph()
        outputs = {"clip_vision_output": start, "clip_vision_output_end": end}
        for name, embeds in outputs.items():
            if embeds is not None:
                options[name] = bench.give(graph, {"image_embeds": embeds})
        clip = graph.clip(graph.load(), start=graph.picture(), end_image=graph.picture(), **options)
        return [
            conditioning[0][1].get("easyanimate_clip_embeds")
            for conditioning in bench.value(graph, clip[0], clip[1])
        ]

    @pytest.mark.parametrize("mix", [0.0, 0.25, 1.0])
    def test_two_are_mixed(self, bench, embeds, mix):
        positive, negative = self.attached(bench, *embeds, clip_mix=mix)
        torch.testing.assert_close(positive, (1 - mix) * embeds[0] + mix * embeds[1])
        assert negative is None

    def test_half_of_each_by_default(self, bench, embeds):
        torch.testing.assert_close(self.attached(bench, *embeds)[0], (embeds[0] + embeds[1]) / 2)

    @pytest.mark.parametrize("mix", [0.0, 1.0])
    def test_one_alone_is_taken_as_it_is(self, bench, embeds, mix):
        start, end = embeds
        assert torch.equal(self.attached(bench, start=start, clip_mix=mix)[0], start)
        assert torch.equal(self.attached(bench, end=end, clip_mix=mix)[0], end)
        assert self.attached(bench, clip_mix=mix) == [None, None]

    def test_mix_reaches_the_model(self, bench):
        graph = Graph()
        loader = graph.load()
        start, end = graph.picture(), graph.picture(color=0xF0F0F0)
        outputs = [
            graph.add("EasyAnimateV3ImageEncode", clip_vision=loader[3], image=image)
            for image in (start, end)
        ]
        latents = [
            graph.sample(
                loader,
                graph.clip(
                    loader,
                    start=start,
                    end_image=end,
                    clip_vision_output=outputs[0],
                    clip_vision_output_end=outputs[1],
                    clip_mix=mix,
                ),
            )
            for mix in (0.0, 0.5)
        ]
        one, both = (latent["samples"] for latent in bench.value(graph, *latents))
        assert not torch.equal(one, both)

    def test_embedding_of_another_width(self, bench, embeds):
        graph = Graph()
        output = bench.give(graph, {"image_embeds": torch.zeros(1, 1024)})
        clip = graph.clip(graph.load(), start=graph.picture(), clip_vision_output_end=output)
        message = bench.refusal(graph, clip)
        assert "embedding in clip_vision_output_end has shape [1, 1024]" in message
