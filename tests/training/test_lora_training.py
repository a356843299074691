"""A LoRA from training to the host: what it learned is in its files, and every loader finds it there."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from devtools.golden import relative_error
from easyanimate_core.checkpoint.lora import merge_lora
from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig
from training import folder, lora
from training.base import read_base
from training.clips import ClipError
from training.loop import Settings, averaged
from training.rings import Rings

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
RANK, ALPHA = 3, 6.0
# A rate that is far too high to learn anything, so that few steps change much.
SETTINGS = Settings(4, 1.0, warmup=100)


class SmallRings(Rings):
    """Rings of half the size, for the small transformer."""

    side = 32

    def draw(self, rng, frames):
        return HalfSize(super().draw(rng, frames))


class HalfSize:
    def __init__(self, clip):
        self.clip, self.lead = clip, clip.lead
        self.caption, self.partial_caption = clip.caption, clip.partial_caption

    def render(self):
        return torch.nn.functional.avg_pool2d(self.clip.render(), 2)


def train(run, base, settings=SETTINGS, **options):
    options = {"rank": RANK, "alpha": ALPHA, "pool_size": 2} | options
    # What the process drew before must not matter.
    torch.seed()
    lora.train(run, settings, base, SmallRings(), CPU, **options)
    return averaged(run)


@pytest.fixture(scope="module")
def run(make_base, tmp_path_factory):
    """A run's folder."""
    path = tmp_path_factory.mktemp("run") / "lora"
    train(path, make_base())
    return path


@pytest.fixture(scope="module")
def files(run, transformer_config, tmp_path_factory):
    return lora.export(run, tmp_path_factory.mktemp("files") / "ring.safetensors", transformer_config)


