"""EasyAnimateV3LoraLoader: what LoRA files change, in which formats, and which ones are refused."""

import json
import shutil

import pytest
import torch
from graphs import Graph
from safetensors.torch import save_file

from devtools import tiny_checkpoint, tiny_lora
from devtools.environment import ROOT
from devtools.golden import read_case, relative_error, rule_state_dict
from easyanimate_core.checkpoint import read_state_dict
from easyanimate_core.checkpoint.lora import merge_lora, to_native_names
from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig

GOLDEN = ROOT / "tests" / "golden"
LINEAR = "transformer_blocks.3.attn1.to_q.weight"


@pytest.fixture(scope="module")
def transformer_weights(tiny_checkpoint):
    return read_state_dict(tiny_checkpoint / "transformer")


def apply(graph, model, name=tiny_lora.NAME, strength=1.0, clip=None, strength_clip=1.0):
    connected = {} if clip is None else {"clip": clip}
    return graph.add(
        "EasyAnimateV3LoraLoader",
        model=model,
        lora_name=name,
        strength_model=strength,
        strength_clip=strength_clip,
        **connected,
    )


def sampled(bench, *loras):
    """Sample one clip with LoRAs, given as (name, strength), one after the other."""
    graph = Graph()
    model = loader = graph.load()
    for name, strength in loras:
        model = apply(graph, model, name, strength)
    return bench.latent(graph, graph.sample(model, graph.clip(loader)))


@pytest.fixture(scope="module")
def plain(bench):
    return sampled(bench)


@pytest.fixture(scope="module")
def sampled_merged(bench, host, transformer_weights):
    """Sample the same clip with LoRAs merged into the weights of a file, given as (tensors, strength)."""

    def sample(*loras):
        weights = dict(transformer_weights)
        for tensors, strength in loras:
            assert merge_lora(weights, tensors, strength)
        folder = host.base / "models" / "diffusion_models"
        folder.mkdir(exist_ok=True)
        config = json.dumps(tiny_checkpoint.transformer_config())
        # A name of its own, or the host would take the file before from its cache.
        name = f"merged_{len(list(folder.iterdir()))}.safetensors"
        save_file(weights, folder / name, {"config": config})
        graph = Graph()
        model = graph.add("EasyAnimateV3TransformerLoader", transformer_name=name, weight_dtype="default")
        return bench.latent(graph, graph.sample(model, graph.clip(graph.load())))

    return sample


@pytest.mark.parametrize("strength", [1.0, 0.4, -0.5])
def test_equals_weights_that_the_lora_is_merged_into(bench, lora, plain, sampled_merged, strength):
    patched = sampled(bench, (tiny_lora.NAME, strength))
    assert relative_error(patched, sampled_merged((lora, strength))) < 1e-5
    assert relative_error(patched, plain) > 1e-3


@torch.no_grad()
def test_golden_lora_of_the_release_gives_the_golden_output(bench, host, write_lora):
    import comfy.model_management

    tensors, metadata = read_case(GOLDEN / "lora" / "lora_kohya.safetensors")
    config = json.loads((GOLDEN / "dit" / "config.json").read_text())
    shapes = {
        name: tensor.shape
        for name, tensor in EasyAnimateTransformer3D(TransformerConfig.from_dict(config), device="meta")
        .state_dict()
        .items()
    }
    file = host.base / "models" / "diffusion_models" / "golden_of_lora.safetensors"
    file.parent.mkdir(exist_ok=True)
    save_file(rule_state_dict(shapes), file, {"config": json.dumps(config)})
    name = write_lora(
        "golden.safetensors",
        {key.removeprefix("lora."): tensor for key, tensor in tensors.items() if key.startswith("lora.")},
    )
    graph = Graph()
    loader = graph.add("EasyAnimateV3TransformerLoader", transformer_name=file.name, weight_dtype="default")
    plain, patched = bench.value(
        graph, loader, apply(graph, loader, name, strength=float(metadata["multiplier"]))
    )

    def output(model):
        comfy.model_management.load_models_gpu([model])
        always = bench.core("host.clip_schedule").pack_ratio(1.0)
        return model.model.diffusion_model(
            torch.cat([tensors["latent"], tensors["inpaint"]], dim=1),
            tensors["timestep"],
            tensors["text"],
            context_lengths=tensors["text_mask"].sum(1).long(),
            clip_embeds=tensors["clip"],
            clip_ratio=torch.full((len(tensors["clip"]),), always),
        )

    # The host takes the noise alone; the learned sigma behind it is not used.
    expected = tensors["output"][:, :4]
    assert relative_error(output(patched), expected) < 1e-5
    assert relative_error(output(plain), expected) > 1e-3


