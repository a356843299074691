"""Loaders of every kind of file, the core VAE nodes on our VAE, and what the other nodes give."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from graphs import Graph
from safetensors.torch import load_file, save_file

from devtools import tiny_checkpoint as tiny
from devtools.environment import ROOT
from devtools.golden import relative_error
from easyanimate_core.sampling import release_sigmas
from training.models import NAME as NANO

WEIGHTS = "diffusion_pytorch_model.safetensors"
LINEAR = "transformer_blocks.3.attn1.to_q.weight"
DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.float8_e4m3fn,
}
FP8_DTYPES = {
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e4m3fn_fast": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
# How far a run may be from the one in float32: mantissas have 10, 7 and 3 bits.
LIMITS = {"fp32": 1e-6, "fp16": 0.003, "bf16": 0.03, "fp8": 0.4}


def _write_file(folder, name, weights, config):
    """Save a single file with its configuration in the metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"config": json.dumps(config)} if config else None
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder / name, metadata)
    return name


@pytest.fixture(scope="module")
def transformer_weights(tiny_checkpoint):
    return load_file(tiny_checkpoint / "transformer" / WEIGHTS)


@pytest.fixture(scope="module")
def vae_weights(tiny_checkpoint):
    return load_file(tiny_checkpoint / "vae" / WEIGHTS)


@pytest.fixture(scope="module")
def write_transformer(host):
    folder = host.base / "models" / "diffusion_models"
    return lambda name, weights: _write_file(folder, name, weights, tiny.transformer_config())


@pytest.fixture(scope="module")
def write_vae(host):
    folder = host.base / "models" / "vae"
    return lambda name, weights, config=True: _write_file(
        folder, name, weights, tiny.vae_config() if config else None
    )


def _load_transformer(graph, name, weight_dtype="default"):
    return graph.add("EasyAnimateV3TransformerLoader", transformer_name=name, weight_dtype=weight_dtype)


def _load_vae(graph, name):
    return graph.add("EasyAnimateV3VAELoader", vae_name=name)


def _tensors(model):
    return model.model.diffusion_model.state_dict()


def _in_float32(state_dict):
    """Whether the norms of the motion modules and the scale-shift tables are float32."""
    kept = [
        name
        for name in state_dict
        if name.endswith("scale_shift_table") or (".temporal_transformer." in name and "norm" in name)
    ]
    assert len(kept) > 100
    return all(state_dict[name].dtype == torch.float32 for name in kept)


def _sampled(graph, model, loader):
    """Sample image-to-video with a model: two steps, the second with CLIP tokens."""
    return graph.sample(model, graph.clip(loader, start=graph.picture(), embed=True))


@pytest.fixture(scope="module")
def expected(bench):
    """What the checkpoint folder gives, in float32."""
    graph = Graph()
    loader = graph.load()
    return bench.latent(graph, _sampled(graph, loader, loader))


