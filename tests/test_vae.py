"""The Slice VAE against the official release: encode, decode, tiling, decode smoothing."""

import json
from pathlib import Path

import pytest
import torch

from devtools.golden import read_case, relative_error, rule_input, rule_state_dict
from easyanimate_core.vae import SliceVAE, SliceVAEConfig
from easyanimate_core.vae.tiling import Tiling, blended_tiles

GOLDEN = Path(__file__).parent / "golden"
# One forward pass in fp32; a wrong norm epsilon already gives 1e-5.
BOUND = 1e-5


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def vae():
    model = SliceVAE(SliceVAEConfig.from_dict(json.loads((GOLDEN / "vae" / "config.json").read_text())))
    model.load_state_dict(rule_state_dict({name: t.shape for name, t in model.state_dict().items()}))
    return model.eval().requires_grad_(False)


def golden(pattern):
    return [pytest.param(path, id=path.stem) for path in sorted(GOLDEN.glob(pattern))]


# The tiled golden cases are long: test_parity.py runs all of them, here one counts the steps.
@pytest.mark.parametrize("path", golden("vae/encode_frames*.safetensors") + golden("vae/encode_tiled_wide.*"))
def test_encode_matches_the_release(vae, path):
    case, _ = read_case(path)
    pixels = case.get("pixels")
    if pixels is None:
        _, _, latents, height, width = case["mean"].shape
        name = f"vae.{path.stem.removeprefix('encode_')}.pixels"
        pixels = rule_input(name, (1, 3, 4 * latents, 8 * height, 8 * width)).clamp(-1, 1)
    calls = []
    mean, logvar = vae.encode_moments(pixels, on_slice=lambda: calls.append(1))
    assert relative_error(mean, case["mean"]) < BOUND
    assert relative_error(logvar, case["logvar"]) < BOUND
    assert len(calls) == vae.encode_steps(pixels.shape)


@pytest.mark.parametrize("path", golden("vae/decode_latents*.safetensors"))
def test_decode_matches_the_release(vae, path):
    case, _ = read_case(path)
    calls = []
    pixels = vae.decode(case["z"], on_slice=lambda: calls.append(1))
    assert len(calls) == vae.decode_steps(case["z"].shape)
    assert relative_error(pixels, case["pixels"]) < BOUND


@pytest.mark.parametrize("path", golden("pipeline/*.safetensors"))
def test_decode_smoothing_matches_the_release(vae, path):
    case, _ = read_case(path)
    z = case["final_latents"] / vae.config.scaling_factor
    calls = []
    video = vae.decode(z, smoothing=True, on_slice=lambda: calls.append(1))
    assert len(calls) == vae.decode_steps(z.shape, smoothing=True)
    if video.shape[2] > 1:
        assert video.abs().max() <= 1
    assert relative_error((video / 2 + 0.5).clamp(0, 1), case["video"]) < BOUND


def test_slices_do_not_see_each_other_when_encoding(vae):
    pixels = rule_input("independent slices", (1, 3, 17, 16, 16))
    whole = vae.encode(pixels)
    parts = [vae.encode(pixels[:, :, a:b]) for a, b in ((0, 1), (1, 9), (9, 17))]
    assert relative_error(torch.cat(parts, dim=2), whole) < 1e-6


def test_equal_slices_are_encoded_once(vae):
    same, other = rule_input("same", (1, 3, 8, 16, 16)), rule_input("other", (1, 3, 8, 16, 16))
    clip = torch.cat([same, other, same, same, other], dim=2)
    runs, calls = [], []
    handle = vae.encoder.register_forward_hook(lambda *_: runs.append(1))
    try:
        mean, logvar = vae.encode_moments(clip, on_slice=lambda: calls.append(1))
    finally:
        handle.remove()
    assert (len(runs), len(calls)) == (2, 5)
    for moments, index in ((mean, 0), (logvar, 1)):
        parts = [vae.encode_moments(part)[index] for part in (same, other)]
        expected = torch.cat([parts[i] for i in (0, 1, 0, 0, 1)], dim=2)
        assert relative_error(moments, expected) < 1e-6


def test_even_slices_are_kept_for_later_clips(vae):
    """The mask and the black frames of a size are encoded once, however many clips are made of it."""
    model = SliceVAE(vae.config).eval()
    model.load_state_dict(vae.state_dict())
    black, ones = torch.full((1, 3, 16, 16, 24), -1.0), torch.ones(1, 3, 16, 16, 24)
    runs = []
    model.encoder.register_forward_hook(lambda *_: runs.append(1))
    first = [model.encode(clip) for clip in (black, ones)]
    second = [model.encode(clip) for clip in (black, ones)]
    assert len(runs) == 2
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    model.encode(torch.full((1, 3, 16, 16, 16), -1.0))
    model.encode(black * 0.5)
    assert len(runs) == 4
    other = {name: tensor * 1.1 for name, tensor in vae.state_dict().items()}
    model.load_state_dict(other)
    assert relative_error(model.encode(black), first[0]) > 1e-3


