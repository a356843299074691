import dataclasses
import json
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from easyanimate_core.checkpoint import (
    CONFIG_NAME,
    CheckpointError,
    OfficialFolder,
    checkpoint_kind,
    config_tensor,
    describe_kind,
    drop_persistent_tables,
    find_checkpoint_folder,
    find_weights,
    list_checkpoint_folders,
    read_json_object,
    read_state_dict,
    require_kind,
    strip_prefix,
    take_config,
    trained_resolution,
)
from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
MISC = GOLDEN / "misc"


def manifest(name):
    return json.loads((MISC / f"{name}_manifest.json").read_text())["tensors"]


def sample_tensors():
    return {
        "a.weight": torch.randn(3, 4),
        "a.bias": torch.randn(3).half(),
        "b": torch.randn(2, 2).bfloat16(),
        "c": torch.randn(5).to(torch.float8_e4m3fn),
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].float(), tensor.float())


def check_sentence(error, *parts):
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 600, text
    for part in parts:
        assert str(part) in text, text


def write_shards(folder, stem="diffusion_pytorch_model", index=True):
    tensors = sample_tensors()
    names = list(tensors)
    weight_map = {}
    for number, chunk in enumerate((names[:2], names[2:]), 1):
        shard = f"{stem}-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in chunk}, folder / shard)
        weight_map |= dict.fromkeys(chunk, shard)
    index_path = folder / f"{stem}.safetensors.index.json"
    if index:
        index_path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return tensors, index_path


# Reading


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin", "x.pt", "legacy.ckpt"])
def test_single_files(tmp_path, name):
    path, tensors = tmp_path / name, sample_tensors()
    if name.startswith("legacy"):
        del tensors["c"]  # the old form has no fp8
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=not name.startswith("legacy"))
    assert_same(read_state_dict(path), tensors)