def test_loras_add_up(bench, lora, write_lora, sampled_merged):
    other = {
        name: -tensor if "lora_up" in name and "attn2" in name else tensor for name, tensor in lora.items()
    }
    stacked = sampled(bench, (tiny_lora.NAME, 1.0), (write_lora("other.safetensors", other), 0.5))
    assert relative_error(stacked, sampled_merged((lora, 1.0), (other, 0.5))) < 1e-5
    assert relative_error(stacked, sampled_merged((lora, 1.0))) > 1e-3


def test_model_before_the_loader_stays_as_it_is(bench, plain):
    graph = Graph()
    loader = graph.load()
    patched = graph.sample(apply(graph, loader, clip=loader[1]), graph.clip(loader))
    before, after = bench.value(graph, graph.sample(loader, graph.clip(loader)), patched)
    assert torch.equal(before["samples"], plain)
    assert not torch.equal(after["samples"], plain)


def test_zero_strengths_give_back_both_models(bench):
    graph = Graph()
    loader = graph.load()
    node = apply(graph, loader, strength=0.0, clip=loader[1], strength_clip=0.0)
    model, clip, same_model, same_clip = bench.value(graph, loader, loader[1], node[0], node[1])
    assert same_model is model and same_clip is clip


class TestTextEncoder:
    @pytest.fixture
    def merged_checkpoint(self, host, tiny_checkpoint, lora):
        folder = host.base / "models" / "EasyAnimate" / "merged_text"
        shutil.copytree(tiny_checkpoint, folder)
        weights = {
            name: tensor.clone() for name, tensor in read_state_dict(tiny_checkpoint / "text_encoder").items()
        }
        assert merge_lora(weights, lora, 0.7, part="lora_te")
        for path in (folder / "text_encoder").glob("*.safetensors*"):
            path.unlink()
        save_file(weights, folder / "text_encoder" / "model.safetensors")
        yield folder.name
        shutil.rmtree(folder)

    def test_equals_merged_weights(self, bench, merged_checkpoint):
        graph = Graph()
        loader = graph.load()
        node = apply(graph, loader, strength=0.0, clip=loader[1], strength_clip=0.7)
        merged = graph.load(merged_checkpoint)
        texts = [graph.text(clip) for clip in (loader[1], node[1], merged[1])]
        plain, patched, expected = (text[0][0] for text in bench.value(graph, *texts))
        # The host keeps T5 in float16, ten bits of mantissa.
        assert relative_error(patched, expected) < 3e-3
        assert relative_error(patched, plain) > 3e-2

    def test_lora_for_the_text_encoder_alone(self, bench, lora, write_lora):
        name = write_lora("t5.safetensors", {k: v for k, v in lora.items() if k.startswith("lora_te_")})
        graph = Graph()
        loader = graph.load()
        nodes = [apply(graph, loader, file, clip=loader[1]) for file in (name, tiny_lora.NAME)]
        one, other = (text[0][0] for text in bench.value(graph, *(graph.text(node[1]) for node in nodes)))
        assert torch.equal(one, other)

    def test_part_without_a_clip_is_told_of(self, bench):
        graph = Graph()
        node = apply(graph, graph.load())
        result, (clip,) = bench.outcome(graph, node[1])
        assert clip is None
        (line,) = result.outputs[node.id]["text"]
        assert "also changes the text encoder" in line and "connect CLIP" in line

    def test_nothing_is_told_where_nothing_is_left_out(self, bench, lora, write_lora):
        name = write_lora("unet.safetensors", {k: v for k, v in lora.items() if k.startswith("lora_unet")})
        graph = Graph()
        loader = graph.load()
        nodes = [
            apply(graph, loader, name),
            apply(graph, loader, strength_clip=0.0),
            apply(graph, loader, clip=loader[1]),
        ]
        result, _ = bench.outcome(graph, *(node[0] for node in nodes))
        assert not [node.id for node in nodes if "text" in result.outputs.get(node.id, {})]

    def test_clip_without_t5(self, bench):
        class NoT5:
            cond_stage_model = torch.nn.Linear(1, 1)

        graph = Graph()
        node = apply(graph, graph.load(), clip=bench.give(graph, NoT5()))
        assert "changes T5, but this CLIP has no T5 encoder" in bench.refusal(graph, node)


