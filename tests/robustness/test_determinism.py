"""The same seed gives the same bits: run after run, whatever ran before, in another process, beside other clips."""

import gc
import shutil

import pytest
import torch
from forms import either
from graphs import Graph
from safetensors.torch import load_file
from soak_prompts import digest as file_digest
from soak_stages import RELEASE_SAMPLERS, add_long_video, digest, every_stage

from devtools import base_directory
from devtools.golden import relative_error
from devtools.host_server import HostServer

RUNS = either(3, 20)
CLIPS = 3


@pytest.fixture
def start(bench):
    """Function that adds the start image to a graph, as a new value that is in no cache."""
    image = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(1))
    return lambda graph: bench.give(graph, image)


def _saved(bench, result, node):
    [image] = result.outputs[node.id]["images"]
    return bench.host.base / "output" / image["subfolder"] / image["filename"]


def _digests(bench, start, salt):
    """Run every stage and return the digest of each."""
    graph, links = every_stage(start, salt)
    film = add_long_video(graph, links, "determinism/long")
    saved = graph.add(
        "EasyAnimateV3SaveVideo",
        images=links["decode"],
        filename_prefix="determinism/clip",
        fps=24.0,
        crf=17,
    )
    result, values = bench.outcome(graph, *links.values())
    found = dict(zip(links, map(digest, values), strict=True))
    worked = {film.id, *(links[stage].id for stage in links if stage != "conditioning")}
    assert not worked & set(result.cached)
    for name, node in (("long video", film), ("saved video", saved)):
        path = _saved(bench, result, node)
        found[name] = file_digest(path)
        path.unlink()
    return found


def _nothing(bench, start):
    """Leave models and caches as they are."""


def _reload(bench, start):
    # What the server does on /free.
    import comfy.model_management

    comfy.model_management.unload_all_models()
    bench.host.forget()
    gc.collect()


def _forget(bench, start):
    bench.host.forget()


def _run_other(bench, start, **kind):
    graph, links = every_stage(start, previous=kind)
    bench.value(graph, *(links[name] for name in ("Euler", "smoothed decode", "encode")))


def _other_size(bench, start):
    _run_other(bench, start, side=64, length=16)


def _lora(bench, start):
    _run_other(bench, start, lora=True)


def _other_dtype(bench, start):
    _run_other(bench, start, weight_dtype="fp8_e4m3fn")


def _unload(bench, start):
    import comfy.model_management

    comfy.model_management.unload_all_models()


def _cancelled(bench, start):
    graph, links = every_stage(start)
    bench.host.on_progress = lambda node_id, value, total: (
        bench.host.interrupt() if node_id == links["PNDM"].id else None
    )
    try:
        graph.add("TestTake", name="cancelled", value=links["PNDM"])
        assert bench.host.run(graph.prompt).interrupted
    finally:
        bench.host.on_progress = None


def _others(bench, start):
    _lora(bench, start)
    _other_size(bench, start)


BEFORE = either(
    [_others, _reload],
    [_lora, _other_size, _reload, _other_dtype, _nothing, _unload, _cancelled, _forget, _others],
)


def test_every_stage_gives_the_same_bits_whatever_ran_before(bench, start, monkeypatch, figure):
    import comfy.cli_args
    from latent_preview import LatentPreviewMethod

    # A test before this one may have left the same loader in the cache.
    bench.host.forget()
    expected = _digests(bench, start, 0)
    for number in range(1, RUNS):
        before = BEFORE[(number - 1) % len(BEFORE)]
        before(bench, start)
        if number % 2:
            monkeypatch.setattr(comfy.cli_args.args, "preview_method", LatentPreviewMethod.NoPreviews)
        found = _digests(bench, start, number)
        monkeypatch.undo()
        other = [stage for stage in expected if found[stage] != expected[stage]]
        assert not other, f"{other} differ after {before.__name__}"
    figure("runs", RUNS)
    figure("stages compared", list(expected))


