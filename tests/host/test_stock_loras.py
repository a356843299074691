"""The host's own LoRA loaders on our MODEL and CLIP, with the names that trainers give their tensors."""

import pytest
import torch
from graphs import Graph

from devtools import tiny_lora
from devtools.golden import relative_error
from easyanimate_core.checkpoint.lora import to_native_names

RELEASE = tiny_lora.NAME


@pytest.fixture(scope="module")
def dotted_lora(lora, bench):
    """The transformer's part as (module, {"up", "down", "alpha"})."""
    graph = Graph()
    names = bench.value(graph, graph.load()).model.diffusion_model.state_dict()
    modules = {}
    for name, tensor in to_native_names(lora, names).items():
        for kind in ("lora_up.weight", "lora_down.weight", "alpha"):
            if name.endswith(f".{kind}"):
                module = name.removeprefix("diffusion_model.").removesuffix(f".{kind}")
                modules.setdefault(module, {})[kind.split(".")[0].removeprefix("lora_")] = tensor
    assert modules and all(set(parts) == {"up", "down", "alpha"} for parts in modules.values())
    return modules


def kohya(module, parts):
    stem = "lora_unet_" + module.replace(".", "_")
    return {
        f"{stem}.lora_up.weight": parts["up"],
        f"{stem}.lora_down.weight": parts["down"],
        f"{stem}.alpha": parts["alpha"],
    }


def _without_alpha(parts):
    """Return the factors with alpha / rank in them, for formats that know no alpha."""
    return parts["up"] * (parts["alpha"] / parts["down"].shape[0]), parts["down"]


def peft(module, parts, prefix="diffusion_model."):
    up, down = _without_alpha(parts)
    return {f"{prefix}{module}.lora_B.weight": up, f"{prefix}{module}.lora_A.weight": down}


def diffusers(module, parts, prefix="diffusion_model."):
    up, down = _without_alpha(parts)
    return {f"{prefix}{module}.lora.up.weight": up, f"{prefix}{module}.lora.down.weight": down}


def full_difference(module, parts):
    up, down = _without_alpha(parts)
    return {f"diffusion_model.{module}.diff": up @ down}


def stock(graph, model, name, strength=1.0):
    return graph.add("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=strength)


def ours(graph, model, name, strength=1.0):
    return graph.add(
        "EasyAnimateV3LoraLoader", model=model, lora_name=name, strength_model=strength, strength_clip=1.0
    )


def sampled(bench, *loras, loader=stock):
    """Sample one clip with LoRAs, given as (name, strength), one after the other."""
    graph = Graph()
    model = loaded = graph.load()
    for name, strength in loras:
        model = loader(graph, model, name, strength)
    return bench.latent(graph, graph.ksample(model, graph.clip(loaded)))


@pytest.fixture(scope="module")
def expected(bench):
    """What the release's file does through our loader, which is compared with merged weights elsewhere."""
    return sampled(bench, (RELEASE, 1.0), loader=ours)


@pytest.fixture(scope="module")
def plain(bench):
    return sampled(bench)


@pytest.mark.parametrize("naming", [kohya, peft, diffusers, full_difference])
def test_stock_loader_takes_the_names_of(bench, write_lora, dotted_lora, expected, plain, naming):
    tensors = {}
    for module, parts in dotted_lora.items():
        tensors |= naming(module, parts)
    result = sampled(bench, (write_lora(f"{naming.__name__}.safetensors", tensors), 1.0))
    assert relative_error(result, expected) < 1e-5
    assert relative_error(result, plain) > 1e-3


@pytest.mark.parametrize("prefix", ["transformer.", "base_model.model.", "unet.base_model.model."])
@pytest.mark.parametrize("naming", [peft, diffusers])
def test_our_loader_takes_trainers_prefixes_too(bench, write_lora, dotted_lora, expected, naming, prefix):
    tensors = {}
    for module, parts in dotted_lora.items():
        tensors |= naming(module, parts, prefix)
    name = write_lora(f"{naming.__name__}_{prefix}safetensors", tensors)
    assert relative_error(sampled(bench, (name, 1.0), loader=ours), expected) < 1e-5


def test_the_releases_names_need_our_loader(bench, plain, expected, caplog):
    # The host has no public place to add names to its map, so its loader changes nothing and says so.
    with caplog.at_level("WARNING"):
        assert torch.equal(sampled(bench, (RELEASE, 1.0)), plain)
    assert "lora key not loaded: lora_unet__transformer_blocks_0_attn1_to_q" in caplog.text
    assert relative_error(expected, plain) > 1e-3


def test_stacked_loras_add_up_and_leave_no_trace(bench, write_lora, dotted_lora, plain):
    first, second = {}, {}
    for module, parts in dotted_lora.items():
        (first if "attn1" in module else second).update(kohya(module, parts))
    assert first and second
    first, second = write_lora("first.safetensors", first), write_lora("second.safetensors", second)
    both = sampled(bench, (first, 0.7), (second, -0.3))
    assert relative_error(both, sampled(bench, (second, -0.3), (first, 0.7))) < 1e-6
    merged = {}
    for module, parts in dotted_lora.items():
        strength = 0.7 if "attn1" in module else -0.3
        merged |= kohya(module, {**parts, "up": parts["up"] * strength})
    assert relative_error(both, sampled(bench, (write_lora("merged.safetensors", merged), 1.0))) < 1e-5
    assert relative_error(both, sampled(bench, (first, 0.7))) > 1e-4
    assert torch.equal(sampled(bench), plain)


def test_stock_loader_changes_t5_by_its_own_name_for_it(bench, write_lora, lora):
    # The host calls T5 the first text encoder; the release's lora_te goes through our loader.
    tensors = {k.replace("lora_te_", "lora_te1_"): v for k, v in lora.items() if k.startswith("lora_te_")}
    name = write_lora("t5_stock.safetensors", tensors)
    graph = Graph()
    loader = graph.load()
    node = graph.add(
        "LoraLoader", model=loader, clip=loader[1], lora_name=name, strength_model=1.0, strength_clip=0.6
    )
    reference = graph.add(
        "EasyAnimateV3LoraLoader",
        model=loader,
        clip=loader[1],
        lora_name=RELEASE,
        strength_model=0.0,
        strength_clip=0.6,
    )
    texts = [graph.text(clip) for clip in (loader[1], node[1], reference[1])]
    plain, patched, expected = (text[0][0] for text in bench.value(graph, *texts))
    assert torch.equal(patched, expected)
    assert relative_error(patched, plain) > 3e-2