class TestFormats:
    """Files of other trainers go to the host as they are."""

    def test_kohya_with_one_underscore(self, bench, lora, write_lora):
        tensors = {name.replace("lora_unet__", "lora_unet_"): t for name, t in lora.items()}
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("lora_unet_")}
        name = write_lora("kohya.safetensors", tensors)
        assert torch.equal(sampled(bench, (name, 1.0)), sampled(bench, (tiny_lora.NAME, 1.0)))

    def test_dotted_names(self, bench, lora, write_lora, transformer_weights):
        name = write_lora("dotted.safetensors", to_native_names(lora, transformer_weights))
        assert torch.equal(sampled(bench, (name, 1.0)), sampled(bench, (tiny_lora.NAME, 1.0)))

    def test_pytorch_file(self, bench, host, lora):
        torch.save(lora, host.base / "models" / "loras" / "lora.pt")
        assert torch.equal(sampled(bench, ("lora.pt", 1.0)), sampled(bench, (tiny_lora.NAME, 1.0)))


def factors(module, rows=320, columns=320, up="lora_up", down="lora_down"):
    return {
        f"{module}.{up}.weight": torch.ones(rows, 2),
        f"{module}.{down}.weight": torch.ones(2, columns),
    }


OTHERS = {
    "Stable Diffusion 1.5": factors("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q")
    | factors("lora_te_text_model_encoder_layers_0_mlp_fc1", 3072, 768),
    "Flux": factors("transformer.single_transformer_blocks.0.attn.to_q", 3072, 3072, "lora_B", "lora_A"),
    "Flux by kohya": factors("lora_unet_double_blocks_0_img_attn_proj", 3072, 3072),
    "no LoRA": {"model.weight": torch.ones(2, 2)},
    "nothing": {},
}


class TestRefusals:
    def refusal(self, bench, name, **options):
        graph = Graph()
        loader = graph.load()
        return bench.refusal(graph, apply(graph, loader, name, clip=loader[1], **options))

    @pytest.mark.parametrize("kind", OTHERS)
    def test_other_models(self, bench, write_lora, kind):
        message = self.refusal(bench, write_lora("foreign.safetensors", OTHERS[kind]))
        assert "foreign.safetensors fits nothing in this model" in message
        assert "use a LoRA trained for EasyAnimateV3" in message

    def test_later_easyanimate(self, bench, write_lora):
        module = "lora_unet__transformer_blocks_0_attn1_to_query"
        message = self.refusal(bench, write_lora("later.safetensors", factors(module, 32, 32)))
        assert f"1 modules that the model lacks, the first '{module}'" in message

    @pytest.mark.parametrize("part", ["transformer", "T5"])
    def test_other_sizes(self, bench, write_lora, part):
        module = "lora_unet__transformer_blocks_0_attn1_to_q"
        if part == "T5":
            module = "lora_te_encoder_block_0_layer_0_SelfAttention_q"
        message = self.refusal(bench, write_lora("wide.safetensors", factors(module, 1152, 1152)))
        assert "has shape [1152, 1152], the weight [" in message and "for another model" in message

    def test_other_model_connected(self, bench):
        graph = Graph()
        loader = graph.load()
        other = bench.value(graph, loader).clone()
        other.model = torch.nn.Linear(1, 1)
        graph = Graph()
        message = bench.refusal(graph, apply(graph, bench.give(graph, other)))
        assert "this MODEL is another one's" in message

    def test_file_that_is_not_there(self, bench, host):
        message = self.refusal(bench, "missing.safetensors")
        assert "There is no file 'missing.safetensors' in" in message
        assert str(host.base / "models" / "loras") in message

    def test_pickle_that_could_run_code(self, bench, host, tmp_path):
        class Harm:
            def __reduce__(self):
                return (tmp_path.joinpath("harmed").touch, ())

        torch.save({"lora_unet__a.lora_up.weight": Harm()}, host.base / "models" / "loras" / "harm.pt")
        assert "could run code, so it is refused" in self.refusal(bench, "harm.pt")
        assert not (tmp_path / "harmed").exists()

    def test_file_that_is_cut_short(self, bench, host):
        folder = host.base / "models" / "loras"
        whole = (folder / tiny_lora.NAME).read_bytes()
        (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
        assert "cut short" in self.refusal(bench, "cut.safetensors")


def test_list_of_files_is_the_hosts(host):
    options = host.node("EasyAnimateV3LoraLoader").INPUT_TYPES()["required"]["lora_name"][1]["options"]
    assert tiny_lora.NAME in options
