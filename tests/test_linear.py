"""Linear layers and norms with what follows them, by the fused kernels and by the layers themselves."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from easyanimate_core.layer_weights import weights_of
from easyanimate_core.linear import gated_linear, linear
from easyanimate_core.transformer.norms import affine_layer_norm

CASES = {
    "alone": ({}, lambda y, other: y),
    "exact gelu": ({"gelu": "none"}, lambda y, other: F.gelu(y)),
    "tanh gelu": ({"gelu": "tanh"}, lambda y, other: F.gelu(y, approximate="tanh")),
    "plus": ({"plus": True}, lambda y, other: y + other),
}


class Called(nn.Linear):
    """A layer of a class that nobody registered, as fp8's of ComfyUI are."""

    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [nn.Linear, Called])
@pytest.mark.parametrize(("options", "expected"), CASES.values(), ids=CASES)
def test_linear_does_what_follows(options, expected, kind, bias):
    torch.manual_seed(0)
    layer, x, other = kind(24, 40, bias=bias), torch.randn(2, 3, 5, 24), torch.randn(2, 3, 5, 40)
    options = {name: other.clone() if value is True else value for name, value in options.items()}
    wanted = expected(F.linear(x, layer.weight, layer.bias), other)
    with torch.no_grad():
        torch.testing.assert_close(linear(layer, x, **options), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [nn.Linear, Called])
def test_gated_linear_is_geglu(kind):
    torch.manual_seed(0)
    layer, x = kind(24, 80), torch.randn(2, 7, 24)
    value, gate = F.linear(x, layer.weight, layer.bias).chunk(2, -1)
    with torch.no_grad():
        torch.testing.assert_close(gated_linear(layer, x), value * F.gelu(gate), rtol=1e-5, atol=1e-6)


def test_gradients_flow_through_every_option():
    layer, x = nn.Linear(8, 8), torch.randn(3, 8, requires_grad=True)
    other = torch.randn(3, 8, requires_grad=True)
    out = linear(layer, x, gelu="tanh") + linear(layer, x, plus=other)
    (out.sum() + gated_linear(layer, x).sum()).backward()
    assert layer.weight.grad.abs().sum() > 0
    assert x.grad.abs().sum() > 0
    assert other.grad.abs().sum() > 0


def test_layers_of_unknown_classes_and_layers_with_hooks_are_called():
    unknown, hooked = Called(4, 4), nn.Linear(4, 4)
    hooked.register_forward_hook(lambda module, args, out: out * 0)
    device = torch.device("cpu")
    assert weights_of(unknown, device, torch.float32) is None
    assert weights_of(hooked, device, torch.float32) is None
    with torch.no_grad():
        linear(unknown, torch.ones(1, 4))
        assert unknown.calls == 1
        assert not linear(hooked, torch.ones(1, 4)).any()


@pytest.mark.parametrize("added", [False, True], ids=["alone", "plus"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norm_with_float32_weights_does_what_follows(dtype, added):
    torch.manual_seed(0)
    norm, x, plus = nn.LayerNorm(48), torch.randn(2, 3, 5, 48).to(dtype), torch.randn(5, 48)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    wanted = F.layer_norm(x.float(), (48,), norm.weight, norm.bias) + (plus if added else 0)
    with torch.no_grad():
        out = affine_layer_norm(norm, x, plus if added else None)
    assert out.dtype == dtype
    # Rounded twice, before and after the affine part.
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(out.float(), wanted, rtol=tolerance, atol=4 * tolerance)
