"""torch.compile: whole blocks as one graph, and the host's way of compiling a MODEL."""

import json
from pathlib import Path

import pytest
import torch
from graphs import Graph

from devtools.golden import relative_error, rule_state_dict
from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig
from easyanimate_core.transformer.block import ContextGroup

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("chunk_tokens", [None, 12])
@pytest.mark.parametrize("index", [2, 3])
def test_a_block_compiles_to_one_graph(bench, index, chunk_tokens):
    """An even and an odd block with ComfyUI's layers and attention: ``fullgraph`` refuses any break."""
    graph = Graph()
    model = bench.value(graph, graph.load()).model.diffusion_model
    block, dim = model.transformer_blocks[index], model.config.dim
    group = bench.core("transformer.block").ContextGroup
    torch.manual_seed(0)
    x, modulation = torch.randn(2, 4, 6, dim), torch.randn(2, 6, dim)
    context = [group(1, torch.randn(1, 5, dim)), group(1, torch.randn(1, 9, dim))]
    table = torch.randn(4, dim)
    with torch.no_grad():
        plain = block(x.clone(), modulation, context, table, {}, chunk_tokens)
        compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
        out = compiled(x.clone(), modulation, context, table, {}, chunk_tokens)
    assert relative_error(out, plain) < 1e-5


@pytest.mark.parametrize("index", [2, 3])
def test_a_block_in_half_precision_compiles_to_one_graph(index):
    """Its norms mix float32 weights and half-precision tokens."""
    config = TransformerConfig.from_dict(json.loads((GOLDEN / "dit" / "config.json").read_text()))
    model = EasyAnimateTransformer3D(config, dtype=torch.bfloat16)
    model.load_state_dict(rule_state_dict({name: t.shape for name, t in model.state_dict().items()}))
    block = model.eval().transformer_blocks[index]
    torch.manual_seed(0)
    x, modulation, tokens = (
        torch.randn(shape).bfloat16() for shape in ((1, 4, 6, 32), (1, 6, 32), (1, 5, 32))
    )
    arguments = (modulation, [ContextGroup(1, tokens)], torch.randn(4, 32))
    with torch.no_grad():
        plain = block(x.clone(), *arguments)
        out = torch.compile(block, backend="aot_eager", fullgraph=True)(x.clone(), *arguments)
    assert relative_error(out, plain) < 0.02


def test_the_model_in_half_precision_compiles():
    """What the patches hand to the first block is strided, which a compiler does not take for a result's memory."""
    config = json.loads((GOLDEN / "dit" / "config.json").read_text()) | {"num_layers": 2}
    model = EasyAnimateTransformer3D(TransformerConfig.from_dict(config), dtype=torch.bfloat16)
    model.load_state_dict(rule_state_dict({name: t.shape for name, t in model.state_dict().items()}))
    torch.manual_seed(0)
    x, text = torch.randn(1, config["in_channels"], 4, 8, 8), torch.randn(1, 5, config["caption_channels"])
    inputs = x.bfloat16(), torch.tensor([500.0]), text.bfloat16()
    with torch.inference_mode():
        plain = model.eval()(*inputs)
        out = torch.compile(model, backend="aot_eager")(*inputs)
    assert relative_error(out, plain) < 0.02


def test_free_memory_is_no_reason_to_compile_again():
    """What is free differs from step to step; only another memory plan is another graph."""
    config = TransformerConfig.from_dict(json.loads((GOLDEN / "dit" / "config.json").read_text()))
    model = EasyAnimateTransformer3D(config)
    model.load_state_dict(rule_state_dict({name: t.shape for name, t in model.state_dict().items()}))
    compiled = torch.compile(model.eval(), backend="eager")
    free = [4e9]
    inputs = torch.randn(1, config.in_channels, 4, 8, 8), torch.tensor([500.0])
    text = torch.randn(1, 5, config.caption_channels)

    def budget(device):
        return free[0]

    def run():
        with torch.no_grad():
            return compiled(*inputs, text, memory_budget=budget)

    expected = run()
    free[0] = 3.9e9
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert torch.equal(run(), expected)


def test_the_hosts_compiled_model_samples_the_same(bench):
    """By the function behind TorchCompileModel, with a backend that does not take minutes on a CPU."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    graph = Graph()
    loaded = bench.value(graph, graph.load())
    compiled = loaded.clone()
    set_torch_compile_wrapper(compiled, backend="eager")

    def sampled(model):
        graph = Graph()
        clip = graph.clip(graph.load(), start=graph.picture(), embed=True, length=8)
        return bench.latent(graph, graph.ksample(bench.give(graph, model), clip, steps=1))

    assert relative_error(sampled(compiled), sampled(loaded)) < 1e-5
