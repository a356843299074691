"""The host's own sampler nodes on our MODEL, and our sampler nodes against them."""

import json
import sys

import pytest
import torch
from graphs import Graph
from safetensors.torch import save_file

from devtools import tiny_checkpoint
from devtools.golden import relative_error
from easyanimate_core.sampling import NoiseSchedule, release_sigmas, release_timesteps


def _image_clip(graph, loader, **options):
    """Conditioning and latent of image-to-video with the CLIP embedding."""
    return graph.clip(loader, start=graph.picture(), embed=True, **options)


def _clip(graph, loader, with_image, **options):
    return _image_clip(graph, loader, **options) if with_image else graph.clip(loader, **options)


def _ksampler(graph, model, clip):
    return graph.ksample(model, clip, steps=3)


def _ksampler_advanced(graph, model, clip):
    return _advanced(graph, model, clip, clip[2], steps=3)


def _advanced(graph, model, clip, latent, steps, start=0, end=10000, scheduler="normal"):
    return graph.add(
        "KSamplerAdvanced",
        model=model,
        positive=clip[0],
        negative=clip[1],
        latent_image=latent,
        add_noise="enable" if start == 0 else "disable",
        noise_seed=3,
        steps=steps,
        cfg=7.0,
        sampler_name="euler",
        scheduler=scheduler,
        start_at_step=start,
        end_at_step=end,
        return_with_leftover_noise="enable" if end < steps else "disable",
    )


def _sampler_custom(graph, model, clip):
    return graph.sample_custom(model, clip, steps=3)


def _sampler_custom_advanced(graph, model, clip):
    return graph.add(
        "SamplerCustomAdvanced",
        noise=graph.add("RandomNoise", noise_seed=3),
        guider=graph.add("CFGGuider", model=model, positive=clip[0], negative=clip[1], cfg=7.0),
        sampler=graph.add("KSamplerSelect", sampler_name="euler"),
        sigmas=graph.add("EasyAnimateV3Sigmas", sampler_name="Euler", steps=3, denoise=1.0),
        latent_image=clip[2],
    )


@pytest.mark.parametrize(
    "sampler", [_ksampler, _ksampler_advanced, _sampler_custom, _sampler_custom_advanced]
)
def test_stock_sampler_node_runs_with_previews_and_progress(bench, sampler):
    graph = Graph()
    loader = graph.load()
    node = sampler(graph, loader, _image_clip(graph, loader))
    result, [latent] = bench.outcome(graph, node)
    assert latent["samples"].shape == (1, 4, 2, 4, 4)
    assert torch.isfinite(latent["samples"]).all()
    assert [(value, total) for node_id, value, total in result.progress if node_id == node.id] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    assert result.previews == 3


@pytest.mark.parametrize("steps", [4, 7])
@pytest.mark.parametrize("with_image", [False, True], ids=["text", "image"])
# The host starts a whole run at sqrt(1 + sigma^2), the release's Euler at sigma: 2e-5 apart at the last timestep.
@pytest.mark.parametrize(
    ("ours", "stock", "limit"),
    [("Euler", "euler", 5e-5), ("DPM++", "dpmpp_2m", 1e-5)],
    ids=["Euler", "DPM++"],
)
def test_release_sampler_equals_the_stock_one(bench, ours, stock, limit, with_image, steps):
    graph = Graph()
    loader = graph.load()
    clip = _clip(graph, loader, with_image)
    release = graph.sample(loader, clip, sampler_name=ours, steps=steps)
    custom = graph.sample_custom(loader, clip, stock, sampler_name=ours, steps=steps)
    expected, actual = bench.value(graph, release, custom)
    assert relative_error(actual["samples"], expected["samples"]) < limit


