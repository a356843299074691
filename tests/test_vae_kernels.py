"""The Slice VAE's fast ways on CPUs, and what it does when memory does not reach."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from devtools.golden import relative_error, rule_input, rule_state_dict
from easyanimate_core.vae import SliceVAE, SliceVAEConfig
from easyanimate_core.vae.convolution import convolve, convolve_doubled, double_frames, fast_layout
from easyanimate_core.vae.norm import group_norm, norm_silu

CONFIG = json.loads((Path(__file__).parent / "golden" / "vae" / "config.json").read_text())


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def make(dtype=torch.float32, **changes):
    model = SliceVAE(SliceVAEConfig.from_dict({**CONFIG, **changes}), dtype=dtype)
    model.load_state_dict(rule_state_dict({name: t.shape for name, t in model.state_dict().items()}))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae():
    return make()


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"stride": (2, 2, 2), "padding": (1, 0, 0)},
        {"stride": (1, 2, 2), "padding": (1, 0, 0)},
    ],
    ids=["plain", "half time", "half space"],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_convolve_is_the_layer(options, batch):
    torch.manual_seed(0)
    conv, x = nn.Conv3d(12, 20, 3, **options), torch.randn(batch, 12, 4, 9, 11)
    expected = F.conv3d(x.double(), conv.weight.double(), conv.bias.double(), conv.stride, conv.padding)
    assert relative_error(convolve(conv, x), expected) < 1e-6
    assert relative_error(convolve(conv, fast_layout(x)), expected) < 1e-6


@pytest.mark.parametrize("shape", [(1, 12, 1, 5, 7), (2, 12, 3, 1, 4)])
def test_doubling_is_folded_into_the_convolution(shape):
    torch.manual_seed(0)
    conv, x = nn.Conv3d(12, 20, 3, padding=1), torch.randn(shape)
    doubled = F.interpolate(x.double(), scale_factor=(1, 2, 2), mode="nearest")
    expected = F.conv3d(doubled, conv.weight.double(), conv.bias.double(), padding=1)
    assert relative_error(convolve_doubled(conv, fast_layout(x)), expected) < 1e-6


@pytest.mark.parametrize("shape", [(2, 12, 4, 5, 7), (1, 12, 1, 3, 4)])
def test_doubling_the_frames_is_linear_interpolation(shape):
    torch.manual_seed(0)
    x = torch.randn(shape)
    expected = F.interpolate(x.double(), scale_factor=(2, 1, 1), mode="trilinear", align_corners=False)
    out = double_frames(fast_layout(x))
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    assert relative_error(out, expected) < 1e-6


# The second is a picture of one colour with a brighter border, as black frames are behind the first convolution.
# In the third the first pixel, which counts for where sums begin, is unlike all others.
@pytest.mark.parametrize("kind", ["noise", "nearly even", "one bright pixel"])
@pytest.mark.parametrize("shape", [(1, 64, 2, 40, 48), (2, 64, 1, 3, 5), (1, 64, 7, 88, 104)])
def test_norm_of_both_layouts(kind, shape):
    torch.manual_seed(0)
    norm = nn.GroupNorm(32, 64, eps=1e-6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(shape)
    if kind == "nearly even":
        x = torch.randn(1, 64, 1, 1, 1).expand(shape).clone()
        x[:, :, :, 0] *= 1.02
    if kind == "one bright pixel":
        x = torch.randn(1, 64, 1, 1, 1).expand(shape).clone()
        x[:, :, 0, 0, 0] += 10
    expected = F.group_norm(x.double(), 32, norm.weight.double(), norm.bias.double(), 1e-6)
    for given in (x, fast_layout(x)):
        out = group_norm(norm, given)
        assert out.stride() == given.stride()
        assert relative_error(out, expected) < 5e-6
        assert relative_error(norm_silu(norm, given.clone()), F.silu(expected)) < 5e-6


def test_even_frames_are_encoded_exactly():
    """The mask and the black frames of every clip are even; torch's norm for this layout is off by 1e-3 there."""
    frames = torch.full((1, 3, 8, 64, 64), -1.0)
    exact = make(torch.float64).encode(frames.double())
    assert relative_error(make().encode(frames), exact) < 1e-5


def _fail_above(module, side):
    def hook(_, args):
        if max(args[0].shape[-2:]) > side:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    return module.register_forward_pre_hook(hook)


@pytest.fixture
def wide():
    return rule_input("wide", (1, 3, 8, 16, 400)).clamp(-1, 1)


def test_out_of_memory_takes_the_published_tiles(vae, wide, caplog):
    """With tiling off the whole picture is tried first; what then comes out is the release's."""
    expected = vae.encode(wide)
    handles = [_fail_above(vae.encoder, 384), _fail_above(vae.decoder, 48)]
    try:
        latent = vae.encode(wide, tiled=False)
        pixels = vae.decode(expected, tiled=False, smoothing=True)
    finally:
        for handle in handles:
            handle.remove()
    assert torch.equal(latent, expected)
    assert torch.equal(pixels, vae.decode(expected, smoothing=True))
    assert not torch.equal(pixels, vae.decode(expected, tiled=False, smoothing=True))
    assert caplog.text.count("begins again with tiles of 384 pixels.") == 2


def test_out_of_memory_goes_on_to_smaller_tiles_and_then_says_so(vae, wide, caplog):
    handle = _fail_above(vae.encoder, 100)
    try:
        latent = vae.encode(wide)
    finally:
        handle.remove()
    assert latent.shape == (1, 4, 2, 2, 50)
    assert "tiles of 192 pixels, which differ a little" in caplog.text
    assert "tiles of 96 pixels, which differ a little" in caplog.text
    handle = _fail_above(vae.encoder, 10)
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            vae.encode(wide)
    finally:
        handle.remove()
