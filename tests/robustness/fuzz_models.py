"""The objects that fuzzed inputs are made of: this pack's tiny models, small ones of other kinds, prepared results."""

import json
from functools import cache

import torch
from graphs import Graph
from safetensors.torch import load_file, save_file

from devtools import tiny_checkpoint, tiny_lora

TEXT_TO_VIDEO = "EasyAnimateV3-tiny-text-to-video"
# What the loaders may choose and load, by the name of the input; the host lists other files too.
FILES = {
    "checkpoint": (tiny_checkpoint.NAME, TEXT_TO_VIDEO),
    "transformer_name": ("fuzz_transformer.safetensors", "fuzz_text_to_video.safetensors"),
    "vae_name": ("fuzz_vae.safetensors", "fuzz_vae_fp16.safetensors"),
    "lora_name": (tiny_lora.NAME,),
}


@cache
def prepare(bench):
    """Return all objects by name; models are ready to run, so that an example costs milliseconds."""
    models = bench.host.base / "models"
    folders = [models / "EasyAnimate" / name for name in FILES["checkpoint"]]
    if not folders[1].exists():
        tiny_checkpoint.write(folders[1], in_channels=4)
    for folder, name in zip(folders, FILES["transformer_name"], strict=True):
        _write_single_file(folder / "transformer", models / "diffusion_models" / name)
    for name, dtype in zip(FILES["vae_name"], (torch.float32, torch.float16), strict=True):
        _write_single_file(folders[0] / "vae", models / "vae" / name, dtype)
    graph = Graph()
    loader, other = graph.load(), graph.load(TEXT_TO_VIDEO)
    clip = graph.clip(loader, start=graph.picture(), embed=True)
    text = graph.clip(loader)
    links = {
        "model": loader[0],
        "clip": loader[1],
        "vae": loader[2],
        "clip_vision": loader[3],
        "text_to_video_model": other[0],
        "positive": clip[0],
        "negative": clip[1],
        "latent": clip[2],
        "text_positive": text[0],
        "plain": graph.text(loader[1]),
        "clip_vision_output": graph.add(
            "EasyAnimateV3ImageEncode", clip_vision=loader[3], image=graph.picture()
        ),
        "sampler": graph.add("KSamplerSelect", sampler_name="euler"),
        "noise": graph.add("RandomNoise", noise_seed=1),
        "sigmas": graph.add("EasyAnimateV3Sigmas", sampler_name="Euler", steps=2, denoise=1.0),
    }
    objects = dict(zip(links, bench.value(graph, *links.values()), strict=True))
    for name in ("positive", "plain"):
        objects[f"{name}_states"], objects[f"{name}_options"] = objects[name][0]
    return {**objects, **_foreign_models(bench)}


def _write_single_file(component, path, dtype=torch.float32):
    """Write a component of a checkpoint folder as one file with its configuration inside."""
    config = json.loads((component / "config.json").read_text(encoding="utf-8"))
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = load_file(component / "diffusion_pytorch_model.safetensors")
    weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    save_file(weights, path, {"config": json.dumps(config)})


def _foreign_models(bench):
    import comfy.model_patcher
    import comfy.sd
    import comfy.supported_models
    from comfy.taesd.taesd import TAESD

    torch.manual_seed(5)
    unet = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "num_res_blocks": [1, 1],
        "transformer_depth": [1, 1],
        "transformer_depth_output": [1, 1, 1, 1],
        "transformer_depth_middle": 1,
        "channel_mult": [1, 1],
        "use_spatial_transformer": True,
        "context_dim": 32,
        "num_heads": 2,
        "num_head_channels": -1,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "legacy": False,
        "dtype": torch.float32,
    }
    config = comfy.supported_models.SD15(unet)
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    image_model = comfy.model_patcher.ModelPatcher(config.get_model({}, "", cpu), cpu, cpu)
    taesd = {name: value for name, value in TAESD().state_dict().items() if name != "vae_scale"}
    return {
        "image_model": image_model,
        "image_vae": comfy.sd.VAE(sd=taesd),
        "image_clip": _image_clip(),
        "other_clip_vision": _clip_vision(bench),
    }


def _clip_vision(bench):
    """Return a CLIP_VISION with embeddings of another width and pictures of another size."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPVisionConfig(image_size=32, patch_size=16, projection_dim=1024, **sizes)
    weights = CLIPVisionModelWithProjection(config).state_dict()
    return bench.core("host.image_encoder").load_image_encoder(config.to_dict(), weights)


def _image_clip():
    """Return a CLIP of Stable Diffusion's kind, with small dimensions."""
    import comfy.sd
    import comfy.supported_models_base
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel

    config = {
        "architectures": ["CLIPTextModel"],
        "eos_token_id": 49407,
        "hidden_act": "quick_gelu",
        "hidden_size": 32,
        "intermediate_size": 64,
        "max_position_embeddings": 77,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "projection_dim": 32,
        "vocab_size": 49408,
    }

    class Encoder(SDClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(
                device=device,
                dtype=dtype,
                textmodel_json_config=dict(config),
                layer="last",
                model_options=model_options or {},
            )

    class Text(SD1ClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(
                device=device, dtype=dtype, clip_model=Encoder, model_options=model_options or {}
            )

    target = comfy.supported_models_base.ClipTarget(SD1Tokenizer, Text)
    return comfy.sd.CLIP(target)
