"""Cancel and memory that runs out, at every stage of a workflow: nothing leaks, and the next run is right.

Each stage runs in the real host with what comes before it cached. A fault comes at one layer, tensor or progress tick of
it; afterwards the stage runs again, and must give its first result to the bit.
"""

import gc
import itertools
import json
import random
import re
import threading
import weakref
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from fault_injection import ERRORS, Allocator, raising, same, tensors, threads
from fault_stages import CORE, NO_LAYERS, NO_TICKS, SHORT_STAGES, SIZE, STAGES, Rig, rig_of
from forms import either
from graphs import Graph, is_one_sentence
from safetensors.torch import load_file

# Tensors that may still be made between the user's cancel and the end, in this pack's own code: those of a layer.
CANCEL_TENSORS = 40
# Between the last layer of a step and the first of the next one a sampler finds the timestep and the host gathers the
# inputs; PNDM does so for each call after it made its schedule. A frame of a blended segment has three histograms.
STEP_TENSORS = 50
MORE_CANCEL_TENSORS = dict.fromkeys(("Euler", "DPM++", "LoRA", "extend", "long video"), STEP_TENSORS)
MORE_CANCEL_TENSORS |= {"PNDM": 80, "blend": 60}


@pytest.fixture(scope="module", params=either(SHORT_STAGES, STAGES))
def rig(request, bench):
    """A stage, with what there was before its faults; the tests of a stage run one after the other."""
    rig = rig_of(bench, request.param)
    rig.check_next()
    rig.before = tensors(), threads()
    return rig


@pytest.fixture(autouse=True)
def no_fault_is_left(bench):
    yield
    bench.host.on_progress = None


def points(count, name, most):
    """Return the numbers from 1 to ``count`` that a fault comes at: all, or as many as ``most`` by a seeded choice."""
    if count <= most:
        return list(range(1, count + 1))
    return sorted(random.Random(name).sample(range(1, count + 1), most))


@pytest.fixture
def layers(monkeypatch):
    """Counts the calls of the host's layers, and calls ``at[n]`` once the n-th has begun."""
    import comfy.ops

    check = comfy.ops.run_every_op

    class Layers:
        calls = 0
        at = {}

        def __call__(self):
            check()
            self.calls += 1
            self.at.get(self.calls, lambda: None)()

        def restart(self, at):
            self.calls, self.at = 0, at

    layers = Layers()
    monkeypatch.setattr(comfy.ops, "run_every_op", layers)
    return layers


def check_cancelled(rig, result):
    assert result.interrupted and not result.success, (rig.stage, rig.bench.explain(result))
    assert result.error is None
    assert rig.take() is None


def test_cancel_in_a_layer(rig, layers, figure):
    layers.restart({})
    rig.check_next()
    count = layers.calls
    assert (count == 0) == (rig.stage in NO_LAYERS)
    chosen = points(count, f"layer {rig.stage}", either(1, 20))
    for point in chosen:
        layers.restart({point: rig.bench.host.interrupt})
        check_cancelled(rig, rig.run())
        assert layers.calls == point, "the next layer is not begun"
        layers.restart({})
        rig.check_next()
    figure(f"cancel in a layer: {rig.stage}", [len(chosen), count])


def test_cancel_at_a_tensor(rig, figure):
    chosen = sorted({1, *points(rig.made(), f"cancel {rig.stage}", either(1, 15))})
    late = 0
    for point in chosen:
        with Allocator(point, rig.bench.host.interrupt) as allocator:
            result = rig.run()
        check_cancelled(rig, result)
        late = max(late, allocator.since)
        result = None
        assert_freed(rig, allocator)
        rig.check_next()
        assert_gone(rig, allocator)
    figure(f"cancel at a tensor: {rig.stage}", [len(chosen), rig.made(), late])
    assert rig.stage in CORE or late <= MORE_CANCEL_TENSORS.get(rig.stage, CANCEL_TENSORS)


