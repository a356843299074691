"""How ComfyUI is started: options for little memory, for speed and for half precision give the same video.

On a CPU ``--fast`` has nothing to speed up: that case shows that the pack works in a server that has it.
"""

import pytest
import torch
from graphs import Graph
from PIL import Image
from safetensors.torch import load_file

from devtools import base_directory, tiny_lora
from devtools.golden import relative_error
from devtools.host_server import HostServer
from training.models import NAME as NANO


def _video(graph):
    """Add an image-to-video run of nano: the latent and the frames."""
    loader = graph.load(NANO)
    picture = graph.picture(64, 64)
    clip = graph.clip(loader, start=picture, embed=True, width=64, height=64, length=16)
    latent = graph.ksample(loader, clip, steps=4, cfg=3.0)
    return latent, graph.add("VAEDecode", samples=latent, vae=loader[2])


@pytest.fixture(scope="module")
def expected(bench):
    graph = Graph()
    latent, frames = bench.value(graph, *_video(graph))
    return latent["samples"], frames


# --lowvram and --cpu exclude each other: what it does is tested below. In half precision the text encoder and the
# transformer round; the VAE, which would overflow, stays in bf16 or fp32.
@pytest.mark.parametrize(
    ("options", "limit"),
    [(["--fast"], 3e-4), (["--force-fp16"], 0.05)],
    ids=["fast", "force-fp16"],
)
def test_option_gives_the_same_video(options, limit, expected, tmp_path, tiny_checkpoint):
    base = base_directory.prepare(tmp_path, True, tiny_checkpoint)
    graph = Graph()
    latent, frames = _video(graph)
    graph.add("SaveLatent", samples=latent, filename_prefix="latent")
    graph.add("SaveImage", images=frames, filename_prefix="frame")
    with HostServer(base, log=base / "server.log", options=options) as server:
        server.run(graph.prompt)
    samples = load_file(base / "output" / "latent_00001_.latent")["latent_tensor"]
    assert torch.isfinite(samples).all()
    assert relative_error(samples.float(), expected[0]) < limit
    if "--force-fp16" in options:
        assert relative_error(samples.float(), expected[0]) > 1e-5
    pictures = sorted((base / "output").glob("frame_*.png"))
    assert len(pictures) == 16
    for picture, frame in zip(pictures, expected[1], strict=True):
        with Image.open(picture) as image:
            seen = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(64, 64, 3) / 255
        assert (seen - frame).abs().mean() < max(limit, 1 / 255)
        assert seen.std() > 0.05


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("lora", [False, True], ids=["plain", "LoRA"])
def test_partly_offloaded_model_samples_the_same(bench, monkeypatch, share, lora):
    # What a GPU with too little memory does: some layers stay behind, and are cast and patched as they are called.
    import comfy.model_patcher

    graph = Graph()
    loader = graph.load()
    model = loader
    if lora:
        model = graph.add(
            "EasyAnimateV3LoraLoader",
            model=loader,
            lora_name=tiny_lora.NAME,
            strength_model=0.8,
            strength_clip=0.0,
        )
    model = bench.value(graph, model).clone()
    if lora:
        # Of what no layer holds, and the host passes over.
        table = "diffusion_model.transformer_blocks.3.scale_shift_table"
        model.add_patches({table: (torch.full_like(model.model_state_dict()[table], 0.1),)})

    def sampled():
        graph = Graph()
        clip = graph.clip(graph.load(), start=graph.picture(), embed=True)
        return bench.latent(graph, graph.ksample(bench.give(graph, model), clip))

    whole = sampled()
    model.unpatch_model(model.offload_device)
    bench.host.forget()
    load = comfy.model_patcher.ModelPatcher.load
    room = int(share * model.model_size())

    def load_in_part(patcher, device, *args, **kwargs):
        if patcher.model is model.model:
            load(
                patcher, device, lowvram_model_memory=max(room, 1), force_patch_weights=False, full_load=False
            )
        else:
            load(patcher, device, *args, **kwargs)

    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "load", load_in_part)
    try:
        part = sampled()
        behind = [m for m in model.model.modules() if getattr(m, "prev_comfy_cast_weights", None) is not None]
        assert model.model.model_lowvram and behind
        assert any(m.weight_function for m in behind) == lora
        assert (table in model.backup) if lora else not model.backup
    finally:
        monkeypatch.undo()
        model.unpatch_model(model.offload_device)
    assert relative_error(part, whole) < 1e-6
