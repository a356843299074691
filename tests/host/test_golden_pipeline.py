"""The release's whole runs, through the nodes in the real host."""

import json
import sys
from pathlib import Path

import comfy_node_inputs as inputs
import pytest
import torch
from safetensors.torch import save_file

from devtools import golden
from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig
from easyanimate_core.vae import SliceVAE, SliceVAEConfig

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
CASES = sorted(path.stem for path in (GOLDEN / "pipeline").glob("*.safetensors"))
SAMPLERS = {"euler": "Euler", "euler_a": "Euler A", "dpmpp": "DPM++", "pndm": "PNDM", "ddim": "DDIM"}
LIMIT = 1e-4


def _save(path, config_file, model_class, config_class, weights):
    config = json.loads(config_file.read_text())
    model = model_class(config_class.from_dict(config), device="meta")
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in weights(shapes).items()}, path, {"config": json.dumps(config)})


@pytest.fixture(scope="module")
def files(host):
    """Names of single files with the golden weights, in the host's own folders."""
    models = host.base / "models"
    _save(
        models / "diffusion_models" / "golden_dit.safetensors",
        GOLDEN / "dit" / "config.json",
        EasyAnimateTransformer3D,
        TransformerConfig,
        golden.pipeline_state_dict,
    )
    _save(
        models / "vae" / "golden_vae.safetensors",
        GOLDEN / "vae" / "config.json",
        SliceVAE,
        SliceVAEConfig,
        golden.rule_state_dict,
    )
    return {"transformer_name": "golden_dit.safetensors", "vae_name": "golden_vae.safetensors"}


def _text(case, side):
    """CONDITIONING of one prompt, padding dropped."""
    keep = case[f"text_{side}_mask"][0].bool()
    return [[case[f"text_{side}"][:, keep], {}]]


def _graph(files, case, info):
    """API graph from loaders to decoded frames; tensors of the case come in through a test node."""
    given = {"width": int(info["width"]), "height": int(info["height"]), "length": int(info["frames"])}
    for side in ("start", "end"):
        if f"{side}_frames" in case:
            given[f"{side}_image"] = inputs.give(case[f"{side}_frames"].float() / 255)
    if "start_frames" in case:
        given["clip_vision_output"] = inputs.give({"image_embeds": case["clip_embed"]})
    graph = {
        "model": (
            "EasyAnimateV3TransformerLoader",
            {"transformer_name": files["transformer_name"], "weight_dtype": "default"},
        ),
        "vae": ("EasyAnimateV3VAELoader", {"vae_name": files["vae_name"]}),
        "clip": (
            "EasyAnimateV3ImageToVideo",
            {
                "positive": inputs.give(_text(case, "pos")),
                "negative": inputs.give(_text(case, "neg")),
                "vae": ["vae", 0],
                "batch_size": 1,
                **given,
            },
        ),
        "sample": (
            "EasyAnimateV3Sampler",
            {
                "model": ["model", 0],
                "positive": ["clip", 0],
                "negative": ["clip", 1],
                "latent_image": ["clip", 2],
                "seed": 0,
                "steps": int(info["steps"]),
                "cfg": float(info["cfg"]),
                "sampler_name": SAMPLERS[info["sampler"]],
                "denoise": 1.0,
                "clip_apply_ratio": 0.5,
            },
        ),
        "decode": (
            "EasyAnimateV3VAEDecode",
            {"samples": ["sample", 0], "vae": ["vae", 0], "smoothing": True, "tiling": True},
        ),
        "conditioning": ("TestTake", {"value": ["clip", 0], "name": "conditioning"}),
        "latent": ("TestTake", {"value": ["sample", 0], "name": "latent"}),
        "video": ("TestTake", {"value": ["decode", 0], "name": "video"}),
    }
    return inputs.api(graph)


@pytest.mark.parametrize("name", CASES)
def test_whole_run_matches_the_release(host, files, name, monkeypatch):
    case, info = golden.read_case(GOLDEN / "pipeline" / f"{name}.safetensors")
    inputs.register(host)
    import comfy.sample

    monkeypatch.setattr(
        comfy.sample, "prepare_noise", lambda latent, seed, indices=None: case["noise"].clone()
    )
    if "step_noise" in case:
        samplers = sys.modules[f"{host.pack_module.__name__}.easyanimate_core.sampling.samplers"]
        steps = iter(case["step_noise"])
        monkeypatch.setattr(
            samplers, "_continued_noise", lambda x, seed: lambda sigma, sigma_next: next(steps)
        )
    result = host.run(_graph(files, case, info))
    assert result.success, result.error_message

    taken = inputs.taken
    inpaint = taken["conditioning"][0][1]["easyanimate_inpaint"]
    latents = taken["latent"]["samples"] * 0.18215
    video = taken["video"].permute(3, 0, 1, 2)[None]
    errors = {
        "inpaint_latents": golden.relative_error(inpaint, case["inpaint_latents"]),
        "final_latents": golden.relative_error(latents, case["final_latents"]),
        "video": golden.relative_error(video, case["video"]),
    }
    assert max(errors.values()) < LIMIT, errors
    assert torch.isfinite(video).all()