def test_cancel_while_colours_are_matched(bench):
    """A segment of full size takes most of a minute on a CPU, frame by frame."""
    rig = Rig(bench, "blend")
    with Allocator(rig.made() // 3, bench.host.interrupt) as allocator:
        check_cancelled(rig, rig.run())
    assert allocator.since <= MORE_CANCEL_TENSORS["blend"]


def test_cancel_while_weights_are_copied(bench, monkeypatch, figure):
    """On a machine whose host wants weights in memory of its own, gigabytes of them are copied one by one."""
    import comfy.cli_args

    monkeypatch.setattr(comfy.cli_args.args, "disable_mmap", True, raising=False)
    rig = Rig(bench, "load")
    late = []
    for point in points(rig.made(), "copied", either(2, 60)):
        with Allocator(point, bench.host.interrupt) as allocator:
            check_cancelled(rig, rig.run())
        late.append(allocator.since)
    assert max(late) <= CANCEL_TENSORS
    rig.check_next()
    figure("cancel while weights are copied", [len(late), rig.made(), max(late)])


def assert_freed(rig, allocator):
    """All tensors of a run that ended early are gone at once, unless what they are for was done and is cached."""
    if rig.keeps_results():
        return
    if rig.stage == "load" or rig.stage in CORE:
        # The host's CLIP refers to itself, and so does the error of a node of the host's.
        gc.collect()
    assert allocator.live == 0, (rig.stage, allocator.at)


def assert_gone(rig, allocator):
    """Nor does anything of it outlive the next run, but for the weights that a LoRA has changed."""
    if rig.stage == "LoRA":
        return
    if rig.stage in {"extend", *CORE}:
        # The host keeps the inputs of a node that failed, and the error of one of its own, until its next collection.
        gc.collect()
    assert allocator.live == 0, (rig.stage, allocator.at)


def test_cancel_at_every_progress_tick(rig, figure):
    seen = []
    rig.bench.host.on_progress = lambda *tick: seen.append(tick)
    rig.check_next()
    assert (not seen) == (rig.stage in NO_TICKS)
    chosen = points(len(seen), f"tick {rig.stage}", either(1, 1000))
    for tick in chosen:
        seen.clear()

        def cancel(*_tick, tick=tick):
            seen.append(tick)
            if len(seen) == tick:
                rig.bench.host.interrupt()

        rig.bench.host.on_progress = cancel
        check_cancelled(rig, rig.run())
        assert len(seen) == tick
        rig.bench.host.on_progress = None
        rig.check_next()
    figure(f"cancel at a progress tick: {rig.stage}", len(chosen))


def outcome(rig, result):
    """Return how a run ended in which memory ran out: on its own feet, with our sentence, or in the host's own node."""
    if result.success:
        assert same(rig.take(), rig.expected), rig.stage
        return "went on"
    assert not result.interrupted and rig.take() is None
    message = result.error_message
    if message.startswith("there is not enough") or " for want of " in message:
        assert is_one_sentence(message), message
        assert re.search(r"(not enough|want of) (GPU|main) memory", message), message
        assert re.search("lower|choose|take|give|make|unload", message), message
        return "sentence"
    # Before a sampler of the host's starts, it asks the model for its noise levels.
    own = [
        line
        for line in result.error["traceback"]
        if re.search(r"easyanimate_core/(?!\w+/\w*sampling|sampling)", line)
    ]
    assert rig.stage in CORE and not own, f"{rig.stage}: {rig.bench.explain(result)}"
    return "host"


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
def test_memory_runs_out(rig, lasting, figure):
    ends = {"went on": 0, "sentence": 0, "host": 0}
    seed = f"memory {lasting} {rig.stage}"
    kinds = itertools.cycle(random.Random(seed).sample(list(ERRORS), len(ERRORS)))
    for point in points(rig.made(), seed, either(1, 20)):
        kind = next(kinds)
        with Allocator(point, raising(kind), lasting) as allocator:
            result = rig.run()
        ends[outcome(rig, result)] += 1
        result = None
        assert_freed(rig, allocator)
        rig.check_next()
        assert_gone(rig, allocator)
    figure(f"memory runs out ({'lasting' if lasting else 'once'}): {rig.stage}", [ends, rig.made()])


def test_memory_runs_out_while_images_are_checked(bench):
    """Before a node of the host's encodes them, it is this pack that looks through them."""
    rig = Rig(bench, "VAEEncode")
    with Allocator(1, raising("cpu")):
        assert outcome(rig, rig.run()) == "sentence"


def test_nothing_of_these_faults_stays(rig, figure):
    """The last test of a stage: as many tensors as at first, of the same bytes, and the same threads."""
    rig.check_next()
    after = tensors(), threads()
    figure(f"tensors and bytes before and after the faults: {rig.stage}", [rig.before[0], after[0]])
    assert after == rig.before
    assert rig.stage != "long video" or rig.resumed, "no fault came after a finished segment"


def test_a_decode_begun_again_by_the_host_keeps_its_smoothing(bench):
    """The host answers memory that ran out in its own part of a decode by tiles, which know no smoothing."""
    rig = Rig(bench, "smoothed decode")
    count = rig.made()
    went_on = 0
    for point in range(count - either(1, 4), count + 1):
        with Allocator(point, raising("gpu")):
            result = rig.run()
        went_on += outcome(rig, result) == "went on"
    assert went_on >= either(1, 2)


def test_what_says_that_memory_ran_out(bench):
    module = bench.core("out_of_memory")
    told = module.exhausted_memory
    assert {kind: told(_caught(kind)) for kind in ERRORS} == {
        "gpu": "GPU memory",
        "cpu": "main memory",
        "python": "main memory",
    }
    main = (
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("std::bad_alloc"),
        RuntimeError("unable to mmap 8 bytes from file <a>: Cannot allocate memory (12)"),
        OSError(12, "Cannot allocate memory"),
    )
    gpu = (
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError(
            "Could not allocate tensor with 8 bytes. There is not enough GPU video memory available!"
        ),
    )
    assert [told(error) for error in main] == ["main memory"] * len(main)
    assert [told(error) for error in gpu] == ["GPU memory"] * len(gpu)
    others = (
        ValueError("out of memory"),
        RuntimeError("shapes differ"),
        OSError(28, "No space left on device"),
    )
    assert [told(error) for error in others] == [None] * len(others)


def _caught(kind):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        raising(kind)()
    return caught.value


@pytest.fixture
def small_chunks(bench, monkeypatch):
    """Tiny clips are cut in chunks too where memory is short."""
    monkeypatch.setattr(bench.core("transformer.memory"), "CHUNK_TOKENS", 8)


def _close(one, other):
    return float((one["samples"] - other["samples"]).norm() / other["samples"].norm()) < 1e-4


@pytest.mark.parametrize("stage", either(["Euler"], ["Euler", "KSampler", "SamplerCustom"]))
def test_sampling_goes_on_in_smaller_parts(bench, small_chunks, caplog, stage, figure):
    """One tensor of a forward that memory has no room for costs a begun forward and not the run."""
    rig = Rig(bench, stage)
    count = rig.made()
    went_on = 0
    chosen = points(count, f"parts {stage}", either(2, 25))
    for point in chosen:
        caplog.clear()
        with Allocator(point, raising("gpu")) as allocator:
            result = rig.run()
        if result.success:
            went_on += 1
            assert _close(rig.take(), rig.expected)
            assert caplog.text.count("begins this step again in smaller parts") <= 1
        else:
            assert outcome(rig, result) in ("sentence", "host")
        result = None
        rig.check_next()
        assert_gone(rig, allocator)
    assert went_on
    figure(f"sampling in smaller parts: {stage}", [went_on, len(chosen)])


def test_sampling_in_less_and_less_room(bench, small_chunks, caplog, figure):
    """With room for the smaller plan alone each step takes it at once, after the first; with less, one sentence."""
    rig = Rig(bench, "Euler")
    with Allocator() as whole:
        rig.right()
    ends = []
    for share in (1.0, *either((0.9, 0.4), [1 - step / 24 for step in range(1, 24)])):
        caplog.clear()
        with Allocator(room=int(share * whole.peak)):
            result = rig.run()
        begun_again = caplog.text.count("begins this step again")
        if result.success:
            assert _close(rig.take(), rig.expected)
            assert begun_again <= 1
        else:
            assert result.error_message.startswith("there is not enough GPU memory to ")
            assert is_one_sentence(result.error_message)
        ends.append((result.success, begun_again))
        rig.check_next()
    assert ends[0] == (True, 0)
    assert (True, 1) in ends and ends[-1][0] is False
    assert_never_better(ends)
    figure("sampling in less and less room", ends)


def assert_never_better(ends):
    """With less room no run does better: it begins again at least as often, and once it fails it goes on failing."""
    done = [again for success, again in ends if success]
    assert [success for success, _ in ends] == sorted((success for success, _ in ends), reverse=True)
    assert done == sorted(done)


def _wide(graph, name, tiling):
    """Add a decode or encode of a picture wider than a tile, with the published tiles or none."""
    loader = graph.load()
    picture = graph.picture(width=400)
    if name == "EasyAnimateV3VAEEncode":
        return graph.add(name, pixels=graph.add("TestFresh", value=picture), vae=loader[2], tiling=tiling)
    latent = graph.add("EasyAnimateV3VAEEncode", pixels=picture, vae=loader[2], tiling=True)
    latent = graph.add("TestFresh", value=latent)
    return graph.add(name, samples=latent, vae=loader[2], tiling=tiling, smoothing=True)


@pytest.mark.parametrize("name", ["EasyAnimateV3VAEEncode", "EasyAnimateV3VAEDecode"])
def test_vae_in_less_and_less_room(bench, caplog, name, figure):
    """Whole picture, published tiles, smaller ones, and at last a sentence."""
    tiled, whole = (Rig(bench, name, partial(_wide, name=name, tiling=tiling)) for tiling in (True, False))
    with Allocator() as most:
        whole.right()
    ends = []
    for share in (1.0, *either((0.9, 0.1), [1 - step / 24 for step in range(1, 24)])):
        caplog.clear()
        with Allocator(room=int(share * most.peak)) as allocator:
            result = whole.run()
        tiles = [int(side) for side in re.findall(r"tiles of (\d+) pixels", caplog.text)]
        assert tiles == [384, 192, 96][: len(tiles)]
        if result.success and len(tiles) < 2:
            assert same(whole.take(), (tiled if tiles else whole).expected)
        elif result.success:
            value = whole.take()
            value = value["samples"] if isinstance(value, dict) else value
            assert torch.isfinite(value).all()
        else:
            assert is_one_sentence(result.error_message), result.error_message
            assert "pixels: lower width, height or length" in result.error_message
        ends.append((result.success, len(tiles)))
        result = value = None
        whole.check_next()
        assert allocator.live == 0
    assert ends[0] == (True, 0) and ends[-1] == (False, 3)
    assert_never_better(ends)
    figure(f"less and less room: {name}", ends)


@contextmanager
def full_machine(room):
    """Leave this process so many bytes more of address space, as a machine does whose memory is full."""
    resource = pytest.importorskip("resource")
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("reads the size of this process from /proc, which Linux alone has")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    size = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


HUGE = 96 * 2**20


@pytest.fixture
def huge_files(bench):
    """A safetensors and a PyTorch file of HUGE bytes among the models."""
    models = bench.host.base / "models"
    safe, pytorch = models / "diffusion_models" / "huge.safetensors", models / "vae" / "huge.pt"
    for file in (safe, pytorch):
        file.parent.mkdir(exist_ok=True)
    header = json.dumps({"a": {"dtype": "U8", "shape": [HUGE], "data_offsets": [0, HUGE]}}).encode()
    with safe.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + HUGE)
    torch.save({"a": torch.zeros(HUGE, dtype=torch.uint8)}, pytorch)
    yield
    safe.unlink()
    pytorch.unlink()


