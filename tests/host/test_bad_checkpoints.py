"""Wrong checkpoint folders and files: one sentence that says what, where and what to do."""

import json
import shutil

import pytest
import torch
from graphs import Graph
from safetensors.torch import load_file, save_file

WEIGHTS = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "image_encoder": "model.safetensors",
}


# Checkpoints


def _load(bench, name):
    graph = Graph()
    return bench.refusal(graph, graph.load(name))


def _damaged(host, tiny_checkpoint, name):
    """Return a copy of the checkpoint among the host's, for a test to damage; its name is ``name``."""
    folder = host.base / "models" / "EasyAnimate" / name
    shutil.rmtree(folder, ignore_errors=True)
    return shutil.copytree(tiny_checkpoint, folder)


def test_checkpoint_folder_that_is_not_there(bench, host):
    message = _load(bench, "EasyAnimateV3-XL-2-InP-768x768")
    assert "There is no checkpoint folder 'EasyAnimateV3-XL-2-InP-768x768'" in message
    assert str(host.base / "models" / "EasyAnimate") in message
    assert "download `alibaba-pai/EasyAnimateV3-XL-2-InP-768x768` on Hugging Face and ModelScope" in message


def test_no_checkpoint_folder_at_all(bench, host):
    # What the loader's list shows when it is empty.
    message = _load(bench, "none: put a checkpoint folder in models/EasyAnimate")
    assert str(host.base / "models" / "EasyAnimate") in message
    assert "download `alibaba-pai/EasyAnimateV3-XL-2-InP-512x512` (or 768x768, 960x960)" in message


@pytest.mark.parametrize("component", ["vae", "text_encoder", "tokenizer", "image_encoder"])
def test_folder_without_a_component(bench, host, tiny_checkpoint, component):
    folder = _damaged(host, tiny_checkpoint, "half")
    shutil.rmtree(folder / component)
    message = _load(bench, "half")
    assert f"{folder} has no folder {component}/: download {component}/ of `alibaba-pai/" in message


def test_folder_without_a_transformer_is_none(bench, host, tiny_checkpoint):
    folder = _damaged(host, tiny_checkpoint, "half")
    shutil.rmtree(folder / "transformer")
    assert "There is no checkpoint folder 'half'" in _load(bench, "half")


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder", "image_encoder"])
@pytest.mark.parametrize("part", ["config", "weights"])
def test_component_without_its_files(bench, host, tiny_checkpoint, component, part):
    folder = _damaged(host, tiny_checkpoint, "half") / component
    for file in folder.glob("config.json" if part == "config" else "*.safetensors*"):
        file.unlink()
    message = _load(bench, "half")
    assert f"{folder} has no {'config.json' if part == 'config' else 'weights'}" in message
    assert f"download {component}/ of `alibaba-pai/EasyAnimateV3-XL-2-InP-512x512`" in message


def test_tokenizer_folder_without_a_tokenizer(bench, host, tiny_checkpoint):
    folder = _damaged(host, tiny_checkpoint, "half")
    (folder / "tokenizer" / "spiece.model").unlink()
    message = _load(bench, "half")
    assert f"{folder / 'tokenizer'} has no spiece.model or tokenizer.json: download tokenizer/ of" in message


def test_text_encoder_without_one_of_its_shards(bench, host, tiny_checkpoint):
    folder = _damaged(host, tiny_checkpoint, "half") / "text_encoder"
    shard = sorted(folder.glob("*.safetensors"))[-1]
    shard.unlink()
    message = _load(bench, "half")
    assert f"{folder} lacks {shard.name} of the shards" in message
    assert "download what is missing" in message


@pytest.mark.parametrize("component", WEIGHTS)
def test_weights_cut_short(bench, host, tiny_checkpoint, component):
    file = _damaged(host, tiny_checkpoint, "cut") / component / WEIGHTS[component]
    file.write_bytes(file.read_bytes()[:-1000])
    message = _load(bench, "cut")
    assert f"{file} is cut short" in message
    assert "download it again" in message


def test_weights_of_another_component(bench, host, tiny_checkpoint):
    folder = _damaged(host, tiny_checkpoint, "swapped")
    shutil.copyfile(folder / "vae" / WEIGHTS["vae"], folder / "transformer" / WEIGHTS["transformer"])
    message = _load(bench, "swapped")
    assert (
        f"{folder / 'transformer'} is an EasyAnimateV3 Slice VAE, but the EasyAnimateV3 transformer"
        in message
    )


def test_config_of_another_width(bench, host, tiny_checkpoint):
    folder = _damaged(host, tiny_checkpoint, "mixed")
    file = folder / "transformer" / "config.json"
    config = json.loads(file.read_text()) | {"attention_head_dim": 32}
    file.write_text(json.dumps(config))
    message = _load(bench, "mixed")
    assert "the file and its config.json belong to different models" in message


# Single files


@pytest.fixture(scope="module")
def transformer_files(host):
    folder = host.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def vae_files(host):
    folder = host.base / "models" / "vae"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _load_transformer(bench, file):
    graph = Graph()
    name = getattr(file, "name", file)
    loader = graph.add("EasyAnimateV3TransformerLoader", transformer_name=name, weight_dtype="default")
    return bench.refusal(graph, loader)