def test_host_reads_the_releases_schedule(bench):
    """The table that stock schedulers read is the release's, and the model gets timesteps that are not whole."""
    graph = Graph()
    sampling = bench.value(graph, graph.load()).model.model_sampling
    # The release rounds its betas to float32, the host does not: 8e-5 apart at the first timestep.
    torch.testing.assert_close(sampling.sigmas, NoiseSchedule().sigmas.float(), rtol=1e-4, atol=0)
    timesteps = release_timesteps("Euler", 25)
    assert (timesteps != timesteps.round()).any()
    read = sampling.timestep(release_sigmas("Euler", 25)[:-1])
    torch.testing.assert_close(read, timesteps, rtol=0, atol=1e-3)


def test_unclamped_ddim_equals_stock_euler_on_a_noised_latent(bench):
    # A whole run starts from noise scaled by sqrt(1 + sigma^2), which no stock sampler does below the last timestep.
    graph = Graph()
    loader = graph.load()
    clip = graph.clip(loader)
    latent = bench.give_latent(graph, _latent())
    options = {"sampler_name": "DDIM", "steps": 4, "denoise": 0.5}
    release = graph.sample(loader, clip, latent=latent, clip_sample=False, **options)
    custom = graph.sample_custom(loader, clip, "euler", latent=latent, **options)
    expected, actual = bench.value(graph, release, custom)
    assert relative_error(actual["samples"], expected["samples"]) < 1e-5


def _latent(frames=2, side=4, batch=1):
    return torch.randn(batch, 4, frames, side, side, generator=torch.Generator().manual_seed(5))


def test_clip_apply_ratio_says_when_clip_tokens_take_part(bench):
    graph = Graph()
    loader = graph.load()
    clip = _image_clip(graph, loader)
    without = graph.clip(loader, start=graph.picture())
    runs = [graph.sample(loader, clip, steps=4, clip_apply_ratio=ratio) for ratio in (1.0, 0.5, 0.0)]
    always, half, never, none = (
        latent["samples"] for latent in bench.value(graph, *runs, graph.sample(loader, without, steps=4))
    )
    assert torch.equal(never, none)
    assert not torch.equal(always, half)
    assert not torch.equal(half, never)
    # Tokens that take part longer move the result further.
    assert relative_error(always, never) > relative_error(half, never) > 1e-6


@pytest.mark.parametrize(
    ("scheduler", "steps", "split"),
    [("normal", 4, 1), ("normal", 4, 2), ("normal", 6, 4), ("simple", 4, 2), ("ddim_uniform", 4, 2)],
)
@pytest.mark.parametrize("with_image", [False, True], ids=["text", "image"])
def test_split_run_equals_one_run(bench, with_image, scheduler, steps, split):
    # With an image it also takes knowing which half of the whole run a part belongs to: CLIP tokens join in the second.
    graph = Graph()
    loader = graph.load()
    clip = _clip(graph, loader, with_image)
    whole = _advanced(graph, loader, clip, clip[2], steps, scheduler=scheduler)
    first = _advanced(graph, loader, clip, clip[2], steps, end=split, scheduler=scheduler)
    second = _advanced(graph, loader, clip, first, steps, start=split, scheduler=scheduler)
    expected, actual = bench.value(graph, whole, second)
    assert relative_error(actual["samples"], expected["samples"]) < 1e-5


@pytest.mark.parametrize("steps", [4, 7, 20])
def test_clip_tokens_join_at_the_middle_call_with_every_stock_scheduler(bench, host, steps):
    import comfy.samplers

    clip_schedule = sys.modules[f"{host.pack_module.__name__}.easyanimate_core.host.clip_schedule"]
    graph = Graph()
    sampling = bench.value(graph, graph.load()).model.model_sampling
    for scheduler in comfy.samplers.SCHEDULER_NAMES:
        sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps)
        calls = len(sigmas) - 1
        active = [
            clip_schedule.clip_active(0.5, {"sample_sigmas": sigmas, "sigmas": sigma[None]})
            for sigma in sigmas[:-1]
        ]
        assert active == [index >= calls / 2 for index in range(calls)], scheduler


