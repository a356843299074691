"""The Slice VAE's config and the arithmetic of its slices."""

import json
from pathlib import Path

import pytest
import torch

from easyanimate_core.vae import SliceVAE, SliceVAEConfig, latent_frames, pixel_frames
from easyanimate_core.vae.slices import context_span, slice_spans

GOLDEN = Path(__file__).parent / "golden"
MANIFEST = json.loads((GOLDEN / "misc" / "vae_manifest.json").read_text())
SMALL = json.loads((GOLDEN / "vae" / "config.json").read_text())


def test_full_size_model_has_the_published_tensors():
    model = SliceVAE(SliceVAEConfig.from_dict(MANIFEST["config"]), device="meta")
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == MANIFEST["tensors"]
    assert sum(parameter.numel() for parameter in model.parameters()) == MANIFEST["parameters"]


def test_defaults_are_the_published_config():
    assert SliceVAEConfig() == SliceVAEConfig.from_dict(MANIFEST["config"])


@pytest.mark.parametrize("config", [MANIFEST["config"], SMALL], ids=["published", "small"])
def test_config_from_tensors_equals_config_json(config):
    expected = SliceVAEConfig.from_dict(config)
    tensors = SliceVAE(expected, device="meta").state_dict()
    tensors["loss.logvar"] = torch.empty(1)
    assert SliceVAEConfig.from_state_dict(tensors) == expected
    assert SliceVAEConfig.from_state_dict({name: t.shape for name, t in tensors.items()}) == expected


def test_config_ignores_unknown_keys_and_reads_lists_in_strings():
    values = dict(SMALL, _class_name="AutoencoderKLMagvit", down_block_types=str(SMALL["down_block_types"]))
    assert SliceVAEConfig.from_dict(values) == SliceVAEConfig.from_dict(SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slice_compression_vae": False}, "not the Slice VAE"),
        ({"act_fn": "gelu"}, "act_fn"),
        ({"mid_block_attention_type": "spatial"}, "mid_block_attention_type"),
        ({"mid_block_num_attention_heads": 2}, "mid_block_num_attention_heads"),
        ({"up_block_types": ["SpatialUpBlock3D"] * 4}, "must agree"),
        ({"ch_mult": [1, 2, 4]}, "one of each per level"),
        ({"ch": 48}, "norm_num_groups"),
        ({"ch_mult": "x("}, "not a list"),
    ],
)
def test_config_of_another_vae_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SliceVAEConfig.from_dict(dict(SMALL, **change))


def test_config_without_the_slice_key_is_the_older_vae():
    with pytest.raises(ValueError, match="V2"):
        SliceVAEConfig.from_dict({key: SMALL[key] for key in SMALL if key != "slice_compression_vae"})


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "no tensor encoder.conv_in.weight"),
        ({"encoder.conv_in.weight": (128, 3, 3, 3)}, "4 dimensions"),
        (
            {"encoder.conv_in.weight": (8, 3, 3, 3, 3), "post_quant_conv.weight": (4, 4, 1, 1, 1)},
            "0 down blocks",
        ),
        (
            {"encoder.conv_in.weight": (8, 3, 3, 3, 3), "post_quant_conv.weight": (16,) * 5},
            "16 latent channels",
        ),
    ],
)
def test_tensors_of_another_model_are_refused(tensors, message):
    with pytest.raises(ValueError, match=message):
        SliceVAEConfig.from_state_dict(tensors)


def test_frame_counts():
    assert [latent_frames(f) for f in (1, 4, 5, 8, 9, 24, 25, 144)] == [1, 1, 2, 2, 3, 6, 7, 36]
    assert [pixel_frames(t) for t in (1, 2, 3, 5, 6, 36)] == [1, 8, 9, 17, 24, 144]
    for frames in (0, -8, 2, 3, 6, 7, 10):
        with pytest.raises(ValueError, match=f"cannot encode {frames} frames"):
            latent_frames(frames)
    with pytest.raises(ValueError, match="at least one"):
        pixel_frames(0)


def test_slices_and_their_context():
    assert slice_spans(20, 8) == [(0, 8), (8, 16), (16, 20)]
    assert slice_spans(17, 8) == [(0, 1), (1, 9), (9, 17)]
    assert [context_span(span, 6, 2) for span in slice_spans(6, 2)] == [(0, 4), (0, 6), (2, 6)]
    assert [context_span(span, 5, 2) for span in slice_spans(5, 2)] == [(0, 1), (1, 5), (1, 5)]
