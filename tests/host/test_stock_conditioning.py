"""The host's nodes for CONDITIONING and LATENT between our nodes: each does to a clip what it is for."""

import pytest
import torch
from graphs import NEGATIVE, PROMPT, Graph

from devtools.golden import relative_error

OTHER = "A red car on a street at night, seen from above"


class Scene:
    """One graph with two prompts on one clip, sampled by KSampler from the same noise."""

    def __init__(self, **options):
        self.graph = Graph()
        self.loader = self.graph.load()
        self.options = options
        self.negative = self.text(NEGATIVE)

    def text(self, text, node="EasyAnimateV3TextEncode", **options):
        if node == "EasyAnimateV3TextEncode":
            options = {"clean": True} | options
        return self.graph.add(node, clip=self.loader[1], text=text, **options)

    def frames(self, positive):
        return self.graph.frames(positive, self.negative, self.loader[2], **self.options)

    def sample(self, positive, **options):
        """Sample text conditioning that goes through Image To Video."""
        return self.graph.ksample(self.loader, self.frames(positive), **{"steps": 4} | options)

    def sample_prepared(self, positive, clip, **options):
        """Sample conditioning that was changed after Image To Video."""
        parts = {0: positive, 1: clip[1], 2: clip[2]}
        return self.graph.ksample(self.loader, parts, **{"steps": 4} | options)


def samples(bench, graph, *links):
    values = bench.value(graph, *links)
    return [value["samples"] for value in (values if len(links) > 1 else [values])]


def test_padding_of_a_text_is_not_read(bench):
    scene = Scene()
    text = scene.text(PROMPT)
    [[states, options]] = bench.value(scene.graph, text)
    noise = torch.randn(1, 5, states.shape[2], generator=torch.Generator().manual_seed(5))
    mask = torch.tensor([[1] * states.shape[1] + [0] * 5])
    padded = [[torch.cat([states, noise], dim=1), {**options, "attention_mask": mask}]]
    both = scene.sample(text), scene.sample(bench.give(scene.graph, padded))
    expected, actual = samples(bench, scene.graph, *both)
    assert relative_error(actual, expected) < 1e-5


class TestWeights:
    @pytest.mark.parametrize("node", ["EasyAnimateV3TextEncode", "CLIPTextEncode"])
    def test_a_words_weight_scales_its_states_away_from_the_empty_prompt(self, bench, node):
        scene = Scene()
        options = {"clean": False} if node == "EasyAnimateV3TextEncode" else {}
        texts = [
            scene.text(text, node, **options)
            for text in (
                "a dog on grass",
                "a (dog:1.5) on grass",
                "a (dog:0.5) on grass",
                "a (dog:1.0) on grass",
            )
        ]
        plain, more, less, same = (text[0][0] for text in bench.value(scene.graph, *texts))
        assert torch.equal(same, plain)
        assert plain.shape == more.shape
        changed = (more - plain).abs().amax(dim=-1)[0] > 1e-6
        assert 0 < changed.sum() < plain.shape[1]
        # Half more and half less are the same way in opposite directions.
        assert relative_error(more - plain, plain - less) < 1e-4

    def test_weights_reach_the_video(self, bench):
        scene = Scene()
        plain, heavy = samples(
            bench,
            scene.graph,
            *(
                scene.sample(scene.text(text, clean=False))
                for text in ("a dog on grass", "a (dog:1.6) on grass")
            ),
        )
        assert relative_error(heavy, plain) > 1e-4

    def test_core_text_encode_does_as_well(self, bench):
        scene = Scene()
        text = PROMPT.lower()
        ours, core = samples(
            bench,
            scene.graph,
            *(scene.sample(scene.text(text, node)) for node in ("EasyAnimateV3TextEncode", "CLIPTextEncode")),
        )
        assert torch.equal(ours, core)


