"""The host's nodes that save, merge, patch and train models, on our MODEL and VAE."""

import json
import shutil

import pytest
import torch
from graphs import Graph, is_one_sentence
from safetensors.torch import save_file

from devtools import tiny_checkpoint, tiny_lora
from devtools.golden import relative_error


def _sampled(bench, node=None, **inputs):
    graph = Graph()
    loader = graph.load()
    model = loader if node is None else graph.add(node, model=loader, **inputs)
    return bench.latent(
        graph, graph.ksample(model, graph.clip(loader, start=graph.picture(), embed=True), steps=4)
    )


@pytest.fixture(scope="module")
def plain(bench):
    return _sampled(bench)


@pytest.fixture
def saved(bench, host):
    """Save a model by the host's node and put the file where the loaders find it: ``saved(graph, node, folder)``."""
    moved = []

    def save(graph, kind, prefix, folder, **inputs):
        graph.add(kind, filename_prefix=prefix, **inputs)
        bench.run(graph)
        (file,) = (host.base / "output").glob(f"{prefix}*.safetensors")
        target = host.base / "models" / folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        moved.append(shutil.move(file, target))
        return target

    yield save
    for file in moved:
        file.unlink()


class TestModelSave:
    def load(self, graph, file):
        return graph.add("EasyAnimateV3TransformerLoader", transformer_name=file.name, weight_dtype="default")

    def test_saved_model_loads_and_samples_the_same(self, bench, saved, plain):
        graph = Graph()
        file = saved(graph, "ModelSave", "saved_model", "diffusion_models", model=graph.load())
        graph = Graph()
        loader = graph.load()
        model = self.load(graph, file)
        clip = graph.clip(loader, start=graph.picture(), embed=True)
        loaded, latent = bench.value(graph, model, graph.ksample(model, clip, steps=4))
        # The tiny model's heads cannot be told from its shapes.
        assert loaded.model.transformer_config.attention_head_dim == 80 // 5
        assert torch.equal(latent["samples"], plain)

    def test_resolution_is_kept_where_the_name_does_not_tell(self, bench, saved):
        graph = Graph()
        model = bench.value(graph, graph.load())
        model.model.model_config.trained_resolution = 768
        try:
            graph = Graph()
            file = saved(graph, "ModelSave", "unnamed", "diffusion_models", model=bench.give(graph, model))
        finally:
            model.model.model_config.trained_resolution = None
        graph = Graph()
        assert bench.value(graph, self.load(graph, file)).model.trained_resolution == 768

    def test_a_lora_is_saved_in_the_weights(self, bench, saved):
        graph = Graph()
        loader = graph.load()
        lora = graph.add(
            "EasyAnimateV3LoraLoader",
            model=loader,
            lora_name=tiny_lora.NAME,
            strength_model=0.8,
            strength_clip=1.0,
        )
        patched = bench.latent(graph, graph.ksample(lora, graph.clip(loader)))
        graph.prompt = {key: node for key, node in graph.prompt.items() if node["class_type"] != "TestTake"}
        file = saved(graph, "ModelSave", "with_lora", "diffusion_models", model=lora)
        graph = Graph()
        assert (
            relative_error(
                bench.latent(graph, graph.ksample(self.load(graph, file), graph.clip(graph.load()))), patched
            )
            < 1e-6
        )

    def test_saved_vae_decodes_the_same(self, bench, saved):
        graph = Graph()
        file = saved(graph, "VAESave", "saved_vae", "vae", vae=graph.load()[2])
        graph = Graph()
        latent = bench.give_latent(
            graph, torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(1))
        )
        vaes = graph.load()[2], graph.add("EasyAnimateV3VAELoader", vae_name=file.name)
        first, second = bench.value(graph, *(graph.add("VAEDecode", samples=latent, vae=vae) for vae in vaes))
        assert torch.equal(first, second)


class TestMerging:
    """On a transformer of four blocks: the host's time for a merge grows with the square of the tensors."""

    @pytest.fixture
    def files(self, host):
        """Names of two transformers and of their mean."""
        config = tiny_checkpoint.transformer_config(in_channels=4) | {"num_layers": 4}
        first, second = (tiny_checkpoint.transformer_weights(config, seed) for seed in (1, 2))
        mean = {name: (weight + second[name]) / 2 for name, weight in first.items()}
        folder = host.base / "models" / "diffusion_models"
        folder.mkdir(parents=True, exist_ok=True)
        for name, weights in {"first": first, "second": second, "mean": mean}.items():
            save_file(weights, folder / f"merge_{name}.safetensors", {"config": json.dumps(config)})
        return [f"merge_{name}.safetensors" for name in ("first", "second", "mean")]

    def test_merged_models_are_what_their_weights_are(self, bench, files):
        graph = Graph()
        first, second, mean = (
            graph.add("EasyAnimateV3TransformerLoader", transformer_name=name, weight_dtype="default")
            for name in files
        )
        half = graph.add("ModelMergeSimple", model1=first, model2=second, ratio=0.5)
        most = graph.add("ModelMergeSimple", model1=first, model2=second, ratio=1.0)
        difference = graph.add("ModelMergeSubtract", model1=second, model2=first, multiplier=1.0)
        added = graph.add("ModelMergeAdd", model1=first, model2=difference)
        clip = graph.clip(graph.load())
        links = [graph.ksample(model, clip) for model in (first, second, mean, half, most, added)]
        first, second, mean, half, most, added = (value["samples"] for value in bench.value(graph, *links))
        assert relative_error(half, mean) < 1e-5
        assert relative_error(most, first) < 1e-5
        assert relative_error(added, second) < 1e-5
        assert relative_error(first, second) > 1e-3 < relative_error(mean, first)