def test_tiling_can_be_switched_off(vae):
    pixels = rule_input("wide", (1, 3, 1, 8, 392))
    assert (vae.encode_steps(pixels.shape), vae.encode_steps(pixels.shape, tiled=False)) == (2, 1)
    tiled, whole = vae.encode(pixels), vae.encode(pixels, tiled=False)
    assert tiled.shape == whole.shape == (1, 4, 1, 1, 49)
    assert relative_error(tiled, whole) > 1e-3
    assert vae.decode(whole, tiled=False).shape == pixels.shape


def test_frames_of_384_pixels_are_not_tiled(vae):
    assert vae.encode_steps((1, 3, 8, 384, 384)) == 1
    assert vae.encode_steps((1, 3, 144, 384, 672)) == 18 * 2 * 3
    assert vae.decode_steps((1, 4, 36, 48, 84), smoothing=True) == (18 + 17 + 17) * 2 * 3


def test_tiles_are_mixed_with_the_one_above_and_then_with_the_one_to_the_left():
    numbers = iter(range(1, 5))

    def run(tile):
        return torch.full_like(tile, next(numbers))

    # Four tiles that start every six places and share two.
    whole = torch.zeros(1, 1, 1, 12, 12)
    for top, left, tile in blended_tiles(torch.zeros(1, 1, 1, 12, 12), run, Tiling(8, 8)):
        whole[..., top : top + tile.shape[3], left : left + tile.shape[4]] = tile
    corner = [[1, 1, 1.5, 2], [1, 1, 1.25, 2], [2, 2, 2.375, 3], [3, 3, 3.5, 4]]
    assert whole[0, 0, 0, 5:9, 5:9].tolist() == corner


def test_a_batch_equals_its_clips(vae):
    pixels = rule_input("batch", (2, 3, 9, 16, 24))
    z = vae.encode(pixels)
    assert relative_error(z, torch.cat([vae.encode(clip) for clip in pixels.split(1)])) < BOUND
    assert relative_error(vae.decode(z), torch.cat([vae.decode(clip) for clip in z.split(1)])) < BOUND


# bfloat16 rounds 8 times coarser than float16 (seen: 0.054 and 0.007). Both are very slow here on a CPU: tiny clips.
# No single frames: torch 2.13 convolves those of three channels wrongly in bfloat16 on CPUs with AMX.
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.08), (torch.float16, 0.01)])
def test_half_precision(vae, dtype, bound):
    half = SliceVAE(vae.config, dtype=dtype)
    half.load_state_dict(vae.state_dict())
    pixels = rule_input("half", (1, 3, 8, 8, 8)).clamp(-1, 1)
    z, half_z = vae.encode(pixels), half.encode(pixels.to(dtype))
    assert half_z.dtype == dtype
    assert relative_error(half_z, z) < bound
    decoded, mixed = vae.decode(z), half.decode(z, dtype=dtype)
    assert mixed.dtype == torch.float32
    assert relative_error(mixed, decoded) < bound
    assert half.decode(z.to(dtype)).dtype == dtype


@pytest.mark.parametrize("shape", [(1, 3, 9, 8, 8), (1, 3, 1, 8, 392)], ids=["sliced", "tiled"])
def test_gradients_reach_input_and_weights(vae, shape):
    with torch.enable_grad():
        model = SliceVAE(vae.config)
        model.load_state_dict(vae.state_dict())
        pixels = rule_input("grad", shape).requires_grad_()
        model.decode(model.encode(pixels)).square().mean().backward()
    assert pixels.grad.abs().amax(dim=(0, 1, 3)).min() > 0
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A key bias shifts all scores of a softmax alike, so its gradient is rounding noise or zero.
    assert [name for name in missing if not name.endswith("to_k.bias")] == []


def test_injected_layers_and_attention_are_used(vae):
    shapes = []

    def attention(q, k, v, heads):
        shapes.append((tuple(q.shape), heads))
        return v

    model = SliceVAE(vae.config, attention=attention)
    model.decode(torch.zeros(1, 4, 6, 2, 2))
    assert shapes == [((1, tokens, 64), 1) for tokens in (16, 24, 16)]


def test_on_slice_can_cancel(vae):
    def cancel():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vae.encode(torch.zeros(1, 3, 8, 8, 8), on_slice=cancel)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 0, 16, 16), "cannot encode 0 frames"),
        ((1, 3, 6, 16, 16), "cannot encode 6 frames"),
        ((1, 3, 8, 20, 16), "16x20 pixels; resize or crop both sides to multiples of 8"),
        ((1, 3, 8, 0, 16), "16x0 pixels"),
        ((1, 4, 8, 16, 16), r"\[1, 4, 8, 16, 16\]"),
        ((3, 8, 16, 16), r"\[3, 8, 16, 16\]"),
    ],
)
def test_pixels_that_cannot_be_encoded(vae, shape, message):
    with pytest.raises(ValueError, match=message):
        vae.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 16, 2, 4, 4), (4, 2, 4, 4), (1, 4, 0, 4, 4)])
def test_latents_that_cannot_be_decoded(vae, shape):
    with pytest.raises(ValueError, match="Slice VAE"):
        vae.decode(torch.zeros(shape))
