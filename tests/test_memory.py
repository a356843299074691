"""What the models say they take of a device's memory, against what lives at once in them at full size."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from devtools.live_memory import LiveMemory
from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig
from easyanimate_core.transformer import model as transformer_module
from easyanimate_core.transformer.memory import CHUNK_TOKENS, choose_plan, memory_plans

MISC = Path(__file__).parent / "golden" / "misc"
BF16 = {"dtype": torch.bfloat16, "device": "meta"}
SIZES = {
    "two rows of 384x672x144": (2, 36, 48, 84),
    "one row of 720x1280x144": (1, 36, 90, 160),
    "two rows of 384x672x8": (2, 2, 48, 84),
}


def _flash(q, k, v, heads, **_):
    """Attention as flash kernels do it: nothing but the result lives."""
    return torch.empty_like(q)


def _config(kind):
    return json.loads((MISC / f"{kind}_manifest.json").read_text())["config"]


@pytest.fixture(scope="module")
def transformer():
    # Fewer blocks, since only the first 13 are skips and all others are alike.
    config = replace(TransformerConfig.from_dict(_config("transformer")), num_layers=17)
    return EasyAnimateTransformer3D(config, **BF16, attention=_flash).eval().requires_grad_(False)


@pytest.fixture
def parked_apart(monkeypatch):
    """Tensors of the meta device hold nothing that could be copied to main memory."""
    park = lambda x: torch.empty(x.shape, dtype=x.dtype)  # noqa: E731
    monkeypatch.setattr(transformer_module, "_park", park)


def _peak(transformer, rows, frames, height, width, budget):
    x = torch.empty(rows, 12, frames, height, width, **BF16)
    text = torch.empty(rows, 120, 4096, **BF16)
    clip = torch.empty(rows, 768, **BF16)
    with torch.inference_mode(), LiveMemory() as memory:
        transformer(
            x,
            torch.empty(rows, device="meta"),
            text,
            [20, 100][:rows],
            clip,
            memory_budget=lambda device: budget,
        )
    return memory.peak


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_every_memory_plan_holds_what_it_promises(transformer, parked_apart, size):
    rows, frames, height, width = size
    plans = memory_plans(transformer.config, rows * frames * height * width // 4, 2)
    for plan in plans:
        peak = _peak(transformer, *size, budget=plan.bytes)
        assert peak <= plan.bytes <= 1.2 * peak, (plan, peak)
    assert [plan.bytes for plan in plans] == sorted((plan.bytes for plan in plans), reverse=True)


@pytest.mark.parametrize(
    ("tokens", "gigabytes"),
    [(36 * 45 * 80, 12), (2 * 36 * 24 * 42, 8)],
    ids=["720p, one row", "384p, two rows"],
)
def test_a_small_card_needs_no_parking(tokens, gigabytes):
    """With the weights on the card and 1 GB for what kernels take for themselves."""
    manifest = json.loads((MISC / "transformer_manifest.json").read_text())
    config = TransformerConfig.from_dict(manifest["config"])
    plan = choose_plan(memory_plans(config, tokens, 2), (gigabytes - 1) * 1e9 - 2 * manifest["parameters"])
    assert not plan.park_skips
    assert plan.bytes < (gigabytes - 1) * 1e9 - 2 * manifest["parameters"]


def test_the_fastest_plan_that_fits_is_taken():
    config = TransformerConfig.from_dict(_config("transformer"))
    whole, chunked, parked = memory_plans(config, 10 * CHUNK_TOKENS, 2)
    assert choose_plan([whole, chunked, parked], None) == whole
    assert choose_plan([whole, chunked, parked], whole.bytes) == whole
    assert choose_plan([whole, chunked, parked], whole.bytes - 1) == chunked
    assert choose_plan([whole, chunked, parked], chunked.bytes - 1) == parked
    assert choose_plan([whole, chunked, parked], 0) == parked


def test_little_work_is_never_cut():
    config = TransformerConfig.from_dict(_config("transformer"))
    assert [plan.chunk_tokens for plan in memory_plans(config, CHUNK_TOKENS, 2)] == [None]