UNET_NODES = {
    "FreeU": {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2},
    "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
}


@pytest.mark.parametrize("node", UNET_NODES)
def test_patches_of_unets_are_refused_by_name(bench, node):
    graph = Graph()
    patched = graph.add(node, model=graph.load(), **UNET_NODES[node])
    message = bench.refusal(graph, patched)
    assert is_one_sentence(message)
    assert "EasyAnimateV3 is a transformer without U-Net blocks: connect the MODEL past it" in message


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        (
            "PatchModelAddDownscale",
            {
                "block_number": 3,
                "downscale_factor": 2.0,
                "start_percent": 0.0,
                "end_percent": 1.0,
                "downscale_after_skip": True,
                "downscale_method": "bicubic",
                "upscale_method": "bicubic",
            },
        ),
        ("TomePatchModel", {"ratio": 0.3}),
        ("HyperTile", {"tile_size": 256, "swap_size": 2, "max_depth": 0, "scale_depth": False}),
    ],
)
def test_patches_without_a_place_here_change_nothing(bench, plain, node, inputs):
    assert torch.equal(_sampled(bench, node, **inputs), plain)


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        ("RescaleCFG", {"multiplier": 0.7}),
        ("APG", {"eta": 1.0, "norm_threshold": 5.0, "momentum": 0.0}),
        ("Mahiro", {}),
        ("CFGZeroStar", {}),
        ("TCFG", {}),
        (
            "SkipLayerGuidanceDiT",
            {
                "double_layers": "2",
                "single_layers": "",
                "scale": 3.0,
                "start_percent": 0.0,
                "end_percent": 1.0,
                "rescaling_scale": 0.0,
            },
        ),
        ("ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": False}),
    ],
)
def test_guidance_and_sampling_patches_take_effect(bench, plain, node, inputs):
    assert relative_error(_sampled(bench, node, **inputs), plain) > 1e-3


def _train(bench, learning_rate):
    """Train a LoRA by the host's node and return it with the loss of every step."""
    graph = Graph()
    loader = graph.load()
    video = 3 * torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    # ComfyUI 0.3.75 trains on a list of latents alone, not on one latent.
    both = bench.give_latent(graph, video.repeat(2, 1, 1, 1, 1))
    slots = {slot.id for slot in bench.host.node("TrainLoraNode").define_schema().inputs}
    trained = graph.add(
        "TrainLoraNode",
        model=loader,
        latents=graph.add("RebatchLatents", latents=both, batch_size=1),
        positive=graph.clip(loader)[0],
        batch_size=2,
        grad_accumulation_steps=1,
        steps=12,
        learning_rate=learning_rate,
        rank=4,
        optimizer="AdamW",
        loss_function="MSE",
        seed=1,
        training_dtype="fp32",
        lora_dtype="fp32",
        algorithm="LoRA",
        gradient_checkpointing=False,
        existing_lora="[None]",
        # Newer hosts ask for one more.
        **({"bucket_mode": False} if "bucket_mode" in slots else {}),
    )
    # The node draws timesteps from torch's own generator.
    torch.manual_seed(3)
    lora, losses = bench.value(graph, trained[1], trained[2])
    return lora, torch.tensor(losses["loss"])


def test_training_a_lora_lowers_the_loss(bench, plain):
    lora, losses = _train(bench, 1e-3)
    # Losses of different timesteps lie orders apart, so each step is compared with the same step without learning.
    _, untrained = _train(bench, 1e-7)
    ratios = losses / untrained
    assert len(ratios) == 12
    assert ratios[0] == pytest.approx(1, abs=1e-3)
    assert ratios[-4:].max() < 0.6
    graph = Graph()
    loader = graph.load()
    model = graph.add("LoraModelLoader", model=loader, lora=bench.give(graph, lora), strength_model=1.0)
    clip = graph.clip(loader, start=graph.picture(), embed=True)
    assert relative_error(bench.latent(graph, graph.ksample(model, clip, steps=4)), plain) > 1e-3
    # Training leaves the model that the loader gave as it was.
    assert torch.equal(_sampled(bench), plain)
