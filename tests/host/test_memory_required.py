"""What the native model tells ComfyUI of its memory, so that it batches and offloads rightly."""

import json
from pathlib import Path

import pytest
import torch
from graphs import Graph

import easyanimate_core.transformer.memory as memory
from devtools.live_memory import LiveMemory
from easyanimate_core.vae import SliceVAE, SliceVAEConfig

GB = 1e9
VAE_MANIFEST = Path(__file__).parent.parent / "golden" / "misc" / "vae_manifest.json"


@pytest.fixture
def model(bench):
    graph = Graph()
    return bench.value(graph, graph.load()).model


@pytest.fixture
def card(bench, monkeypatch):
    """Let the host see a GPU with so many bytes and 0.5 GB kept for others."""

    import comfy.model_management

    def insert(size):
        monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: torch.device("cuda"))
        monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda device=None: size)
        monkeypatch.setattr(comfy.model_management, "extra_reserved_memory", lambda: 0.5 * GB)

    return insert


def _streams(model, shape):
    rows, _, frames, height, width = shape
    value = 4 if (model.manual_cast_dtype or model.get_dtype()) == torch.float32 else 2
    return rows * frames * height * width // 4 * model.transformer_config.dim * value


SHAPE = (2, 4, 36, 480, 840)


def test_a_large_card_is_asked_for_everything_and_some_to_spare(bench, model, card):
    card(1000 * GB)
    plan = (memory.SKIPS + memory.WHOLE_STREAMS) * _streams(model, SHAPE)
    assert model.memory_required(SHAPE) == plan + bench.core("host.model").SPARE_BYTES


def test_a_small_card_is_asked_for_the_work_in_chunks(model, card):
    everything = (memory.SKIPS + memory.WHOLE_STREAMS) * _streams(model, SHAPE)
    card(0.9 * everything)
    assert model.memory_required(SHAPE) < 0.8 * everything


def test_skips_are_parked_for_a_single_row_alone(model, card):
    one = (1, *SHAPE[1:])
    card(memory.SKIPS * _streams(model, one))
    assert model.memory_required(one) < 0.5 * memory.SKIPS * _streams(model, one)
    assert model.memory_required(SHAPE) > memory.SKIPS * _streams(model, SHAPE)


def test_an_image_latent_counts_as_one_frame(model):
    assert model.memory_required((2, 4, 64, 64)) == model.memory_required((2, 4, 1, 64, 64))


@pytest.mark.parametrize("kind", ["Linear", "Conv3d", "GroupNorm", "LayerNorm"])
def test_weights_of_the_hosts_layers_are_cast_and_patched(bench, kind):
    from comfy.ops import disable_weight_init, manual_cast

    weights_of = bench.core("layer_weights").weights_of
    sizes = {"Linear": (4, 4), "Conv3d": (4, 4, 3), "GroupNorm": (2, 4), "LayerNorm": (4,)}[kind]
    for operations in (disable_weight_init, manual_cast):
        layer = getattr(operations, kind)(*sizes, dtype=torch.bfloat16)
        for parameter in layer.parameters():
            parameter.data.fill_(0.5)
        layer.weight_function = [lambda weight: weight + 1]
        weight, bias = weights_of(layer, torch.device("cpu"), torch.float32)
        assert weight.dtype == bias.dtype == torch.float32
        assert (weight == 1.5).all() and (bias == 0.5).all()


def test_fp8_layers_are_called(bench):
    from comfy.ops import fp8_ops

    layer = fp8_ops.Linear(4, 4)
    assert bench.core("layer_weights").weights_of(layer, torch.device("cpu"), torch.float32) is None


@pytest.mark.parametrize("sides", [(384, 384), (192, 256), (720, 1280)])
@pytest.mark.parametrize("stage", ["encode", "decode"])
@pytest.mark.parametrize("tiled", [None, False])
def test_the_vae_takes_what_it_says(bench, stage, sides, tiled):
    """One slice of the full-size VAE, in bfloat16; a clip longer than that only adds to main memory."""
    config = SliceVAEConfig.from_dict(json.loads(VAE_MANIFEST.read_text())["config"])
    place = {"dtype": torch.bfloat16, "device": "meta"}
    vae = SliceVAE(config, **place, attention=lambda q, k, v, heads: torch.empty_like(q)).eval()
    height, width = sides if tiled is False else (min(side, 384) for side in sides)
    with torch.inference_mode(), LiveMemory() as live:
        if stage == "encode":
            vae.encoder(torch.empty(1, 3, 8, height, width, **place))
        else:
            vae.decoder(torch.empty(1, 4, 6, height // 8, width // 8, **place), 2, 4, False)
    said = bench.core("host.vae")._slice_memory(config, *sides, torch.bfloat16, tiled)
    assert live.peak <= said <= 1.4 * live.peak


@pytest.mark.parametrize("tiling", [True, False])
@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_without_tiling_the_vae_asks_for_the_whole_picture(bench, monkeypatch, stage, tiling):
    import comfy.model_management

    graph, asked = Graph(), []
    loader = graph.load()
    vae = bench.value(graph, loader[2])
    monkeypatch.setattr(
        comfy.model_management,
        "load_models_gpu",
        lambda models, memory_required=0, **_: asked.append(memory_required),
    )
    if stage == "encode":
        frames = bench.give(graph, torch.rand(8, 32, 768, 3))
        node = graph.add("EasyAnimateV3VAEEncode", pixels=frames, vae=loader[2], tiling=tiling)
    else:
        latent = bench.give_latent(graph, torch.randn(1, 4, 2, 4, 96))
        options = {"smoothing": False, "tiling": tiling}
        node = graph.add("EasyAnimateV3VAEDecode", samples=latent, vae=loader[2], **options)
    bench.value(graph, node)
    whole = bench.core("host.vae")._slice_memory(vae.config, 32, 768, vae.vae_dtype, False)
    clip = 8 * 32 * 768 * 3 * 4 if stage == "encode" else 0
    assert asked == [(whole / 2 if tiling else whole) + clip]


@torch.inference_mode()
def test_what_failed_in_a_run_and_what_is_larger_is_not_tried_again(bench):
    """With 8 GB free a plan of 5 is chosen; when it fails, those of 20 and 12 would too, and none is left."""
    out_of_memory, plans = bench.core("host.out_of_memory"), bench.core("transformer.memory")
    options = [plans.MemoryPlan(None, False, size) for size in (20, 12, 5, 2)]
    tried = []

    def forward():
        plan = plans.choose_plan(options, out_of_memory.activation_budget(8))
        tried.append(plan.bytes)
        if len(tried) <= failures:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return plan.bytes

    failures = 1
    assert out_of_memory.run_smaller(forward, options) == 2
    assert tried == [5, 2]
    tried, failures = [], 2
    with pytest.raises(torch.cuda.OutOfMemoryError):
        out_of_memory.run_smaller(forward, options)
    assert tried == [5, 2]


@torch.inference_mode()
def test_memory_that_runs_out_before_a_plan_is_chosen_ends_the_run(bench):
    out_of_memory, plans = bench.core("host.out_of_memory"), bench.core("transformer.memory")
    options = [plans.MemoryPlan(None, False, size) for size in (20, 12, 5)]
    calls = []

    def forward():
        calls.append(1)
        assert len(calls) < 10, "without end"
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        out_of_memory.run_smaller(forward, options)
    assert len(calls) == len(options)
