"""The shipped nano checkpoint: its size, and what it can do, by the bounds of ``dev.py quality``."""

import os

import pytest
import torch

from devtools.environment import ROOT
from devtools.quality import PARTS, measured
from training.models import NAME, RINGS_LORA

FOLDER = ROOT / "checkpoints" / NAME
# The suite takes an eighth of the cases; dev.py quality takes all.
SHARE = 0.12


@pytest.fixture(scope="module")
def measures():
    return {part.name: part.rows for part in measured(PARTS, min(os.cpu_count() or 1, 4), share=SHARE)}


def test_it_is_small_enough_for_a_repository():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 24e6


def test_loader_lists_it(host):
    schema = host.node("EasyAnimateV3Loader").GET_SCHEMA()
    (names,) = [choice.options for choice in schema.inputs if choice.id == "checkpoint"]
    assert NAME in names


def test_shipped_lora_is_applied_alike_by_the_stock_loader(host):
    import comfy.lora

    names = [f"{RINGS_LORA}.safetensors", f"{RINGS_LORA}_comfyui.safetensors"]
    inputs = host.node("LoraLoaderModelOnly").INPUT_TYPES()["required"]
    assert set(names) <= set(inputs["lora_name"][0])
    model = host.node("EasyAnimateV3Loader").execute(checkpoint=NAME, weight_dtype="default").result[0]
    own = host.node("EasyAnimateV3LoraLoader").execute(
        model=model, lora_name=names[0], strength_model=0.5, strength_clip=0.0
    )
    (stock,) = host.node("LoraLoaderModelOnly")().load_lora_model_only(model, names[1], 0.5)
    weights = model.model.state_dict()
    assert len(stock.patches) == len(own.result[0].patches) > 28 * 10
    for key, patches in stock.patches.items():
        expected, changed = (
            comfy.lora.calculate_weight(patch, weights[key].float().clone(), key)
            for patch in (own.result[0].patches[key], patches)
        )
        torch.testing.assert_close(changed, expected, rtol=0, atol=0)
        assert not torch.equal(changed, weights[key].float())


@pytest.mark.parametrize("part", PARTS)
def test_figures_reach_their_bounds(measures, part):
    rows = measures[part]
    assert rows and all(row.passed for row in rows), "\n".join(map(str, rows))