HUGE_WORK = {
    "conditioning": lambda graph, loader: graph.clip(loader, width=1024, height=1024, length=144),
    "transformer": lambda graph, loader: graph.add(
        "EasyAnimateV3TransformerLoader", transformer_name="huge.safetensors", weight_dtype="default"
    ),
    "vae": lambda graph, loader: graph.add("EasyAnimateV3VAELoader", vae_name="huge.pt"),
}


@pytest.mark.parametrize("work", HUGE_WORK)
def test_a_machine_that_is_full(bench, huge_files, work):
    """The system's own refusal, of a tensor or of mapping a file, is told in one sentence too."""
    graph = Graph()
    loader = graph.load()
    bench.value(graph, graph.clip(loader, **SIZE), loader)
    node = HUGE_WORK[work](graph, loader)
    with full_machine(HUGE // 2):
        message = bench.refusal(graph, node)
    assert "main memory" in message and "close other programs" in message


def test_models_leave_memory_after_faults(bench):
    """A cancel and memory that ran out keep no model alive: the host's unload and an empty cache free all of it."""
    import comfy.model_management

    bench.host.forget()
    rig = Rig(bench, "KSampler")
    graph = Graph()
    loader = graph.load()
    loaded = bench.value(graph, loader[0], loader[1], loader[2], loader[3])
    models = [loaded[0].model, loaded[1].cond_stage_model, loaded[2].first_stage_model, loaded[3].model]
    alive = [weakref.ref(model) for model in models]
    loaded = models = None
    count = rig.made()
    for fault in (rig.bench.host.interrupt, raising("gpu"), raising("cpu")):
        with Allocator(count // 2, fault):
            assert not rig.run().success
    rig.expected = None
    comfy.model_management.unload_all_models()
    assert comfy.model_management.current_loaded_models == []
    bench.host.forget()
    gc.collect()
    assert [reference() for reference in alive] == [None] * 4


@pytest.fixture
def previewer(monkeypatch):
    """Function that has the host make previews with what it is given for a picture, as its own previewers do."""
    import latent_preview

    def use(decode):
        class Previewer(latent_preview.LatentPreviewer):
            __module__ = latent_preview.__name__
            decode_latent_to_preview = staticmethod(decode)

        monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: Previewer())

    return use


@pytest.mark.parametrize(
    ("stage", "frames"), [("Euler", 2), ("Euler", 1), ("KSampler", 1)], ids=["still", "ours", "KSampler"]
)
def test_cancel_while_a_preview_is_made(bench, previewer, stage, frames):
    """TAESD's layers notice the user's cancel as all layers do; it must not be taken for a failed preview.

    The sampler's still comes from both latent frames, what plays from one after the other.
    """
    import comfy.ops

    rig = Rig(bench, stage)
    layer = comfy.ops.disable_weight_init.Linear(1, 1)
    layer.weight.data.fill_(1.0)

    def decode(latent):
        if latent.shape[2] == frames:
            bench.host.interrupt()
            layer(latent.new_ones(1))

    previewer(decode)
    check_cancelled(rig, rig.run())


def test_a_preview_that_fails_ends_no_run(bench, previewer, monkeypatch, caplog):
    rig = Rig(bench, "Euler")
    previewer(lambda latent: raising("gpu")())
    rig.check_next()
    assert "There is no preview of this step" in caplog.text

    def start(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    caplog.clear()
    rig.check_next()
    assert "The preview does not play: can't start new thread" in caplog.text


def _saved(graph, seed, steps=2):
    """Add a run that saves its latent."""
    loader = graph.load()
    sampled = graph.sample(
        loader, graph.clip(loader, start=graph.picture(), embed=True, **SIZE), seed=seed, steps=steps
    )
    graph.add("SaveLatent", samples=sampled, filename_prefix=f"faults{seed}")
    return sampled


def _queue(server, seed, steps=2):
    graph = Graph()
    sampled = _saved(graph, seed, steps)
    run = server.submit(graph.prompt)
    run.sampler = sampled.id
    return run


def _latent(server, entry):
    [saved] = [output["latents"][0] for output in entry["outputs"].values() if "latents" in output]
    return load_file(server.base / "output" / saved["subfolder"] / saved["filename"])["latent_tensor"]


def _end(run):
    """Wait for the end of a run and return its last event."""
    return [kind for kind, _ in run.listen()][-1]


@pytest.fixture(scope="module")
def right_latents(server):
    """The latents of two seeds, each run alone."""
    latents = []
    for seed in (1, 2):
        with _queue(server, seed) as run:
            run.wait()
            latents.append(_latent(server, run.wait_for_history()))
    free(server)
    return latents


def free(server):
    server.post("/free", {"unload_models": True, "free_memory": True})


def sampling(run):
    """Wait until a run samples."""
    for kind, data in run.listen():
        if kind == "progress" and data["node"] == run.sampler:
            return
    raise AssertionError(run.events)


def test_two_prompts_queued_at_once(server, right_latents, figure):
    """Both are done in order, with all that may happen to their neighbour in the queue."""
    with _queue(server, 1) as first, _queue(server, 2) as second:
        assert (_end(first), _end(second)) == ("execution_success", "execution_success")
        assert second.events[0][1]["timestamp"] >= first.events[-1][1]["timestamp"]
        for run, expected in zip((first, second), right_latents, strict=True):
            assert torch.equal(_latent(server, run.wait_for_history()), expected)

    # A step more, since the host would take what it has in its cache.
    with _queue(server, 1, steps=400) as first, _queue(server, 2) as second, _queue(server, 3) as third:
        sampling(first)
        server.post("/queue", {"delete": [third.prompt_id]})
        free(server)
        server.interrupt()
        assert (_end(first), _end(second)) == ("execution_interrupted", "execution_success")
        assert torch.equal(_latent(server, second.wait_for_history()), right_latents[1])
        assert server.history(third.prompt_id) is None
    assert server.get("/queue") == {"queue_running": [], "queue_pending": []}


def test_cancels_in_a_row_while_models_load(server, right_latents, figure):
    tries, cancelled = either(1, 6), 0
    # The server is shared: what stood in its log before is of other tests.
    logged = len(server.log_text())
    for number in range(tries):
        # Nothing is cached or loaded, so that all of it begins anew.
        free(server)
        with _queue(server, 1) as run, _queue(server, 2) as second:
            next(run.listen())
            for _ in range(number + 1):
                server.interrupt()
            ends = _end(run), _end(second)
            cancelled += ends.count("execution_interrupted")
            assert set(ends) <= {"execution_interrupted", "execution_success"}
        for seed in either([1 + number % 2], [1, 2]):
            with _queue(server, seed) as run:
                assert torch.equal(_latent(server, run.wait()), right_latents[seed - 1])
    assert cancelled
    assert "Traceback" not in server.log_text()[logged:]
    figure("cancels in a row while models load", [tries, cancelled])
