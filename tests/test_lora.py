"""LoRA files of the release: merged into a transformer, and renamed for ComfyUI's stock loaders."""

import json
from pathlib import Path

import pytest
import torch

from devtools.golden import read_case, relative_error, rule_state_dict
from easyanimate_core.checkpoint.lora import (
    is_release_lora,
    merge_lora,
    read_modules,
    to_native_names,
)
from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig

GOLDEN = Path(__file__).parent / "golden"
T5_MODULE = "encoder.block.0.layer.0.SelfAttention.q"


@pytest.fixture(scope="module")
def golden():
    return read_case(GOLDEN / "lora" / "lora_kohya.safetensors")


@pytest.fixture(scope="module")
def lora(golden):
    return {key.removeprefix("lora."): tensor for key, tensor in golden[0].items() if key.startswith("lora.")}


@pytest.fixture(scope="module")
def model():
    config = TransformerConfig.from_dict(json.loads((GOLDEN / "dit" / "config.json").read_text()))
    return EasyAnimateTransformer3D(config).eval()


@pytest.fixture
def weights(model):
    return rule_state_dict({name: tensor.shape for name, tensor in model.state_dict().items()})


@pytest.fixture(scope="module")
def module_names(model):
    return [name.removesuffix(".weight") for name in model.state_dict() if name.endswith(".weight")]


def module(name, out=4, into=6, rank=2, alpha=1.0):
    tensors = {
        f"{name}.lora_up.weight": torch.rand(out, rank),
        f"{name}.lora_down.weight": torch.rand(rank, into),
    }
    return tensors if alpha is None else tensors | {f"{name}.alpha": torch.tensor(alpha)}


@torch.no_grad()
def test_merged_model(golden, lora, model, weights):
    tensors, metadata = golden
    merged = merge_lora(weights, lora, float(metadata["multiplier"]))
    assert len(merged) == len(lora) // 3
    model.load_state_dict(weights)
    assert tensors["clip_mask"].all()
    output = model(
        torch.cat([tensors["latent"], tensors["inpaint"]], dim=1),
        tensors["timestep"],
        tensors["text"],
        context_lengths=tensors["text_mask"].sum(1).long().tolist(),
        clip_embeds=tensors["clip"],
    )
    assert relative_error(output, tensors["output"]) < 1e-5


def test_native_names_give_the_same_weights(lora, weights, module_names):
    native = to_native_names(lora, module_names)
    before = dict(weights)
    merged = merge_lora(weights, lora, 0.55)
    assert {key.partition(".lora_up.weight")[0] for key in native if key.endswith("lora_up.weight")} == {
        f"diffusion_model.{name.removesuffix('.weight')}" for name in merged
    }
    for name in merged:
        stem = f"diffusion_model.{name.removesuffix('.weight')}"
        up, down = native[f"{stem}.lora_up.weight"], native[f"{stem}.lora_down.weight"]
        expected = before[name] + 0.55 * native[f"{stem}.alpha"].item() / down.shape[0] * up @ down
        torch.testing.assert_close(weights[name], expected)


def test_names_are_found_from_a_full_size_checkpoint(lora):
    manifest = json.loads((GOLDEN / "misc" / "transformer_manifest.json").read_text())
    assert len(to_native_names(lora, manifest["tensors"])) == len(lora)


def test_release_layout_is_recognised(lora, module_names):
    assert is_release_lora(lora)
    assert not is_release_lora(to_native_names(lora, module_names))


def test_text_encoder_part(lora, weights, module_names):
    both = lora | module("lora_te_" + T5_MODULE.replace(".", "_"))
    assert to_native_names(both, module_names).keys() == to_native_names(lora, module_names).keys()
    native = to_native_names(both, module_names, [T5_MODULE])
    assert f"text_encoders.t5xxl.transformer.{T5_MODULE}.lora_up.weight" in native

    text = {f"{T5_MODULE}.weight": torch.zeros(4, 6, dtype=torch.bfloat16)}
    assert merge_lora(text, both, 2.0, part="lora_te") == {f"{T5_MODULE}.weight"}
    assert text[f"{T5_MODULE}.weight"].dtype == torch.bfloat16
    part = read_modules(both)["lora_te_" + T5_MODULE.replace(".", "_")]
    torch.testing.assert_close(text[f"{T5_MODULE}.weight"], (part.up @ part.down).bfloat16())


def test_convolution_and_missing_alpha():
    weight = torch.rand(4, 3, 2, 2)
    state = {"proj.weight": weight, "proj.bias": torch.zeros(4)}
    up, down = torch.rand(4, 2, 1, 1), torch.rand(2, 3, 2, 2)
    merge_lora(state, {"lora_unet__proj.lora_up.weight": up, "lora_unet__proj.lora_down.weight": down}, 0.5)
    expected = weight + 0.5 * torch.einsum("or,rikl->oikl", up[..., 0, 0], down)
    torch.testing.assert_close(state["proj.weight"], expected)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (module("lora_unet__blocks_0_missing"), "1 modules that the model lacks.*blocks_0_missing"),
        (module("lora_unet__a_b", out=5), "update of 'a.b' has shape"),
        ({"lora_unet__a_b.lora_up.weight": torch.rand(4, 2)}, "no lora_down.weight"),
        (module("lora_unet__a_b") | {"lora_unet__a_b.lora_up.weight": torch.rand(4, 3)}, "rank 3 and 2"),
        ({"transformer.a.b.lora_A.weight": torch.rand(2, 6)}, "not of the EasyAnimateV3 kohya layout"),
    ],
)
def test_wrong_files_change_nothing(lora, message):
    state = {"a.b.weight": torch.zeros(4, 6)}
    with pytest.raises(ValueError, match=message):
        merge_lora(state, lora | module("lora_unet__a_b") if "missing" in message else lora, 1.0)
    assert (state["a.b.weight"] == 0).all()


def test_ambiguous_module_names_are_refused():
    with pytest.raises(ValueError, match="same name 'a_b'"):
        to_native_names(module("lora_unet__a_b"), ["a.b", "a_b"])