class TestTransformerLoader:
    @pytest.mark.parametrize("kind", DTYPES)
    def test_file_of_any_dtype(self, bench, write_transformer, transformer_weights, expected, kind):
        dtype = DTYPES[kind]
        weights = {name: tensor.to(dtype) for name, tensor in transformer_weights.items()}
        graph = Graph()
        model = _load_transformer(graph, write_transformer(f"{kind}.safetensors", weights))
        loaded, latent = bench.value(graph, model, _sampled(graph, model, graph.load()))
        assert _tensors(loaded)[LINEAR].dtype == dtype
        assert _in_float32(_tensors(loaded))
        assert torch.isfinite(latent["samples"]).all()
        error = relative_error(latent["samples"], expected)
        assert error < LIMITS[kind]
        assert kind == "fp32" or error > 0

    @pytest.mark.parametrize("weight_dtype", FP8_DTYPES)
    @pytest.mark.parametrize("source", ["file", "folder"])
    def test_weight_dtype(
        self, bench, write_transformer, transformer_weights, expected, weight_dtype, source
    ):
        graph = Graph()
        loader = graph.load(weight_dtype=weight_dtype if source == "folder" else "default")
        model = loader
        if source == "file":
            model = _load_transformer(
                graph, write_transformer("fp32.safetensors", transformer_weights), weight_dtype
            )
        loaded, latent = bench.value(graph, model, _sampled(graph, model, loader))
        assert _tensors(loaded)[LINEAR].dtype == FP8_DTYPES[weight_dtype]
        assert _in_float32(_tensors(loaded))
        assert torch.isfinite(latent["samples"]).all()
        assert 0 < relative_error(latent["samples"], expected) < LIMITS["fp8"]

    @pytest.mark.parametrize("mapped", [True, False])
    def test_weights_are_copied_where_the_host_forbids_mapping(
        self, bench, host, write_transformer, transformer_weights, monkeypatch, mapped
    ):
        """A mapped file shows through into the weights when it is overwritten, a copy does not."""
        import comfy.cli_args

        monkeypatch.setattr(comfy.cli_args.args, "disable_mmap", not mapped)
        name = f"mapped_{mapped}.safetensors"
        graph = Graph()
        model = _load_transformer(graph, write_transformer(name, transformer_weights))
        loaded = bench.value(graph, model)
        with (host.base / "models" / "diffusion_models" / name).open("r+b") as file:
            size = file.seek(0, 2)
            file.seek(size // 2)
            file.write(bytes(size - size // 2))
        same = all(torch.equal(_tensors(loaded)[key], transformer_weights[key]) for key in _tensors(loaded))
        assert same is not mapped

    def test_prefix_and_stored_tables(self, bench, write_transformer, transformer_weights, expected):
        tables = {name for name in transformer_weights if name.endswith("pos_encoder.pe")}
        assert len(tables) == 56, "the checkpoint was expected to hold the fixed tables"
        weights = {f"model.diffusion_model.{name}": tensor for name, tensor in transformer_weights.items()}
        # Read tables would show, these are wrong.
        for name in tables:
            weights[f"model.diffusion_model.{name}"] = torch.full_like(transformer_weights[name], 9.0)
        graph = Graph()
        model = _load_transformer(graph, write_transformer("prefixed.safetensors", weights))
        loaded, latent = bench.value(graph, model, _sampled(graph, model, graph.load()))
        assert _tensors(loaded).keys() == transformer_weights.keys() - tables
        assert not [name for name in _tensors(loaded) if name.endswith(".pe")]
        assert relative_error(latent["samples"], expected) < LIMITS["fp32"]

    def test_metadata_gives_heads_that_shapes_do_not_tell(
        self, bench, write_transformer, transformer_weights
    ):
        graph = Graph()
        model = _load_transformer(graph, write_transformer("fp32.safetensors", transformer_weights))
        assert bench.value(graph, model).model.transformer_config.num_attention_heads == 2


class TestVAELoader:
    @pytest.mark.parametrize("kind", DTYPES)
    def test_file_of_any_dtype(self, bench, write_vae, vae_weights, kind):
        weights = {name: tensor.to(DTYPES[kind]) for name, tensor in vae_weights.items()}
        graph = Graph()
        vae = _load_vae(graph, write_vae(f"{kind}.safetensors", weights))
        latent = bench.give_latent(graph, _latent())
        frames, expected = bench.value(
            graph, _decode(graph, latent, vae), _decode(graph, latent, graph.load()[2])
        )
        assert torch.isfinite(frames).all()
        assert relative_error(frames, expected) < LIMITS[kind]

    def test_training_tensors_and_prefix_are_not_kept(self, bench, write_vae, vae_weights):
        extra = {
            "loss.logvar": torch.zeros(()),
            "loss.discriminator.main.0.weight": torch.zeros(8, 3, 4, 4),
            "loss.perceptual_loss.lin0.model.1.weight": torch.zeros(1, 8, 1, 1),
        }
        graph = Graph()
        vae = bench.value(graph, _load_vae(graph, write_vae("training.safetensors", vae_weights | extra)))
        assert vae.first_stage_model.state_dict().keys() == vae_weights.keys()

    def test_file_without_configuration(self, bench, write_vae, vae_weights):
        graph = Graph()
        vae = _load_vae(graph, write_vae("bare.safetensors", vae_weights, config=False))
        latent = bench.give_latent(graph, _latent())
        frames, expected = bench.value(
            graph, _decode(graph, latent, vae), _decode(graph, latent, graph.load()[2])
        )
        assert torch.equal(frames, expected)


class TestFolderLoader:
    @pytest.fixture
    def folder(self, host, tiny_checkpoint):
        """A copy of the checkpoint for a test to repack; its transformer has no weights yet."""
        path = host.base / "models" / "EasyAnimate" / "repacked"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(tiny_checkpoint, path)
        (path / "transformer" / WEIGHTS).unlink()
        yield path
        shutil.rmtree(path)

    def _check(self, bench, expected):
        graph = Graph()
        loader = graph.load("repacked")
        assert torch.equal(bench.latent(graph, _sampled(graph, loader, loader)), expected)

    def test_sharded_transformer(self, bench, folder, transformer_weights, expected):
        names = sorted(transformer_weights)
        shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
        for shard, part in shards.items():
            save_file({name: transformer_weights[name] for name in part}, folder / "transformer" / shard)
        index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
        (folder / "transformer" / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
        self._check(bench, expected)

    def test_pytorch_file(self, bench, folder, transformer_weights, expected):
        torch.save(transformer_weights, folder / "transformer" / "diffusion_pytorch_model.bin")
        self._check(bench, expected)

    def test_extra_model_paths(self, bench, host, tiny_checkpoint, tmp_path):
        import folder_paths
        from utils.extra_config import load_extra_path_config

        shutil.copytree(tiny_checkpoint, tmp_path / "library" / "elsewhere")
        config = tmp_path / "extra_model_paths.yaml"
        config.write_text(f"mine:\n    base_path: {tmp_path.as_posix()}\n    EasyAnimate: library\n")
        known = list(folder_paths.get_folder_paths("EasyAnimate"))
        load_extra_path_config(str(config))
        try:
            loader = host.node("EasyAnimateV3Loader")
            assert "elsewhere" in loader.INPUT_TYPES()["required"]["checkpoint"][1]["options"]
            graph = Graph()
            model, vae = bench.value(graph, *(graph.load("elsewhere")[output] for output in (0, 2)))
            assert LINEAR in _tensors(model)
            assert vae.latent_channels == 4
        finally:
            folder_paths.folder_names_and_paths["EasyAnimate"][0][:] = known

    def test_new_folder_is_offered_without_a_restart(self, host, folder):
        options = host.node("EasyAnimateV3Loader").INPUT_TYPES()["required"]["checkpoint"][1]["options"]
        assert {tiny.NAME, "repacked"} <= set(options)

    def test_checkpoints_of_the_pack_are_offered_after_the_users(self, bench, host):
        import folder_paths

        roots = [Path(root) for root in folder_paths.get_folder_paths("EasyAnimate")]
        assert roots == [host.base / "models" / "EasyAnimate", ROOT / "checkpoints"]
        options = host.node("EasyAnimateV3Loader").INPUT_TYPES()["required"]["checkpoint"][1]["options"]
        assert {tiny.NAME, NANO} <= set(options)
        graph = Graph()
        model, vae = bench.value(graph, *(graph.load(NANO)[output] for output in (0, 2)))
        assert LINEAR in _tensors(model)
        assert vae.latent_channels == 4

    def test_a_folder_of_the_user_hides_one_of_the_pack(self, bench, host, tiny_checkpoint):
        graph = Graph()
        shipped = bench.value(graph, graph.load(NANO)[0])
        own = host.base / "models" / "EasyAnimate" / NANO
        shutil.copytree(tiny_checkpoint, own)
        try:
            host.forget()
            users = bench.value(graph, graph.load(NANO)[0])
        finally:
            shutil.rmtree(own)
            host.forget()
        assert _tensors(users)[LINEAR].shape != _tensors(shipped)[LINEAR].shape


# The VAE in core nodes and in ours


def _latent(frames=2, height=4, width=4, batch=1):
    return torch.randn(batch, 4, frames, height, width, generator=torch.Generator().manual_seed(2))


def _pixels(frames, height=32, width=48):
    return torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(2))


def _decode(graph, latent, vae, smoothing=False, tiling=True):
    return graph.add("EasyAnimateV3VAEDecode", samples=latent, vae=vae, smoothing=smoothing, tiling=tiling)


class TestVAENodes:
    def test_has_every_attribute_of_the_hosts_own_vae(self, bench):
        """The host reads attributes of its VAEs anywhere; ours does not run the constructor that sets them."""
        import comfy.sd

        graph = Graph()
        ours = bench.value(graph, graph.load()[2])
        stock = comfy.sd.VAE(sd={})
        assert [name for name in vars(stock) if not hasattr(ours, name)] == []

    @pytest.mark.parametrize(("latents", "frames"), [(1, 1), (2, 8), (3, 9), (4, 16)])
    def test_core_decode_equals_ours(self, bench, latents, frames):
        graph = Graph()
        vae = graph.load()[2]
        latent = bench.give_latent(graph, _latent(latents, 4, 6))
        core, ours = bench.value(
            graph, graph.add("VAEDecode", samples=latent, vae=vae), _decode(graph, latent, vae)
        )
        assert core.shape == (frames, 32, 48, 3)
        assert torch.equal(core, ours)
        assert 0 <= core.min() < core.max() <= 1

    @pytest.mark.parametrize(("frames", "latents"), [(1, 1), (8, 2), (16, 4)])
    def test_core_encode_equals_ours(self, bench, frames, latents):
        graph = Graph()
        vae = graph.load()[2]
        pixels = bench.give(graph, _pixels(frames))
        core = graph.add("VAEEncode", pixels=pixels, vae=vae)
        ours = graph.add("EasyAnimateV3VAEEncode", pixels=pixels, vae=vae, tiling=True)
        core, ours = (latent["samples"] for latent in bench.value(graph, core, ours))
        assert core.shape == (1, 4, latents, 4, 6)
        assert torch.equal(core, ours)

    def test_core_encode_takes_one_frame_more(self, bench):
        graph = Graph()
        latent = graph.add("VAEEncode", pixels=bench.give(graph, _pixels(9)), vae=graph.load()[2])
        assert bench.value(graph, latent)["samples"].shape == (1, 4, 3, 4, 6)

    def test_core_encode_crops_what_does_not_fit(self, bench):
        graph = Graph()
        vae = graph.load()[2]
        pixels = bench.give(graph, _pixels(8, 37, 50))
        latent = graph.add("VAEEncode", pixels=pixels, vae=vae)
        assert bench.value(graph, latent)["samples"].shape == (1, 4, 2, 4, 6)

    @pytest.mark.parametrize(("latents", "frames"), [(4, 16), (5, 17)])
    def test_core_tiled_decode(self, bench, latents, frames):
        graph = Graph()
        vae = graph.load()[2]
        latent = bench.give_latent(graph, _latent(latents, 10, 4))
        options = {"overlap": 16, "temporal_size": 8, "temporal_overlap": 4}
        tiles = graph.add("VAEDecodeTiled", samples=latent, vae=vae, tile_size=64, **options)
        options = {"overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
        one_tile = graph.add("VAEDecodeTiled", samples=latent, vae=vae, tile_size=512, **options)
        tiles, one_tile, whole = bench.value(graph, tiles, one_tile, _decode(graph, latent, vae))
        assert tiles.shape == whole.shape == (frames, 80, 32, 3)
        assert torch.isfinite(tiles).all()
        assert not torch.equal(tiles, whole)
        assert relative_error(one_tile, whole) < 1e-5

    def test_core_tiled_encode(self, bench):
        graph = Graph()
        vae = graph.load()[2]
        pixels = bench.give(graph, _pixels(16, 80, 32))
        options = {"overlap": 32, "temporal_size": 8, "temporal_overlap": 4}
        latent = graph.add("VAEEncodeTiled", pixels=pixels, vae=vae, tile_size=64, **options)
        assert bench.latent(graph, latent).shape == (1, 4, 4, 10, 4)

    def test_smoothing_changes_frames_next_to_slice_borders_only(self, bench):
        graph = Graph()
        vae = graph.load()[2]
        latent = bench.give_latent(graph, _latent(4))
        smooth, plain = bench.value(
            graph, _decode(graph, latent, vae, smoothing=True), _decode(graph, latent, vae)
        )
        changed = [not torch.equal(a, b) for a, b in zip(smooth, plain, strict=True)]
        assert changed == [False] * 4 + [True] * 8 + [False] * 4

    def test_tiling_off_decodes_a_large_frame_whole(self, bench):
        graph = Graph()
        vae = graph.load()[2]
        latent = bench.give_latent(graph, _latent(1, 4, 50))
        tiled, whole = bench.value(
            graph, _decode(graph, latent, vae), _decode(graph, latent, vae, tiling=False)
        )
        assert tiled.shape == whole.shape == (1, 32, 400, 3)
        assert not torch.allclose(tiled, whole, atol=1e-3)
        pixels = bench.give(graph, _pixels(1, 32, 400))
        nodes = [
            graph.add("EasyAnimateV3VAEEncode", pixels=pixels, vae=vae, tiling=tiling)
            for tiling in (True, False)
        ]
        tiled, whole = (latent["samples"] for latent in bench.value(graph, *nodes))
        assert not torch.allclose(tiled, whole, atol=1e-3)

    def test_clips_of_a_batch_follow_each_other(self, bench):
        graph = Graph()
        vae = graph.load()[2]
        clips = _latent(batch=2)
        both, second = bench.value(
            graph,
            _decode(graph, bench.give_latent(graph, clips), vae),
            _decode(graph, bench.give_latent(graph, clips[1:]), vae),
        )
        assert both.shape == (16, 32, 32, 3)
        assert relative_error(both[8:], second) < 1e-5


# Other nodes


@pytest.mark.parametrize("sampler", ["Euler", "Euler A", "DPM++", "PNDM", "DDIM"])
def test_sigmas(bench, sampler):
    graph = Graph()
    whole, half, none = (
        graph.add("EasyAnimateV3Sigmas", sampler_name=sampler, steps=5, denoise=denoise)
        for denoise in (1.0, 0.5, 0.0)
    )
    whole, half, none = bench.value(graph, whole, half, none)
    assert torch.equal(whole, release_sigmas(sampler, 5))
    assert torch.equal(half, release_sigmas(sampler, 10)[-6:])
    assert none.numel() == 0


def test_core_clip_vision_output_fits(bench):
    graph = Graph()
    loader = graph.load()
    start = graph.picture(64, 48)
    core = graph.add("CLIPVisionEncode", clip_vision=loader[3], image=start, crop="center")
    ours = graph.add("EasyAnimateV3ImageEncode", clip_vision=loader[3], image=start)
    clip = graph.clip(loader, start=start, clip_vision_output=core)
    core, ours, positive, negative = bench.value(graph, core, ours, clip[0], clip[1])
    # One colour looks the same whatever the interpolation.
    assert relative_error(core["image_embeds"], ours["image_embeds"]) < 1e-3
    assert torch.equal(positive[0][1]["easyanimate_clip_embeds"], core["image_embeds"])
    assert "easyanimate_clip_embeds" not in negative[0][1]


@pytest.mark.parametrize(("width", "height", "base"), [(1280, 720, 512), (720, 1280, 768), (64, 64, 960)])
def test_resize_to_bucket(bench, width, height, base):
    graph = Graph()
    bucket = graph.add("EasyAnimateV3ResizeToBucket", image=graph.picture(width, height), base=base)
    image, new_width, new_height = bench.value(graph, *(bucket[output] for output in range(3)))
    assert image.shape == (1, new_height, new_width, 3)
    assert new_width % 16 == new_height % 16 == 0
    assert new_width / new_height == pytest.approx(width / height, rel=0.15)
    assert new_width * new_height == pytest.approx(base**2, rel=0.1)


def test_cleaning_changes_the_prompt_only_where_it_is_on(bench):
    graph = Graph()
    loader = graph.load()
    texts = [
        graph.text(loader[1], text, clean)
        for text, clean in (("A DOG", True), ("a dog", False), ("A DOG", False))
    ]
    cleaned, lower, raw = (text[0][0] for text in bench.value(graph, *texts))
    assert torch.equal(cleaned, lower)
    assert cleaned.shape != raw.shape or not torch.equal(cleaned, raw)


def test_first_and_last_frame(bench):
    graph = Graph()
    loader = graph.load()
    start, end = graph.picture(), graph.picture(color=0xF0F0F0)
    one = graph.clip(loader, start=start, length=16)
    both = graph.clip(loader, start=start, end_image=end, length=16)
    one, both = bench.value(graph, one[0], both[0])
    one, both = (conditioning[0][1]["easyanimate_inpaint"] for conditioning in (one, both))
    assert torch.equal(one[:, :, :2], both[:, :, :2])
    assert not torch.allclose(one[:, :, 2:], both[:, :, 2:], atol=1e-3)


def test_saved_videos_are_numbered_and_shown(bench, host):
    outputs = []
    for color in (0x000000, 0xFFFFFF):
        graph = Graph()
        images = graph.add("EmptyImage", width=32, height=32, batch_size=2, color=color)
        save = graph.add(
            "EasyAnimateV3SaveVideo", images=images, filename_prefix="clips/numbered", fps=24.0, crf=23
        )
        outputs.append(bench.run(graph).outputs[save.id])
    names = [output["images"][0]["filename"] for output in outputs]
    assert names == ["numbered_00001_.mp4", "numbered_00002_.mp4"]
    for output in outputs:
        assert output["images"][0]["subfolder"] == "clips"
        assert output["images"][0]["type"] == "output"
        assert output["animated"] == (True,) or output["animated"] == [True]
    assert all((host.base / "output" / "clips" / name).stat().st_size > 0 for name in names)