@pytest.fixture
def one_thread_server(tmp_path, tiny_checkpoint, monkeypatch):
    """Function that starts a new server process of as many threads as this one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    servers = []

    def start():
        base = base_directory.prepare(tmp_path / str(len(servers)), True, tiny_checkpoint)
        servers.append(HostServer(base, log=base / "server.log"))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def _file_graph():
    """Return a graph of files alone, that any host can run."""
    graph, links = every_stage(lambda graph: graph.picture())
    for name in ("Euler", "Euler A", "KSampler"):
        graph.add("SaveLatent", samples=links[name], filename_prefix=f"process/{name}")
    for name in ("smoothed decode", "extend video"):
        graph.add(
            "EasyAnimateV3SaveVideo",
            images=links[name],
            filename_prefix=f"process/{name}",
            fps=24.0,
            crf=1,
        )
    return graph.prompt


def _trivial():
    graph = Graph()
    graph.add("PreviewImage", images=graph.picture())
    return graph.prompt


def _files(base):
    """Return what the files below ``process`` hold: latents as digests, videos as their bytes."""
    folder = base / "output" / "process"
    found = {}
    for path in sorted(folder.iterdir()):
        found[path.name] = digest(load_file(path)) if path.suffix == ".latent" else path.read_bytes()
    shutil.rmtree(folder)
    return found


def test_another_process_gives_the_same_bits(bench, one_thread_server, figure):
    bench.host.forget()
    prompt = _file_graph()
    result = bench.host.run(prompt)
    assert result.success, bench.explain(result)
    expected = _files(bench.host.base)
    assert len(expected) == 5
    processes = either(1, 3)
    for _ in range(processes):
        server = one_thread_server()
        server.run(prompt)
        assert _files(server.base) == expected
        server.post("/free", {"unload_models": True, "free_memory": True})
        # The flag may be read after the next run only, so one that is cheap.
        server.run(_trivial())
        server.run(prompt)
        assert _files(server.base) == expected
        server.stop()
    figure("processes compared", processes + 1)


def _clip(graph, loader, latent):
    """Return an image-to-video clip on a given latent, with an empty negative prompt of a single token."""
    start = graph.picture()
    embed = graph.add("EasyAnimateV3ImageEncode", clip_vision=loader[3], image=start)
    texts = graph.text(loader[1]), graph.text(loader[1], "")
    clip = graph.frames(*texts, loader[2], start_image=start, clip_vision_output=embed)
    return [clip[0], clip[1], latent]


def _sampled(bench, sampler, places, **clip):
    """Sample the clips of these places in a batch; return their latents, frames and model calls."""
    graph = Graph()
    loader = graph.load()
    model = graph.add("TestCountCalls", model=loader)
    empty = torch.zeros(len(places), 4, 2, 4, 4)
    latent = bench.give_latent(graph, empty, batch_index=list(places))
    if sampler == "KSampler":
        samples = graph.ksample(model, _clip(graph, loader, latent))
    else:
        options = {"sampler_name": sampler, "steps": RELEASE_SAMPLERS[sampler]}
        samples = graph.sample(model, _clip(graph, loader, latent), **options)
    decoded = {"samples": samples, "vae": loader[2], "tiling": True}
    smoothed = graph.add("EasyAnimateV3VAEDecode", smoothing=True, **decoded)
    core = graph.add("VAEDecode", samples=samples, vae=loader[2])
    calls = bench.model_calls
    latents, *frames = bench.value(graph, samples, smoothed, core)
    frames = [images.unflatten(0, (len(places), -1)) for images in frames]
    return [latents["samples"], *frames], bench.model_calls - calls


@pytest.fixture
def threads():
    """Function that sets the number of threads for the test."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


@pytest.mark.parametrize("count", either([1], [1, 2, 3]))
@pytest.mark.parametrize("sampler", [*RELEASE_SAMPLERS, "KSampler"])
def test_neighbours_in_a_batch_do_not_change_a_clip(bench, threads, sampler, count):
    threads(count)
    together, _ = _sampled(bench, sampler, range(CLIPS))
    for place in either([0, CLIPS - 1], range(CLIPS)):
        alone, _ = _sampled(bench, sampler, [place])
        same = [torch.equal(whole[place], one[0]) for whole, one in zip(together, alone, strict=True)]
        assert same == [True] * 3, f"clip {place}: latent, smoothed frames, core frames"
    if sampler == "Euler":
        pair, _ = _sampled(bench, sampler, [2, 0])
        assert torch.equal(pair[0], together[0][[2, 0]])
    assert not torch.equal(together[0][0], together[0][1])