@pytest.mark.parametrize("sampler", ["release", "stock"])
def test_each_clip_of_a_batch_is_sampled_on_its_own(bench, sampler):
    graph = Graph()
    loader = graph.load()
    alone, both = (_image_clip(graph, loader, batch_size=size) for size in (1, 2))
    sample = graph.sample if sampler == "release" else graph.ksample
    one, two = bench.value(graph, sample(loader, alone), sample(loader, both))
    assert two["samples"].shape == (2, 4, 2, 4, 4)
    assert torch.isfinite(two["samples"]).all()
    assert relative_error(two["samples"][:1], one["samples"]) < 1e-5
    assert relative_error(two["samples"][1:], one["samples"]) > 0.1


@pytest.mark.parametrize("sampler", ["Euler", "Euler A", "DPM++", "PNDM", "DDIM", "stock"])
def test_lower_denoise_keeps_more_of_the_latent(bench, sampler):
    graph = Graph()
    loader = graph.load()
    clip = graph.clip(loader)
    latent = bench.give_latent(graph, _latent() * 20)
    options = {"steps": 4} if sampler == "stock" else {"steps": 4, "sampler_name": sampler}
    sample = graph.ksample if sampler == "stock" else graph.sample
    runs = [sample(loader, clip, latent=latent, denoise=denoise, **options) for denoise in (0.0, 0.2, 1.0)]
    nothing, some, all_of_it = (run["samples"] for run in bench.value(graph, *runs))
    given = _latent() * 20
    assert torch.equal(nothing, given)
    assert 0 < relative_error(some, given) < relative_error(all_of_it, given)
    assert torch.isfinite(all_of_it).all()


@pytest.fixture(scope="module")
def text_to_video_file(host):
    """Name of a single file with a transformer of 4 input channels."""
    config = tiny_checkpoint.transformer_config(in_channels=4)
    folder = host.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: weight.contiguous() for name, weight in tiny_checkpoint.transformer_weights(config).items()
    }
    save_file(weights, folder / "tiny_t2v.safetensors", {"config": json.dumps(config)})
    return "tiny_t2v.safetensors"


def test_transformer_of_four_channels_makes_a_video_from_text(bench, text_to_video_file):
    graph = Graph()
    loader = graph.load()
    model = graph.add(
        "EasyAnimateV3TransformerLoader", transformer_name=text_to_video_file, weight_dtype="default"
    )
    clip = graph.clip(loader)
    # It reads no inpainting channels, so plain text conditioning serves as well.
    plain = {0: graph.text(loader[1])[0], 1: graph.text(loader[1], "blurry")[0], 2: clip[2]}
    loaded, *latents = bench.value(
        graph, model, graph.sample(model, clip), graph.ksample(model, clip), graph.ksample(model, plain)
    )
    assert loaded.model.transformer_config.in_channels == 4
    assert loaded.model.transformer_config.clip_tokens == 0
    ours, stock, bare = (latent["samples"] for latent in latents)
    for samples in (ours, stock, bare):
        assert samples.shape == (1, 4, 2, 4, 4)
        assert torch.isfinite(samples).all()
        assert samples.std() > 0.1
    assert torch.equal(stock, bare)


def test_transformer_of_four_channels_says_that_it_ignores_images(bench, text_to_video_file):
    graph = Graph()
    loader = graph.load()
    model = graph.add(
        "EasyAnimateV3TransformerLoader", transformer_name=text_to_video_file, weight_dtype="default"
    )
    silent = graph.sample(model, graph.clip(loader))
    warned = graph.sample(model, graph.clip(loader, start=graph.picture()))
    result, _ = bench.outcome(graph, silent, warned)
    assert silent.id not in result.outputs
    [line] = result.outputs[warned.id]["text"]
    assert "the start and end images are not used" in line
