"""The transformer's memory plans give the same result, and ComfyUI's fp8 product gets what it may change."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn as nn

from devtools.golden import relative_error, rule_input, rule_state_dict
from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig, memory

CONFIG = json.loads((Path(__file__).parent / "golden" / "dit" / "config.json").read_text())
# Two rows of 5 frames of 7x10 positions: neither frames nor positions divide by what a chunk holds.
SHAPE = (2, 12, 5, 14, 20)
CHUNK = 130


def _make(dtype=torch.float32, operations=nn):
    config = TransformerConfig.from_dict(CONFIG)
    model = EasyAnimateTransformer3D(config, dtype=dtype, operations=operations)
    model.load_state_dict(rule_state_dict({name: t.shape for name, t in model.state_dict().items()}))
    return model.eval().requires_grad_(False)


def _forward(model, **options):
    dtype = model.dtype
    return model(
        rule_input("plan.latent", SHAPE).to(dtype),
        torch.tensor([500.0, 500.0]),
        rule_input("plan.text", (2, 9, CONFIG["caption_channels"])).to(dtype),
        [9, 4],
        rule_input("plan.clip", (2, 768)).to(dtype),
        [False, True],
        **options,
    ).float()


def _run(model, **options):
    with torch.inference_mode():
        return _forward(model, **options)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-6), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("plan", [1, 2], ids=["chunks", "chunks, skips parked"])
@pytest.mark.parametrize("chunk", [CHUNK, 360], ids=["parts of a clip", "a clip at a time"])
def test_every_plan_gives_the_same_result(monkeypatch, dtype, bound, plan, chunk):
    monkeypatch.setattr(memory, "CHUNK_TOKENS", chunk)
    model, calls = _make(dtype), []
    plans = memory.memory_plans(model.config, 2 * 5 * 7 * 10, dtype.itemsize)
    whole = _run(model, memory_budget=lambda device: plans[0].bytes)
    assert torch.equal(whole, _run(model))
    model.transformer_blocks[1].ff.register_forward_hook(lambda *_: calls.append(1))
    assert relative_error(_run(model, memory_budget=lambda device: plans[plan].bytes), whole) < bound
    assert len(calls) > 1


def test_gradients_do_not_change_the_result():
    """Other kernels run where gradients are on."""
    model = _make()
    expected = _run(model)
    assert relative_error(_forward(model.requires_grad_(True)).detach(), expected) < 3e-6


def test_gradients_are_never_computed_in_chunks(monkeypatch):
    """Chunks are written over tensors that the backward pass reads."""
    monkeypatch.setattr(memory, "CHUNK_TOKENS", CHUNK)
    model = _make().requires_grad_(True)

    def gradients(**options):
        return torch.autograd.grad(_forward(model, **options).square().sum(), model.parameters())

    expected, short = gradients(), gradients(memory_budget=lambda device: 0)
    assert all(map(torch.equal, expected, short))


class _Recording(nn.Linear):
    """Clamps inputs of two or three axes in place, as ComfyUI's fp8 product does, here to almost nothing."""

    clamped: set

    def forward(self, x):
        if x.ndim in (2, 3):
            self.clamped.add(self.name)
            x.clamp_(-0.01, 0.01)
        return super().forward(x)


@pytest.mark.parametrize("plan", [0, 1])
def test_fp8_products_never_get_the_stream_of_tokens(monkeypatch, plan):
    """Only layers behind a norm, whose input nobody reads again, may get two or three axes."""
    monkeypatch.setattr(memory, "CHUNK_TOKENS", CHUNK)
    operations = type("Operations", (), {**vars(nn), "Linear": _Recording})
    model, _Recording.clamped = _make(operations=operations), set()
    for name, layer in model.named_modules():
        layer.name = name
    plans = memory.memory_plans(model.config, 2 * 5 * 7 * 10, 4)
    _run(model, memory_budget=lambda device: plans[plan].bytes)
    blocks = {name.split(".", 2)[2] for name in _Recording.clamped if name.startswith("transformer_blocks.")}
    motion = "attn_temporal.temporal_transformer."
    behind_norms = {"attn1.to_q", "attn1.to_k", "attn1.to_v", motion + "proj_in"}
    for index in range(2):
        layer = f"{motion}transformer_blocks.0.attention_blocks.{index}."
        behind_norms |= {layer + name for name in ("to_q", "to_k", "to_v", "to_out.0")}
    assert blocks <= behind_norms | {"attn1.to_out.0", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"}
    assert not any(name.startswith("long_connect_fc") for name in _Recording.clamped)