def test_header_length_that_begins_like_a_pickle(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(128)
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", 1.5))
    assert path.read_bytes()[0] == 0x80
    assert read_state_dict(path)["a"].item() == 1.5


def test_training_checkpoint_is_unwrapped(tmp_path):
    tensors = sample_tensors()
    torch.save({"state_dict": {**tensors, "step": 3}, "epoch": 1}, tmp_path / "x.ckpt")
    assert_same(read_state_dict(tmp_path / "x.ckpt"), tensors)


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("stem", ["diffusion_pytorch_model", "model"])
def test_shards(tmp_path, index, stem):
    tensors, index_path = write_shards(tmp_path, stem, index)
    assert_same(read_state_dict(tmp_path), tensors)
    if index:
        assert_same(read_state_dict(index_path), tensors)


def test_folder_prefers_safetensors(tmp_path):
    tensors = sample_tensors()
    torch.save({"old": torch.zeros(1)}, tmp_path / "diffusion_pytorch_model.bin")
    assert read_state_dict(tmp_path).keys() == {"old"}
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert read_state_dict(tmp_path).keys() == {"other"}
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    assert_same(read_state_dict(tmp_path), tensors)


def test_folder_with_one_file_of_another_name(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "easyanimate_v3_bf16.safetensors")
    assert read_state_dict(tmp_path).keys() == {"x"}
    save_file({"x": torch.zeros(1)}, tmp_path / "another.safetensors")
    with pytest.raises(CheckpointError) as error:
        find_weights(tmp_path)
    check_sentence(error, tmp_path, "several weight files")


MEASURE = """
import json, sys, torch
from easyanimate_core.checkpoint import read_state_dict
def memory(field):
    text = open("/proc/self/status").read()
    return int(text.split(field + ":")[1].split()[0]) / 1024
before = memory("VmRSS"), memory("RssAnon")
tensors = read_state_dict(sys.argv[1])
read = memory("VmRSS")
total = sum(float(t.sum(dtype=torch.float32)) for t in tensors.values())
print(json.dumps({"read": read - before[0], "used": memory("RssAnon") - before[1], "total": total}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_tensors_are_mapped_not_copied(tmp_path, form):
    count, width = 60, 1600
    tensors = {f"layer.{i}": torch.ones(width, width, dtype=torch.bfloat16) for i in range(count)}
    path = tmp_path / f"large.{form}"
    save_file(tensors, path) if form == "safetensors" else torch.save(tensors, path)
    del tensors
    assert path.stat().st_size > 290 * 2**20
    command = [sys.executable, "-c", MEASURE, str(path)]
    result = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    path.unlink()
    assert result["total"] == count * width * width
    assert result["read"] < 60
    assert result["used"] < 120


# Damaged and wrong files


def whole_file(folder, form):
    path = folder / f"whole.{form}"
    tensors = {"a": torch.randn(64, 64)}
    save_file(tensors, path) if form == "safetensors" else torch.save(tensors, path)
    return path.read_bytes()


def wrong_offsets(_):
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 99]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(99)


DAMAGED = {
    "cut.safetensors": (lambda folder: whole_file(folder, "safetensors")[:-500], "cut short"),
    "cut_header.safetensors": (lambda folder: whole_file(folder, "safetensors")[:20], "cut short"),
    "few.safetensors": (lambda folder: whole_file(folder, "safetensors")[:5], "not a weight file"),
    "offsets.safetensors": (wrong_offsets, "damaged"),
    "cut.bin": (lambda folder: whole_file(folder, "bin")[:9000], "damaged or cut short"),
    "empty.safetensors": (b"", "is empty"),
    "text.safetensors": (b"hello, this is a text file, not weights", "not a weight file"),
    "json.safetensors": (b'{"a": 1}', "not a weight file"),
    "page.safetensors": (b"\n<!DOCTYPE html><html>log in</html>", "web page"),
    "pointer.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "empty.bin": (b"", "is empty"),
    "text.bin": (b"hello", "not a weight file"),
    "wrong.safetensors.index.json": (b"[1, 2]", "a JSON list"),
    "broken.safetensors.index.json": (b'{"weight_map": ', "not valid JSON"),
    "nothing.safetensors.index.json": (b'{"metadata": {}}', "weight_map"),
    "list.safetensors.index.json": (b'{"weight_map": ["a"]}', "weight_map"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(tmp_path, name):
    content, message = DAMAGED[name]
    (tmp_path / name).write_bytes(content(tmp_path) if callable(content) else content)
    with pytest.raises(CheckpointError) as error:
        read_state_dict(tmp_path / name)
    check_sentence(error, tmp_path / name, message)


def test_missing_file_and_folder_for_file(tmp_path):
    with pytest.raises(CheckpointError) as error:
        read_state_dict(tmp_path / "missing.safetensors")
    check_sentence(error, tmp_path / "missing.safetensors", "no file")
    with pytest.raises(CheckpointError) as error:
        read_json_object(tmp_path)
    check_sentence(error, tmp_path, "is a folder")
    with pytest.raises(CheckpointError) as error:
        read_state_dict(tmp_path)
    check_sentence(error, tmp_path, "no weights", "diffusion_pytorch_model.safetensors")


class RunsCode:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare", "old_protocol"])
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_pickle_with_code_is_refused_and_does_not_run(tmp_path, form, suffix):
    mark, path = tmp_path / "it_ran", tmp_path / f"evil.{suffix}"
    content = {"a": torch.zeros(2), "b": RunsCode(mark)}
    if form in ("bare", "old_protocol"):
        path.write_bytes(pickle.dumps({"b": RunsCode(mark)}, protocol=0 if form == "old_protocol" else 4))
        message = "not a weight file" if form == "old_protocol" else "could run code"
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
        message = "could run code"
    if suffix == "safetensors" and form != "old_protocol":
        message = "under the name of a safetensors file"
    with pytest.raises(CheckpointError) as error:
        read_state_dict(path)
    check_sentence(error, path, message)
    assert not mark.exists()
    if (form, suffix) == ("zip", "bin"):
        # The file is harmful indeed: an ordinary load runs it.
        torch.load(path, weights_only=False)
        assert mark.exists()


@pytest.mark.parametrize("content", [torch.zeros(2), {"a": 1}, [torch.zeros(1)]])
def test_pytorch_file_without_named_tensors(tmp_path, content):
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(CheckpointError) as error:
        read_state_dict(tmp_path / "x.bin")
    check_sentence(error, tmp_path / "x.bin", "use another file")


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/x.safetensors", "a/x.safetensors", "..", "C:\\x.safetensors", "", 3, None]
)
def test_shard_outside_the_folder_is_refused(tmp_path, shard):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError) as error:
        read_state_dict(folder)
    check_sentence(error, index, "not a file name inside its folder")


@pytest.mark.parametrize("index", [True, False])
def test_missing_shard(tmp_path, index):
    write_shards(tmp_path, index=index)
    lost = tmp_path / "diffusion_pytorch_model-00001-of-00002.safetensors"
    lost.unlink()
    with pytest.raises(CheckpointError) as error:
        read_state_dict(tmp_path)
    check_sentence(error, tmp_path, lost.name, "download")


def test_tensor_missing_from_its_shard(tmp_path):
    _, index = write_shards(tmp_path)
    content = json.loads(index.read_text())
    content["weight_map"]["lost.weight"] = "diffusion_pytorch_model-00002-of-00002.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError) as error:
        read_state_dict(tmp_path)
    check_sentence(error, "lost.weight", "00002-of-00002", index.name)


# Official folder


@pytest.fixture
def official(tmp_path):
    folder = tmp_path / "EasyAnimateV3-XL-2-InP-768x768"
    for component in ("transformer", "vae", "text_encoder", "tokenizer", "image_encoder"):
        (folder / component).mkdir(parents=True)
        if component != "tokenizer":
            (folder / component / "config.json").write_text(json.dumps({"of": component, "sample_size": 64}))
    save_file({"t": torch.zeros(1)}, folder / "transformer/diffusion_pytorch_model.safetensors")
    torch.save({"v": torch.zeros(1)}, folder / "vae/diffusion_pytorch_model.bin")
    write_shards(folder / "text_encoder", "model")
    torch.save({"i": torch.zeros(1)}, folder / "image_encoder/pytorch_model.bin")
    (folder / "tokenizer/spiece.model").write_bytes(b"x")
    return folder


def test_official_folder(official):
    folder = OfficialFolder(official)
    assert folder.name == official.name
    assert folder.config("vae") == {"of": "vae", "sample_size": 64}
    assert folder.state_dict("transformer").keys() == {"t"}
    assert folder.state_dict("vae").keys() == {"v"}
    assert folder.state_dict("text_encoder").keys() == sample_tensors().keys()
    assert folder.state_dict("image_encoder").keys() == {"i"}
    assert folder.tokenizer() == official / "tokenizer/spiece.model"
    assert folder.trained_resolution() == 768


@pytest.mark.parametrize(
    ("lost", "use"),
    [
        ("vae/config.json", lambda f: f.config("vae")),
        ("vae/diffusion_pytorch_model.bin", lambda f: f.weights("vae")),
        ("tokenizer/spiece.model", lambda f: f.tokenizer()),
        ("transformer/diffusion_pytorch_model.safetensors", lambda f: f.state_dict("transformer")),
    ],
)
def test_half_folder(official, lost, use):
    (official / lost).unlink()
    with pytest.raises(CheckpointError) as error:
        use(OfficialFolder(official))
    component = lost.split("/")[0]
    expected = "diffusion_pytorch_model.safetensors" if "diffusion" in lost else lost.split("/")[1]
    check_sentence(error, official / component, expected, "alibaba-pai/EasyAnimateV3-XL-2-InP-768x768")


def test_missing_component_or_folder(official):
    (official / "tokenizer/spiece.model").unlink()
    (official / "tokenizer").rmdir()
    folder = OfficialFolder(official)
    with pytest.raises(CheckpointError) as error:
        folder.component("tokenizer")
    check_sentence(error, official, "tokenizer/", "Hugging Face")
    with pytest.raises(CheckpointError) as error:
        OfficialFolder(official.parent / "absent")
    check_sentence(error, official.parent / "absent", "-512x512", "768x768, 960x960")
    with pytest.raises(CheckpointError) as error:
        OfficialFolder(official.parent)
    check_sentence(error, official.parent, "transformer/")
    with pytest.raises(CheckpointError) as error:
        OfficialFolder(official / "vae")
    check_sentence(error, "choose the folder above")


def test_config_of_the_wrong_type(official):
    (official / "transformer/config.json").write_text("[]")
    with pytest.raises(CheckpointError) as error:
        OfficialFolder(official).config("transformer")
    check_sentence(error, official / "transformer/config.json", "list")


def test_checkpoint_folders_are_listed(tmp_path):
    first, second = tmp_path / "models", tmp_path / "more"
    for path in (
        "b/transformer",
        "a/transformer/transformer",
        "group/c/transformer",
        ".hidden/d/transformer",
        "e/vae",
    ):
        (first / path).mkdir(parents=True)
    (second / "a/transformer").mkdir(parents=True)
    (second / "transformer").mkdir()
    (second / "loop").symlink_to(second, target_is_directory=True)
    roots = [first, second, tmp_path / "absent"]
    names = list_checkpoint_folders(roots)
    assert [name for name in names if "loop" not in name] == ["a", "b", "group/c"]
    assert find_checkpoint_folder(roots, "a") == first / "a"
    assert find_checkpoint_folder(roots, "group/c") == first / "group/c"
    for name in ("absent", "../more/a", str(second / "a"), ""):
        with pytest.raises(CheckpointError) as error:
            find_checkpoint_folder(roots, name)
        check_sentence(error, first)


# Recognition

SD_UNET = {
    "input_blocks.0.0.weight": (320, 4, 3, 3),
    "time_embed.0.weight": (1280, 320),
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "middle_block.0.in_layers.0.weight": (1280,),
}
SDXL_UNET = {
    "input_blocks.0.0.weight": (320, 4, 3, 3),
    "label_emb.0.0.weight": (1280, 2816),
    "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
}
LDM_VAE = {
    "encoder.conv_in.weight": (128, 3, 3, 3),
    "encoder.down.0.block.0.norm1.weight": (128,),
    "decoder.conv_in.weight": (512, 4, 3, 3),
    "quant_conv.weight": (8, 8, 1, 1),
}
DIFFUSERS_UNET = {
    "conv_in.weight": (320, 4, 3, 3),
    "mid_block.resnets.0.conv1.weight": (1280, 1280, 3, 3),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
}
DIFFUSERS_VAE = {
    "encoder.conv_in.weight": (128, 3, 3, 3),
    "encoder.down_blocks.0.resnets.0.norm1.weight": (128,),
    "quant_conv.weight": (8, 8, 1, 1),
}
T5 = {"shared.weight": (32128, 4096), "encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096)}
CLIP_L = {
    "vision_model.encoder.layers.0.self_attn.q_proj.weight": (1024, 1024),
    "visual_projection.weight": (768, 1024),
}


def prefixed(prefix, shapes):
    return {prefix + name: shape for name, shape in shapes.items()}


def sd_checkpoint(unet, text):
    return (
        prefixed("model.diffusion_model.", unet)
        | prefixed("first_stage_model.", LDM_VAE)
        | {text: (49408, 768)}
    )


CASES = {
    "official transformer": ("transformer", manifest("transformer")),
    "official VAE": ("vae", manifest("vae")),
    "VAE with training parts": ("vae", manifest("vae") | {"loss.discriminator.main.0.weight": (64, 3, 4, 4)}),
    "text-to-video transformer": (
        "transformer",
        {k: v for k, v in manifest("transformer").items() if "clip_projection" not in k}
        | {"pos_embed.proj.weight": (1152, 4, 2, 2)},
    ),
    "community transformer": ("transformer", prefixed("model.diffusion_model.", manifest("transformer"))),
    "parallel training": ("transformer", prefixed("module.", manifest("transformer"))),
    "PixArt": ("pixart", {k: v for k, v in manifest("transformer").items() if "attn_temporal" not in k}),
    "original PixArt": (
        "pixart",
        {"x_embedder.proj.weight": (1152, 4, 2, 2), "t_block.1.weight": (6912, 1152)},
    ),
    "SD1.5 checkpoint": ("sd15", sd_checkpoint(SD_UNET, "cond_stage_model.transformer.text_model.x.weight")),
    "SD1.5 UNet": ("sd15", SD_UNET),
    "SD1.5 UNet with prefix": ("sd15", prefixed("model.diffusion_model.", SD_UNET)),
    "SD1.5 UNet of Diffusers": ("sd15", DIFFUSERS_UNET),
    "SDXL checkpoint": ("sdxl", sd_checkpoint(SDXL_UNET, "conditioner.embedders.0.transformer.x.weight")),
    "image VAE": ("image_vae", LDM_VAE),
    "image VAE of Diffusers": ("image_vae", DIFFUSERS_VAE),
    "another video VAE": (
        "video_vae_other",
        {"encoder.conv1.weight": (96, 3, 3, 3, 3), "decoder.conv1.weight": (384, 16, 3, 3, 3)},
    ),
    "T5": ("t5", T5),
    "T5 without shared": ("t5", {k: v for k, v in T5.items() if k != "shared.weight"}),
    "UMT5": ("umt5", T5 | {"shared.weight": (256384, 4096)}),
    "CLIP vision": ("clip_vision", CLIP_L),
    "CLIP-H vision": ("clip_vision_other", CLIP_L | {"visual_projection.weight": (1024, 1280)}),
    "CLIP text": ("clip_text", {"text_model.encoder.layers.0.self_attn.q_proj.weight": (768, 768)}),
    "LoRA": ("lora", {"lora_unet__a.lora_down.weight": (4, 8), "lora_unet__a.alpha": ()}),
    "PEFT LoRA": ("lora", {"transformer.a.lora_A.weight": (4, 8), "transformer.a.lora_B.weight": (8, 4)}),
    "AnimateDiff": (
        "animatediff",
        {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": (320,)},
    ),
    "something else": ("unknown", {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)}),
    "nothing": ("empty", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_kind(case):
    expected, shapes = CASES[case]
    assert checkpoint_kind(shapes) == expected
    assert checkpoint_kind({k: torch.empty(tuple(v), device="meta") for k, v in shapes.items()}) == expected


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("wanted", ["transformer", "vae", "t5", "clip_vision", "lora"])
def test_require(case, wanted):
    found, shapes = CASES[case]
    if found == wanted:
        require_kind(wanted, shapes, "/models/x.safetensors")
        return
    with pytest.raises(CheckpointError) as error:
        require_kind(wanted, shapes, "/models/x.safetensors")
    check_sentence(error, "/models/x.safetensors", describe_kind(found), "is needed")


def test_golden_lora_file_is_recognised():
    tensors = read_state_dict(GOLDEN / "lora/lora_kohya.safetensors")
    lora = {k.removeprefix("lora."): v for k, v in tensors.items() if k.startswith("lora.")}
    assert checkpoint_kind(lora) == "lora"


def test_prefixes():
    for prefix in (
        "",
        "model.diffusion_model.",
        "diffusion_model.",
        "module.",
        "module.model.diffusion_model.",
    ):
        assert strip_prefix(prefixed(prefix, {"a": 1, "b.c": 2})) == {"a": 1, "b.c": 2}
    mixed = {"model.diffusion_model.a": 1, "first_stage_model.b": 2}
    assert strip_prefix(mixed) == mixed
    assert strip_prefix({}) == {}


def test_persistent_tables_are_dropped():
    full = manifest("transformer")
    kept = drop_persistent_tables(full)
    assert len(full) - len(kept) == 56
    assert not [name for name in kept if name.endswith(".pe")]
    assert drop_persistent_tables({"loss.x": 1, "quant_conv.weight": 2, "closs.x": 3}).keys() == {
        "quant_conv.weight",
        "closs.x",
    }


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("EasyAnimateV3-XL-2-InP-512x512", {"sample_size": 64}, 512),
        ("EasyAnimateV3-XL-2-InP-768x768", {"sample_size": 64}, 768),
        ("easyanimate_v3_960.safetensors", None, 960),
        ("/models/EasyAnimateV3-XL-2-InP-960x960/transformer/x.safetensors", {}, 960),
        ("C:\\models\\512\\easyanimate_768.safetensors", {}, 768),
        ("easyanimate.safetensors", {"sample_size": 64}, None),
        ("easyanimate.safetensors", {"sample_size": 96}, 768),
        ("easyanimate-512-768.safetensors", {"sample_size": 64}, None),
        ("step-15120.safetensors", {"sample_size": None}, None),
        ("", None, None),
    ],
)
def test_trained_resolution(name, config, expected):
    assert trained_resolution(name, config) == expected


@pytest.mark.parametrize(("sample_size", "side"), [(32, 16), (64, 32), (128, 32), (256, 32)])
def test_base_grid(sample_size, side):
    values = json.loads((GOLDEN / "dit" / "config.json").read_text())
    assert TransformerConfig.from_dict({**values, "sample_size": sample_size}).base_grid == side


def test_norms_have_the_releases_eps():
    """Too small a part of the golden cases to show there."""
    config = TransformerConfig.from_dict(json.loads((GOLDEN / "dit" / "config.json").read_text()))
    model = EasyAnimateTransformer3D(config, device="meta")
    found = {name: module.eps for name, module in model.named_modules() if hasattr(module, "eps")}
    motion = "attn_temporal.temporal_transformer"
    of_a_block = {"norm1": 1e-6, "norm2": 1e-6, f"{motion}.norm": 1e-6}
    of_a_block |= {
        f"{motion}.transformer_blocks.0.{name}": 1e-5 for name in ("norms.0", "norms.1", "ff_norm")
    }
    expected = {
        f"transformer_blocks.{index}.{name}": eps for index in range(28) for name, eps in of_a_block.items()
    }
    assert found == {**expected, "norm_out": 1e-6}


@pytest.mark.parametrize("changed", [{}, {"clip_channels": 1024, "clip_tokens": 4}, {"clip_tokens": 0}])
def test_configuration_comes_back_from_a_saved_file(changed):
    config = TransformerConfig.from_dict(json.loads((GOLDEN / "dit" / "config.json").read_text()))
    config = dataclasses.replace(config, **changed)
    weights = {
        CONFIG_NAME: config_tensor({**config.to_dict(), "trained_resolution": 768}),
        "w": torch.ones(1),
    }
    stored = take_config(weights)
    assert TransformerConfig.from_dict(stored) == config
    assert list(weights) == ["w"]
    assert trained_resolution("unnamed.safetensors", stored) == 768
    assert trained_resolution("of_512.safetensors", stored) == 512


@pytest.mark.parametrize(
    "stored",
    [
        torch.tensor([1.0]),
        torch.zeros(2, 2, dtype=torch.uint8),
        torch.tensor(list(b"{"), dtype=torch.uint8),
        torch.tensor(list(b"[1]"), dtype=torch.uint8),
        torch.tensor([], dtype=torch.uint8),
        torch.tensor([255, 254], dtype=torch.uint8),
    ],
    ids=["float", "two axes", "cut short", "list", "empty", "no text"],
)
def test_what_is_no_configuration_counts_as_none(stored):
    weights = {CONFIG_NAME: stored}
    assert take_config(weights) is None
    assert weights == {}