class TestCombining:
    def test_combine_averages_two_predictions(self, bench):
        scene = Scene()
        one, two = scene.text(PROMPT), scene.text(OTHER)

        def combined(first, second):
            return scene.graph.add("ConditioningCombine", conditioning_1=first, conditioning_2=second)

        links = [
            scene.sample(text)
            for text in (one, two, combined(one, two), combined(two, one), combined(one, one))
        ]
        first, second, both, swapped, twice = samples(bench, scene.graph, *links)
        assert relative_error(swapped, both) < 1e-5
        assert relative_error(twice, first) < 1e-5
        whole = relative_error(second, first)
        assert 0.05 * whole < relative_error(both, first) < whole
        assert 0.05 * whole < relative_error(both, second) < whole

    def test_average_goes_from_one_prompt_to_the_other(self, bench):
        scene = Scene()
        # The node cuts or pads the second prompt to as many tokens as the first has.
        one, two = scene.text("a dog in the park"), scene.text("the park in a dog")

        def average(strength):
            return scene.graph.add(
                "ConditioningAverage",
                conditioning_to=one,
                conditioning_from=two,
                conditioning_to_strength=strength,
            )

        links = [scene.sample(text) for text in (one, two, average(1.0), average(0.0), average(0.5))]
        first, second, to, back, middle = samples(bench, scene.graph, *links)
        assert torch.equal(to, first)
        assert relative_error(back, second) < 1e-6
        assert relative_error(second, first) > 1e-4
        # The average is taken of the states, so its video is a third one.
        assert relative_error(middle, first) > 1e-4 < relative_error(middle, second)

    def test_concat_reads_both_prompts(self, bench):
        scene = Scene()
        one, two = scene.text(PROMPT), scene.text(OTHER)
        both = scene.graph.add("ConditioningConcat", conditioning_to=one, conditioning_from=two)
        first, second, joined = samples(
            bench, scene.graph, *(scene.sample(text) for text in (one, two, both))
        )
        assert relative_error(joined, first) > 1e-4
        assert relative_error(joined, second) > 1e-4

    @pytest.mark.parametrize("before", [True, False], ids=["before Image To Video", "after Image To Video"])
    def test_timestep_ranges_take_turns(self, bench, before):
        # Stopping where the ranges meet and going on with the other prompt is the same.
        scene = Scene()
        texts = scene.text(PROMPT), scene.text(OTHER)
        clips = [scene.frames(text) for text in texts]

        def ranged(conditioning, start, end):
            return scene.graph.add(
                "ConditioningSetTimestepRange", conditioning=conditioning, start=start, end=end
            )

        parts = texts if before else [clip[0] for clip in clips]
        both = scene.graph.add(
            "ConditioningCombine",
            conditioning_1=ranged(parts[0], 0.0, 0.25),
            conditioning_2=ranged(parts[1], 0.25, 1.0),
        )
        in_turns = scene.sample(both) if before else scene.sample_prepared(both, clips[0])

        def part(clip, latent, start, end):
            return scene.graph.add(
                "KSamplerAdvanced",
                model=scene.loader,
                positive=clip[0],
                negative=clip[1],
                latent_image=latent,
                add_noise="enable" if start == 0 else "disable",
                noise_seed=3,
                steps=4,
                cfg=7.0,
                sampler_name="euler",
                scheduler="normal",
                start_at_step=start,
                end_at_step=end,
                return_with_leftover_noise="enable" if end < 4 else "disable",
            )

        # A quarter is timestep 749: of the four steps (999, 666, 333, 0) all but the first are below it.
        split = part(clips[1], part(clips[0], clips[0][2], 0, 1), 1, 4)
        one, two, first = samples(bench, scene.graph, in_turns, split, scene.sample(texts[0]))
        assert relative_error(one, two) < 1e-5
        assert relative_error(one, first) > 1e-4

    def test_zeroed_out_prompt_is_another_one(self, bench):
        scene = Scene()
        text = scene.text(PROMPT)
        zero = scene.graph.add("ConditioningZeroOut", conditioning=text)
        first, second = samples(bench, scene.graph, scene.sample(text), scene.sample(zero))
        assert relative_error(second, first) > 1e-4

    def test_a_mask_limits_a_prompt_to_its_place(self, bench):
        scene = Scene()
        one, two = scene.text(PROMPT), scene.text(OTHER)
        mask = torch.zeros(1, 32, 32)
        mask[..., :16] = 1
        limited = scene.graph.add(
            "ConditioningSetMask",
            conditioning=two,
            mask=bench.give(scene.graph, mask),
            strength=1.0,
            set_cond_area="default",
        )
        inverse = scene.graph.add(
            "ConditioningSetMask",
            conditioning=one,
            mask=bench.give(scene.graph, 1 - mask),
            strength=1.0,
            set_cond_area="default",
        )
        both = scene.graph.add("ConditioningCombine", conditioning_1=limited, conditioning_2=inverse)
        # One step, so that neither side sees what the other became.
        links = [scene.sample(text, steps=1, cfg=1.0) for text in (one, two, both)]
        first, second, sides = samples(bench, scene.graph, *links)
        half = first.shape[-1] // 2
        assert relative_error(sides[..., :half], second[..., :half]) < 1e-5
        assert relative_error(sides[..., half:], first[..., half:]) < 1e-5
        assert relative_error(second, first) > 1e-4