def test_step_noise_belongs_to_the_place_in_the_batch(bench):
    (latents, *_), _ = _sampled(bench, "Euler A", [1, 1, 2])
    assert torch.equal(latents[0], latents[1])
    assert relative_error(latents[2], latents[0]) > 0.1


def test_free_memory_of_the_machine_does_not_change_a_clip(bench, monkeypatch):
    """Where memory is short the host runs the sides of the guidance one after the other, and decodes clip by clip."""
    import comfy.model_management

    together, few = _sampled(bench, "Euler", range(CLIPS))
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_, **__: 0)
    bench.host.forget()
    apart, many = _sampled(bench, "Euler", range(CLIPS))
    assert many == 2 * few
    assert all(map(torch.equal, together, apart))


def _vae(bench):
    graph = Graph()
    return bench.value(graph, graph.load()[2]).first_stage_model


@pytest.mark.parametrize("frames", [8, 16])
def test_kept_even_slices_do_not_change_a_latent(bench, frames):
    vae = _vae(bench)
    start = torch.full((1, 3, frames, 32, 32), -1.0)
    start[:, :, 0] = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(frames))
    clips = [start, *(torch.full_like(start, value) for value in (-1.0, 1.0, 0.0))]
    with torch.inference_mode():
        cold = []
        for clip in clips:
            vae.forget_even_slices()
            cold.append(vae.encode(clip))
        vae.encode(torch.full((1, 3, frames, 48, 32), -1.0))
        vae.encode(torch.full((2, 3, frames, 32, 32), -1.0))
        for _ in range(2):
            assert all(
                torch.equal(vae.encode(clip), latent) for clip, latent in zip(clips, cold, strict=True)
            )
        assert torch.equal(vae.encode(torch.cat(clips)), torch.cat(cold))


def test_decoded_clips_of_a_batch_are_those_of_single_clips(bench):
    vae = _vae(bench)
    for latents in (3, 4):
        z = torch.randn(2, 4, latents, 4, 4, generator=torch.Generator().manual_seed(latents))
        with torch.inference_mode():
            for smoothing in (False, True):
                both = vae.decode(z, smoothing=smoothing)
                alone = [vae.decode(one, smoothing=smoothing) for one in z.split(1)]
                assert torch.equal(both, torch.cat(alone)), (latents, smoothing)


def test_frames_cut_out_of_several_clips_come_into_the_fast_layout(bench):
    """In another one the exact GroupNorm does not take them."""
    cut = torch.rand(2, 8, 4, 3, 3).to(memory_format=torch.channels_last_3d)[:, :, 1:3]
    with torch.inference_mode():
        fast = bench.core("vae.convolution").fast_layout(cut)
    assert fast.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(fast, cut)


def test_number_of_threads_changes_a_clip_by_rounding_alone(bench, threads, figure):
    """Kernels share out sums by it, so that bits are promised for equal numbers of threads only."""
    graph = Graph()
    loader = graph.load()
    sampled = graph.sample(loader, graph.clip(loader), steps=1)
    one = bench.latent(graph, sampled)
    threads(2)
    two, again = (_anew(bench, graph, sampled) for _ in range(2))
    assert torch.equal(again, two)
    error = relative_error(two, one)
    figure("latent on 2 threads against 1, relative", error)
    assert error < 1e-4


def _anew(bench, graph, link):
    bench.host.forget()
    return bench.latent(graph, link)


def test_equal_frames_give_equal_files(bench):
    """The prompt inside included; what was saved in between does not matter."""
    graph = Graph()
    frames = torch.rand(8, 32, 48, 3, generator=torch.Generator().manual_seed(5))
    saved = graph.add(
        "EasyAnimateV3SaveVideo",
        images=bench.give(graph, frames),
        filename_prefix="determinism/equal",
        fps=8.0,
        crf=17,
    )
    files = set()
    for _ in range(either(3, 20)):
        bench.host.forget()
        path = _saved(bench, bench.run(graph), saved)
        files.add(path.read_bytes())
        path.unlink()
        _other_save(bench)
    assert len(files) == 1


def _other_save(bench):
    graph = Graph()
    graph.add(
        "EasyAnimateV3SaveVideo",
        images=bench.give(graph, torch.rand(3, 64, 32, 3)),
        filename_prefix="determinism/other",
        fps=24.0,
        crf=30,
    )
    bench.run(graph)