def _load_vae(bench, file):
    graph = Graph()
    return bench.refusal(graph, graph.add("EasyAnimateV3VAELoader", vae_name=getattr(file, "name", file)))


def test_file_that_is_not_there(bench, transformer_files, vae_files):
    message = _load_transformer(bench, "easyanimate_v3_960.safetensors")
    assert "There is no file 'easyanimate_v3_960.safetensors' in" in message
    assert str(transformer_files) in message
    assert "download it from `alibaba-pai/EasyAnimateV3-XL-2-InP-960x960` on Hugging Face" in message
    message = _load_vae(bench, "slice_vae.safetensors")
    assert f"There is no file 'slice_vae.safetensors' in {vae_files}" in message
    assert "download it from `alibaba-pai/EasyAnimateV3-XL-2-InP-512x512`" in message


def test_single_files_cut_short(bench, tiny_checkpoint, transformer_files, vae_files):
    for component, folder, load in (
        ("transformer", transformer_files, _load_transformer),
        ("vae", vae_files, _load_vae),
    ):
        file = folder / "cut.safetensors"
        file.write_bytes((tiny_checkpoint / component / WEIGHTS[component]).read_bytes()[:-1000])
        message = load(bench, file)
        assert f"{file} is cut short" in message
        assert "download it again" in message


def test_vae_where_a_transformer_belongs(bench, tiny_checkpoint, transformer_files):
    file = shutil.copyfile(tiny_checkpoint / "vae" / WEIGHTS["vae"], transformer_files / "vae.safetensors")
    message = _load_transformer(bench, file)
    assert f"{file} is an EasyAnimateV3 Slice VAE, but the EasyAnimateV3 transformer is needed" in message
    assert "choose the file from `transformer/`" in message


def test_transformer_where_a_vae_belongs(bench, tiny_checkpoint, vae_files):
    source = tiny_checkpoint / "transformer" / WEIGHTS["transformer"]
    file = shutil.copyfile(source, vae_files / "transformer.safetensors")
    message = _load_vae(bench, file)
    assert f"{file} is an EasyAnimate transformer, but the EasyAnimateV3 Slice VAE is needed" in message
    assert "choose the file from `vae/`" in message


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    """A file with some of the names and shapes of a full Stable Diffusion 1.5 checkpoint."""
    shapes = {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "model.diffusion_model.out.2.weight": (4, 320, 3, 3),
        "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.k_proj.weight": (768, 768),
    }
    file = tmp_path_factory.mktemp("sd15") / "v1-5-pruned-emaonly.safetensors"
    save_file({name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}, file)
    return file


def test_stable_diffusion_checkpoint(bench, stable_diffusion, transformer_files, vae_files):
    for folder, load, needed in (
        (transformer_files, _load_transformer, "the EasyAnimateV3 transformer"),
        (vae_files, _load_vae, "the EasyAnimateV3 Slice VAE"),
    ):
        file = shutil.copyfile(stable_diffusion, folder / stable_diffusion.name)
        message = load(bench, file)
        assert f"{file} is a Stable Diffusion 1.x model, but {needed} is needed: choose" in message


def test_single_file_of_another_width_without_its_config(bench, tiny_checkpoint, transformer_files):
    weights = load_file(tiny_checkpoint / "transformer" / WEIGHTS["transformer"])
    save_file(weights, transformer_files / "no_config.safetensors")
    message = _load_transformer(bench, "no_config.safetensors")
    assert "the transformer is 32 wide, which is not a multiple of the release's head size 72" in message
    assert "load it from a folder with its transformer/config.json" in message


def test_scaled_fp8_file_is_refused(bench, host, tiny_checkpoint):
    """Its weights mean nothing without their scales, which this loader does not read."""
    folder = _damaged(host, tiny_checkpoint, "scaled")
    path = folder / "transformer" / WEIGHTS["transformer"]
    weights = load_file(path)
    weights["transformer_blocks.0.attn1.to_q.scale_weight"] = torch.tensor(0.5)
    save_file(weights, path)
    message = _load(bench, "scaled")
    assert "is quantized with scales (transformer_blocks.0.attn1.to_q.scale_weight)" in message


def test_text_encoder_without_a_tensor(bench, host, tiny_checkpoint):
    folder = _damaged(host, tiny_checkpoint, "thin")
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    index = folder / "text_encoder" / "model.safetensors.index.json"
    shard = json.loads(index.read_text())["weight_map"][name]
    weights = load_file(folder / "text_encoder" / shard)
    # One that detection looks at stays, so that the file is still known for what it is.
    lost = next(key for key in weights if "SelfAttention.v" in key or "DenseReluDense.wo" in key)
    del weights[lost]
    save_file(weights, folder / "text_encoder" / shard)
    table = json.loads(index.read_text())
    del table["weight_map"][lost]
    index.write_text(json.dumps(table))
    assert f"text_encoder lacks the tensor {lost}" in _load(bench, "thin")