class TestGuiders:
    def advanced(self, scene, guider, sigmas):
        return scene.graph.add(
            "SamplerCustomAdvanced",
            noise=scene.graph.add("RandomNoise", noise_seed=3),
            guider=guider,
            sampler=scene.graph.add("KSamplerSelect", sampler_name="euler"),
            sigmas=sigmas,
            latent_image=self.clip[2],
        )

    @pytest.mark.parametrize("image", [False, True], ids=["text", "image"])
    def test_guiders_equal_ksampler(self, bench, image):
        scene = Scene()
        if image:
            picture = scene.graph.picture()
            embed = scene.graph.add("EasyAnimateV3ImageEncode", clip_vision=scene.loader[3], image=picture)
            scene.options = {"start_image": picture, "clip_vision_output": embed}
        self.clip = scene.frames(scene.text(PROMPT))
        sigmas = scene.graph.add(
            "BasicScheduler", model=scene.loader, scheduler="normal", steps=4, denoise=1.0
        )
        basic = scene.graph.add("BasicGuider", model=scene.loader, conditioning=self.clip[0])
        guided = scene.graph.add(
            "CFGGuider", model=scene.loader, positive=self.clip[0], negative=self.clip[1], cfg=7.0
        )
        dual = scene.graph.add(
            "DualCFGGuider",
            model=scene.loader,
            cond1=self.clip[0],
            cond2=self.clip[0],
            negative=self.clip[1],
            cfg_conds=1.0,
            cfg_cond2_negative=7.0,
            style="regular",
        )
        links = [self.advanced(scene, guider, sigmas) for guider in (basic, guided, dual)]
        links += [scene.graph.ksample(scene.loader, self.clip, steps=4, cfg=cfg) for cfg in (1.0, 7.0)]
        unguided, guided, dual, plain, strong = samples(bench, scene.graph, *links)
        assert relative_error(unguided, plain) < 1e-6
        assert relative_error(guided, strong) < 1e-6
        assert relative_error(dual, strong) < 1e-5
        assert relative_error(strong, plain) > 1e-3


class TestLatents:
    def test_batched_latents_are_sampled_side_by_side(self, bench):
        scene = Scene()
        clip = scene.frames(scene.text(PROMPT))
        generator = torch.Generator().manual_seed(5)
        latents = [
            bench.give_latent(scene.graph, 20 * torch.randn(1, 4, 2, 4, 4, generator=generator))
            for _ in range(2)
        ]
        latents.append(scene.graph.add("LatentBatch", samples1=latents[0], samples2=latents[1]))
        links = [
            scene.graph.ksample(scene.loader, clip, latent=latent, steps=2, denoise=0.5) for latent in latents
        ]
        one, two, both = samples(bench, scene.graph, *links)
        assert both.shape == (2, *one.shape[1:])
        assert relative_error(both, torch.cat((one, two))) < 1e-5
        assert relative_error(one, two) > 0.1

    def test_one_clip_of_a_batch_can_be_picked_before_and_after_sampling(self, bench):
        scene = Scene(batch_size=3)
        clip = scene.frames(scene.text(PROMPT))
        sampled = scene.graph.ksample(scene.loader, clip, steps=2)
        after = scene.graph.add("LatentFromBatch", samples=sampled, batch_index=1, length=1)
        before = scene.graph.add("LatentFromBatch", samples=clip[2], batch_index=1, length=1)
        one, two = samples(
            bench, scene.graph, after, scene.graph.ksample(scene.loader, clip, latent=before, steps=2)
        )
        assert relative_error(one, two) < 1e-5

    @pytest.mark.parametrize("node", ["LatentUpscaleBy", "LatentUpscale"])
    def test_second_pass_on_an_upscaled_latent_keeps_the_clip(self, bench, node):
        scene = Scene()
        text = scene.text(PROMPT)
        low = scene.sample(text, cfg=1.0)
        if node == "LatentUpscale":
            options = {"width": 64, "height": 64, "crop": "disabled"}
        else:
            options = {"scale_by": 2.0}
        upscaled = scene.graph.add(node, samples=low, upscale_method="bilinear", **options)
        scene.options = {"width": 64, "height": 64}
        clip = scene.frames(text)
        links = [
            scene.graph.ksample(scene.loader, clip, latent=upscaled, steps=4, cfg=1.0, denoise=denoise)
            for denoise in (0.3, 1.0)
        ]
        given, some, anew = samples(bench, scene.graph, upscaled, *links)
        assert given.shape == some.shape == (1, 4, 2, 8, 8)
        assert 0 < relative_error(some, given) < relative_error(anew, given)

    def test_a_noise_mask_keeps_what_it_covers(self, bench):
        scene = Scene()
        clip = scene.frames(scene.text(PROMPT))
        given = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(5)) * 20
        mask = torch.zeros(1, 32, 32)
        mask[..., 16:] = 1
        masked = scene.graph.add(
            "SetLatentNoiseMask",
            samples=bench.give_latent(scene.graph, given),
            mask=bench.give(scene.graph, mask),
        )
        (result,) = samples(
            bench, scene.graph, scene.graph.ksample(scene.loader, clip, latent=masked, steps=4)
        )
        assert relative_error(result[..., :2], given[..., :2]) < 1e-5
        assert relative_error(result[..., 2:], given[..., 2:]) > 0.1