@pytest.fixture(scope="module")
def weights(make_base):
    return make_base().transformer


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)
    shapes = {"x": (1, 12, 4, 4, 4), "context": (1, 5, 64), "clip_embeds": (1, 768)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return tensors | {"timestep": torch.tensor([400.0])}


@pytest.fixture(scope="module")
def build(transformer_config):
    def build(weights):
        model = EasyAnimateTransformer3D(TransformerConfig.from_dict(transformer_config))
        model.load_state_dict(weights)
        return model

    return build


@torch.no_grad()
def noise(model, inputs):
    return model(**inputs)[:, :4]


@pytest.fixture(scope="module")
def plain(build, weights, inputs):
    return noise(build(weights), inputs)


@pytest.fixture(scope="module")
def trained(build, weights, run, inputs):
    """What the transformer gives with the LoRA as it is in training."""
    model = build(weights)
    lora.Lora(model, RANK, ALPHA).load_state_dict(averaged(run))
    return noise(model, inputs)


class TestUpdates:
    def test_change_nothing_at_first(self, build, weights, inputs, plain):
        model = build(weights)
        # With gradients: without them plain layers go through fused kernels, which round otherwise.
        expected = model(**inputs)
        updates = lora.Lora(model, RANK, ALPHA).requires_grad_(False)
        assert torch.equal(model(**inputs), expected)
        assert relative_error(noise(model, inputs), plain) < 1e-6
        for factor in updates.parameters():
            factor.fill_(1)
        assert relative_error(noise(model, inputs), plain) > 0.1

    def test_alone_are_trained(self, build, weights, inputs):
        model = build(weights)
        updates = lora.Lora(model, RANK, ALPHA)
        model(**inputs).sum().backward()
        assert all(factor.grad is None for factor in model.parameters())
        assert any(factor.grad.any() for factor in updates.parameters())

    def test_of_all_linear_layers_of_the_blocks(self, build, weights):
        updates = lora.Lora(build(weights), RANK, ALPHA).state_dict()
        expected = {
            "lora_unet__" + name.removesuffix(".weight").replace(".", "_")
            for name, tensor in weights.items()
            if name.startswith("transformer_blocks.") and name.endswith(".weight") and tensor.ndim == 2
        }
        assert {name.partition(".")[0] for name in updates} == expected
        assert len(expected) == 2 * (4 + 4 + 2 + 2 * 4 + 2 + 2)

    def test_of_chosen_layers(self, build, weights):
        updates = lora.Lora(build(weights), RANK, ALPHA, (".attn1.to_q",)).state_dict()
        names = {name.partition(".")[0] for name in updates}
        assert names == {f"lora_unet__transformer_blocks_{block}_attn1_to_q" for block in range(2)}

    def test_refusals(self, build, weights):
        with pytest.raises(ClipError, match=r"no linear layers named \.to_query: choose others\."):
            lora.Lora(build(weights), RANK, ALPHA, (".to_query",))
        with pytest.raises(ClipError, match=r"rank is 0: choose 1 or more\."):
            lora.Lora(build(weights), 0, ALPHA)


class TestTraining:
    def test_keeps_the_updates_alone(self, run):
        state = torch.load(run / "state.pt", weights_only=True)
        for part in ("model", "average"):
            assert all(name.startswith("lora_unet__transformer_blocks_") for name in state[part])

    def test_resumes_exactly(self, make_base, run, tmp_path):
        whole = averaged(run)
        # The learning rate of the warm-up does not depend on where the run ends.
        half = train(tmp_path / "lora", make_base(), Settings(2, 1.0, warmup=100))
        broken = train(tmp_path / "lora", make_base())
        assert all(torch.equal(broken[name], whole[name]) for name in whole)
        assert not all(torch.equal(half[name], whole[name]) for name in whole)

    def test_other_seed(self, make_base, run, tmp_path):
        other = train(tmp_path / "lora", make_base(), Settings(4, 1.0, warmup=100, seed=1))
        assert not any(
            torch.equal(other[name], tensor) for name, tensor in averaged(run).items() if "alpha" not in name
        )

    def test_rank_is_the_default_strength(self, make_base, tmp_path):
        trained = train(tmp_path / "lora", make_base(), Settings(1, 1.0), alpha=None)
        assert {tensor.item() for name, tensor in trained.items() if name.endswith(".alpha")} == {RANK}


class TestFiles:
    def test_merged_by_the_formula(self, files, build, weights, inputs, trained, plain):
        merged = dict(weights)
        assert merge_lora(merged, load_file(files[0]))
        assert relative_error(noise(build(merged), inputs), trained) < 1e-5
        assert relative_error(plain, trained) > 0.05

    def test_release_layout(self, files, run):
        tensors = load_file(files[0])
        module = "lora_unet__transformer_blocks_1_attn_temporal_temporal_transformer_transformer_blocks_0_ff_net_0_proj"
        kinds = {key.removeprefix(f"{module}."): t for key, t in tensors.items() if key.startswith(module)}
        assert {kind: tuple(t.shape) for kind, t in kinds.items()} == {
            "lora_down.weight": (RANK, 64),
            "lora_up.weight": (512, RANK),
            "alpha": (),
        }
        assert kinds["alpha"] == ALPHA
        for path in files:
            with safe_open(path, "pt") as file:
                assert file.metadata() == {"ss_network_dim": "3", "ss_network_alpha": "6"}

    def test_fewer_bits(self, run, transformer_config, tmp_path):
        path, _ = lora.export(run, tmp_path / "half.safetensors", transformer_config, torch.float16)
        assert {t.dtype for name, t in load_file(path).items() if "alpha" not in name} == {torch.float16}

    def test_nothing_was_trained(self, transformer_config, tmp_path):
        with pytest.raises(FileNotFoundError, match="run `python -m training lora` first"):
            lora.export(tmp_path / "lora", tmp_path / "a.safetensors", transformer_config)


@pytest.fixture(scope="module")
def model(host, weights, transformer_config):
    """The transformer as the host loads it."""
    path = host.base / "models" / "diffusion_models" / "small.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(weights, path, {"config": json.dumps(transformer_config)})
    loader = host.node("EasyAnimateV3TransformerLoader")
    return loader.execute(transformer_name=path.name, weight_dtype="default").result[0]


@pytest.fixture(scope="module")
def names(host, files):
    """Names of both files in the host's folder."""
    for path in files:
        (host.base / "models" / "loras" / path.name).write_bytes(path.read_bytes())
    return [path.name for path in files]


class TestHost:
    """The files in a real ComfyUI."""

    @staticmethod
    def output(model, inputs):
        import comfy.model_management

        comfy.model_management.load_models_gpu([model])
        # The CLIP tokens in every model call.
        return noise(model.model.diffusion_model, inputs | {"clip_ratio": torch.tensor([1_000_000])})

    def test_packs_loader(self, host, model, names, inputs, trained, plain):
        node = host.node("EasyAnimateV3LoraLoader")
        for name in names:
            patched = node.execute(model=model, lora_name=name, strength_model=1.0, strength_clip=0.0).result[
                0
            ]
            assert relative_error(self.output(patched, inputs), trained) < 1e-5
        assert relative_error(self.output(model, inputs), plain) < 1e-5

    def test_core_loader(self, host, model, names, inputs, trained, plain):
        core = host.node("LoraLoaderModelOnly")
        (patched,) = core().load_lora_model_only(model, names[1], 1.0)
        assert relative_error(self.output(patched, inputs), trained) < 1e-5
        # The release's names match nothing there, which is what the second file is for.
        (patched,) = core().load_lora_model_only(model, names[0], 1.0)
        assert relative_error(self.output(patched, inputs), plain) < 1e-5


@pytest.fixture(scope="module")
def checkpoint(make_base, vae_config, tmp_path_factory):
    """A checkpoint folder whose transformer and VAE are smaller than nano's."""
    base = make_base()
    parts = (base.transformer, base.vae.state_dict(), base.text.state_dict(), base.clip.state_dict())
    path = folder.write(tmp_path_factory.mktemp("checkpoint") / "small", *parts)
    for component, config in (("transformer", base.config), ("vae", vae_config)):
        (path / component / "config.json").write_text(json.dumps(config))
    return path


class TestBase:
    def test_sizes_come_from_the_folder(self, checkpoint, make_base):
        base, made = read_base(checkpoint), make_base()
        assert base.config["num_layers"] == 2 and base.side == 32
        for name, tensor in made.transformer.items():
            assert torch.equal(base.transformer[name], tensor.bfloat16().float())
        assert not any(
            tensor.requires_grad for part in (base.vae, base.text, base.clip) for tensor in part.parameters()
        )

    def test_run_that_a_checkpoint_was_unpacked_into(self, checkpoint, tmp_path):
        folder.unpack(checkpoint, tmp_path)
        base, unpacked = read_base(checkpoint), read_base(tmp_path)
        assert unpacked.config == base.config and unpacked.vae.config == base.vae.config
        assert all(
            torch.equal(unpacked.transformer[name], base.transformer[name]) for name in base.transformer
        )
        for part in ("vae", "text", "clip"):
            one, other = getattr(base, part).state_dict(), getattr(unpacked, part).state_dict()
            assert all(torch.equal(one[name], other[name]) for name in one)

    def test_other_encoders_are_refused(self, tiny_checkpoint):
        with pytest.raises(ClipError, match=r"text_encoder has vocab_size 32128 where nano has"):
            read_base(tiny_checkpoint)


_BARE = """
import sys
for name in ("safetensors", "sentencepiece", "imageio_ffmpeg", "transformers"):
    sys.modules[name] = None
import torch
from pathlib import Path
from training import lora
from training.base import read_base
from training.loop import Settings
from training.videos import VideoClips, read_folder
torch.set_num_threads(1)
base = read_base(Path(sys.argv[1]))
source = VideoClips(read_folder(Path(sys.argv[2]), base.side), 32)
lora.train(Path(sys.argv[3]), Settings(1, 1e-3), base, source, torch.device("cpu"), pool_size=1)
"""


def test_trains_where_nothing_but_torch_is_installed(checkpoint, tmp_path):
    folder.unpack(checkpoint, tmp_path / "run")
    frames = SmallRings().draw(random.Random(0), 40).render().mul(255).byte()
    (tmp_path / "clips").mkdir()
    torch.save({"frames": frames, "caption": "a ring"}, tmp_path / "clips" / "a.mp4.pt")
    places = [str(tmp_path / name) for name in ("run", "clips", "lora")]
    done = subprocess.run([sys.executable, "-c", _BARE, *places], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert averaged(tmp_path / "lora")


def test_what_is_taught(tmp_path):
    """Rings have a hole of the background's colour, and a caption with a word that nano has no token for."""
    for seed in range(20):
        ring = Rings().draw(random.Random(seed), 8)
        assert not ring.held_out and f"a {ring.colour} ring " in ring.caption()
        frame, x, y = ring.render()[ring.lead], round(ring.x), round(ring.y)
        assert (frame[:, y, x] - frame[:, y, min(round(ring.x + 0.75 * ring.radius), 63)]).abs().max() > 0.1
